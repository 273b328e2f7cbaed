"""The same answer: every time, with any number of threads, in tiles as whole."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut, coffee, rocket

from conftest import save
from synergic import Restorer
from synergic.batch import Job, Options, restore_files
from synergic.hardware import gains_from_bfloat16
from synergic.tiling import TILE_SIZE, map_tiles
from tiles import degrade, psnr, restore, seams, strips, widened

MakeWeights = Callable[..., Path]
CROP = np.ascontiguousarray(astronaut()[:140, 200:340])
STRIP = CROP[:72]


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "picture"), [("photo", STRIP), ("gray-denoise", STRIP[..., :1])], ids=["photo", "gray-denoise"]
)
def test_twenty_times_the_same_bytes(name: str, picture: np.ndarray) -> None:
    restorer = Restorer.from_pretrained(name, device="cpu", tile_size=128)
    answers = {restorer(picture).tobytes() for _ in range(19)}
    answers.add(Restorer.from_pretrained(name, device="cpu", tile_size=128)(picture).tobytes())
    assert len(answers) == 1


def test_files_are_the_same_byte_for_byte(tmp_path: Path, make_weights: MakeWeights) -> None:
    options = Options(weights=str(make_weights()), device="cpu")
    for suffix in (".png", ".jpg", ".tif", ".webp"):
        source = save(tmp_path / f"in{suffix}", CROP)
        targets = [tmp_path / f"{i}{suffix}" for i in range(3)]
        list(restore_files([Job(source, target) for target in targets], options))
        assert len({target.read_bytes() for target in targets}) == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["photo", "gray-denoise"])
def test_thread_counts_agree_to_one_level(name: str, precision: str, threads: None) -> None:
    restorer = Restorer.from_pretrained(name, device="cpu", precision=precision)
    answers = []
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        answers.append(restorer(STRIP).astype(int))
    assert max(np.abs(answer - answers[0]).max() for answer in answers) <= 1


@pytest.mark.parametrize("name", ["photo", "gray-denoise"])
@pytest.mark.parametrize("picture", [coffee, rocket])
def test_tiles_agree_with_the_whole_picture_and_meet_without_a_seam(
    name: str, picture: Callable[[], np.ndarray]
) -> None:
    """Ten photographs at length: `python tests/tiles.py FOLDER`. In bfloat16 tiles round otherwise than the whole
    picture does, which is harmless where they are as near to it in float32."""
    degraded = degrade(widened(picture()[100:300]), name)
    restorer = Restorer.from_pretrained(name, device="cpu", precision="float32")
    whole, tiled = restore(restorer, degraded)
    assert psnr(whole, tiled) > 74
    assert_no_seam(whole, tiled, restorer)
    if gains_from_bfloat16(torch.device("cpu")):  # where it is slow nobody is given it
        restorer = Restorer.from_pretrained(name, device="cpu", precision="bfloat16")
        rounded, rounded_tiled = restore(restorer, degraded)
        assert psnr(whole, rounded_tiled) > psnr(whole, rounded) - 0.5
        assert_no_seam(rounded, rounded_tiled, restorer)


def assert_no_seam(whole: np.ndarray, tiled: np.ndarray, restorer: Restorer) -> None:
    found = seams(whole, tiled, TILE_SIZE, restorer.align)
    assert len(found) == 1, "two tiles"
    assert max(map(abs, found)) < 0.01


def test_the_size_of_tiles_makes_no_difference() -> None:
    """That of this machine, and those of one with less memory; a picture with a dark and a bright end."""
    ramp = np.linspace(0, 1.2, 800)[:, None] * widened(rocket()[150:250])[:, 100:900]
    degraded = degrade(ramp.clip(0, 255).astype(np.uint8), "gray-denoise")
    restorer = Restorer.from_pretrained("gray-denoise", device="cpu", precision="float32")
    whole, half = restore(restorer, degraded, 384)
    assert psnr(whole, half) > 74
    assert psnr(whole, restore(restorer, degraded, 256)[1]) > 70
    if gains_from_bfloat16(torch.device("cpu")):
        restorer = Restorer.from_pretrained("gray-denoise", device="cpu", precision="bfloat16")
        rounded, rounded_half = restore(restorer, degraded, 384)
        assert psnr(whole, rounded_half) > psnr(whole, rounded) - 0.5
        assert psnr(whole, restore(restorer, degraded, 256)[1]) > psnr(whole, rounded) - 1.5


def test_a_picture_that_one_tile_holds_is_seen_whole() -> None:
    """As benchmarks are; and a wider one agrees with it."""
    restorer = Restorer.from_pretrained("gray-denoise", device="cpu")
    degraded = degrade(np.pad(CROP, ((0, 0), (0, 768 - CROP.shape[1]), (0, 0))), "gray-denoise")
    tensor = torch.from_numpy(degraded).permute(2, 0, 1)[None]
    with torch.inference_mode():
        wanted = restorer.tensor(tensor)[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(restorer(degraded), wanted)
    wider = np.pad(degraded, ((0, 0), (0, 64), (0, 0)), "edge")
    assert psnr(restorer(wider)[:, :640], wanted[:, :640]) > 66


def test_the_detector_finds_a_seam() -> None:
    """Tiles that start anywhere but where the windows do, a bare edge of two levels, and a strip that is too smooth."""
    noisy = degrade(np.full((300, 900, 3), 128, np.uint8), "gray-denoise")
    smooth = np.cumsum(np.cumsum(noisy - 0.5, 0), 1) / 500
    ((start, stop),) = strips(900, 576, 64)
    assert max(map(abs, seams(smooth, smooth, 576, 64))) == 0
    edge, soft = smooth.copy(), smooth.copy()
    edge[:, (start + stop) // 2 :] += 2 / 255
    soft[:, start:stop] = (smooth[:, start:stop] + np.roll(smooth, 3, axis=1)[:, start:stop]) / 2
    for picture in (edge, soft):
        assert max(map(abs, seams(smooth, picture, 576, 64))) > 0.02


def test_tiles_start_where_windows_do(make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    """With gates that see nothing of the tile, aligned tiles are the whole picture away from their borders."""
    monkeypatch.setattr("synergic.network.BranchGate.weight", lambda _, *x: torch.full((1, 1, 1, 1), 0.5).to(x[0]))
    weights = make_weights(window=8, halo=4, patch_size=5)
    restorer = Restorer.from_pretrained(weights, device="cpu", precision="float32")
    degraded = np.random.default_rng(0).random((20, 300, 1)).astype(np.float32)
    whole, tiled = restore(restorer, degraded, 128)
    assert restorer.align == 16
    np.testing.assert_allclose(tiled, whole, atol=1e-4)
    monkeypatch.setattr("synergic.tiling.map_tiles", unaligned)
    assert np.abs(replace(restorer, tile_size=128)(degraded) - whole).max() > 4e-4


def unaligned(*arguments: object) -> np.ndarray:
    return map_tiles(*arguments[:5])  # type: ignore[arg-type]
