"""Gray and colour, tensors, folders, and batches that depend on (seed, step) alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from synergic.data import Crops, matlab_luma, read_folder, read_pairs, scaled, to_colors, to_tensor, to_uint8
from synergic.degradations import GaussianNoise
from synergic.errors import SynergicError
from synergic.images import Picture, find_pictures, read_pixels, write_picture

DATA = Path(__file__).parents[2] / "shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the shared pictures are not at {DATA}")


def noise(height: int, width: int, channels: int = 3, dtype: str = "uint8") -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(height * width).integers(0, top, (height, width, channels), dtype, endpoint=True)


def write(path: Path, pixels: np.ndarray) -> Path:
    write_picture(path, Picture(pixels, None, {}, None))
    return path


# ---- conversions


def test_gray_is_pillows() -> None:
    pixels = noise(256, 256)
    assert np.array_equal(to_colors(pixels, 1)[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_to_colors(dtype: str) -> None:
    top = 1.0 if dtype == "float32" else np.iinfo(dtype).max
    gray = (np.linspace(0, 1, 12).reshape(3, 4, 1) * top).astype(dtype)
    colour = to_colors(gray, 3)
    assert colour.dtype == gray.dtype and np.array_equal(colour, np.concatenate([gray] * 3, 2))
    assert to_colors(gray, 1) is gray and to_colors(colour, 3) is colour
    back = to_colors(colour, 1)
    assert back.dtype == gray.dtype and back.shape == gray.shape
    assert np.abs(back.astype(float) - gray).max() <= (1e-6 if dtype == "float32" else 0)
    red = np.zeros((1, 1, 3), dtype)
    red[..., 0] = top
    assert to_colors(red, 1).item() == pytest.approx(0.299 * float(top), abs=1e-5 if dtype == "float32" else 0.6)


def test_matlab_luma_by_hand() -> None:
    pixels = np.array([[[0, 0, 0], [255, 255, 255], [100, 150, 200], [255, 0, 0], [120, 132, 124]]], np.uint8)
    # 16 + (65.481 * 100 + 128.553 * 150 + 24.966 * 200) / 255 = 16 + 25.679 + 75.619 + 19.581 = 136.879
    # the last is 125.5, which MATLAB's arithmetic leaves a little below
    assert matlab_luma(pixels)[..., 0].tolist() == [[16, 235, 137, 81, 125]]


@needs_data
def test_matlab_luma_is_the_benchmarks() -> None:
    wanted = {path.stem: path for path, _ in find_pictures([DATA / "eval/live1_luma"])}
    colour = find_pictures([DATA / "eval/live1"])
    assert len(colour) == len(wanted) == 29
    for path, _ in colour:
        assert np.array_equal(matlab_luma(read_pixels(path)), read_pixels(wanted[path.stem])), path.stem


def test_tensors_there_and_back() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(32, 8, 1).repeat(3, 2)
    picture = to_tensor(pixels)
    assert picture.shape == (3, 32, 8) and picture.dtype == torch.float32
    assert picture[:, 0, 1].tolist() == pytest.approx([1 / 255] * 3) and picture.max() == 1
    assert np.array_equal(to_uint8(picture), pixels)
    assert to_tensor(np.array([[[65535, 257]]], np.uint16)).flatten().tolist() == pytest.approx([1, 1 / 255])


def test_to_uint8_clips_and_rounds() -> None:
    values = torch.tensor([-0.3, 1.7, 0.49 / 255, 0.51 / 255, 254.6 / 255], requires_grad=True).view(1, 1, 5)
    assert to_uint8(values)[0, :, 0].tolist() == [0, 255, 0, 1, 255]
    assert to_uint8(values.bfloat16()).dtype == np.uint8


# ---- folders


def test_read_folder(tmp_path: Path) -> None:
    first, second = noise(4, 5), noise(3, 6, 1)
    write(tmp_path / "b.png", first)
    write(tmp_path / "a/c.tif", second)
    write(tmp_path / ".hidden/d.png", first)
    (tmp_path / "notes.txt").write_text("no picture")
    pictures = read_folder(tmp_path)
    assert [name for name, _ in pictures] == [str(Path("a/c")), "b"]
    assert np.array_equal(pictures[0][1], second) and np.array_equal(pictures[1][1], first)
    assert [pixels.shape for _, pixels in read_folder(tmp_path, colors=1)] == [(3, 6, 1), (4, 5, 1)]
    assert [pixels.shape for _, pixels in read_folder(tmp_path, colors=3)] == [(3, 6, 3), (4, 5, 3)]


def test_read_folder_refuses(tmp_path: Path) -> None:
    with pytest.raises(SynergicError, match="expected a folder with pictures, found none"):
        read_folder(tmp_path)
    with pytest.raises(SynergicError, match="nothing is there"):
        read_folder(tmp_path / "missing")
    path = write(tmp_path / "deep.png", noise(4, 4, 1, "uint16"))
    with pytest.raises(SynergicError, match=f"{path}: expected an 8-bit picture, got uint16"):
        read_folder(tmp_path)


# ---- scales


def test_scaled_agrees_with_pillow_and_does_not_alias() -> None:
    picture = noise(90, 70) // 2 + 64  # Pillow rounds and clips between its two passes
    for scale in (0.7, 0.35):
        size = round(70 * scale), round(90 * scale)
        theirs = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(scaled(picture, scale) - theirs).max() <= 1
    assert scaled(picture, 1) is picture
    columns = np.tile(np.array([0, 255], np.uint8), (40, 20))[..., None]  # finer than half the size can show
    assert np.abs(scaled(columns, 0.5)[:, 2:-2].astype(int) - 128).max() <= 2


# ---- crops


def crops(**changes: Any) -> Crops:
    options: dict[str, Any] = {"crop_size": 8, "batch_size": 5, "seed": 3}
    return Crops([noise(20, 31), noise(9, 8)], GaussianNoise(), **(options | changes))


def same(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_batch_is_a_pure_function_of_seed_and_step() -> None:
    first, second = crops(), crops()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    batches = [first[step] for step in (0, 1, 7)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    for step, batch in reversed(list(zip((0, 1, 7), batches, strict=True))):
        assert same(second[step], batch)
    degraded, clean, strength = batches[0]
    assert degraded.shape == clean.shape == (5, 3, 8, 8) and strength.shape == (5,)
    assert {x.dtype for x in batches[0]} == {torch.float32}
    for other in (batches[1], batches[2], crops(seed=4)[0]):
        for i in range(2):
            assert not torch.equal(other[i], batches[0][i])


@pytest.mark.parametrize("batch_size", [4, 5])
def test_ranks_share_the_batch(batch_size: int) -> None:
    whole = crops(batch_size=batch_size)[2]
    for rank in range(2):
        part = crops(batch_size=batch_size, rank=rank, world_size=2)[2]
        assert same(part, tuple(x[rank::2] for x in whole))


class Remember:
    """Leaves the picture as it is and remembers the generator's seed as its strength."""

    def __call__(self, clean: Tensor, generator: Generator) -> tuple[Tensor, float]:
        return clean, float(generator.initial_seed() % 1000)


def test_crops_lie_inside_everywhere_and_every_way_up() -> None:
    """Each pixel of a 4 x 5 picture holds its own position; crops are 3 x 3, in 8 ways up."""
    picture = np.arange(20, dtype=np.uint8).reshape(4, 5, 1)
    _, clean, _ = Crops([picture], Remember(), crop_size=3, batch_size=1200, seed=0)[0]
    seen = Counter(bytes(to_uint8(crop).tobytes()) for crop in clean)
    wanted = set()
    for top in range(2):
        for left in range(3):
            crop = picture[top : top + 3, left : left + 3]
            for turns in range(4):
                turned = np.rot90(crop, turns)
                wanted |= {turned.tobytes(), turned[:, ::-1].tobytes()}
    assert set(seen) == wanted and len(wanted) == 48
    assert min(seen.values()) > 5  # 25 each on average


def test_crops_come_from_every_picture_and_have_their_own_noise() -> None:
    flat = [np.full((8, 8, 1), value, np.uint8) for value in (0, 100, 200)]
    _, clean, strength = Crops(flat, Remember(), crop_size=8, batch_size=60, seed=0)[0]
    assert set(to_uint8(clean[:, :, 0, 0][None]).flatten().tolist()) == {0, 100, 200}
    assert len(set(strength.tolist())) > 50


def test_some_crops_are_sharpened_before_they_are_degraded() -> None:
    """The target is the sharp one; crops that are not drawn stay as they are, and so does their noise."""
    smooth = np.add.outer(np.sin(np.arange(64)), np.sin(np.arange(64) / 2))[..., None]
    pictures = [np.clip(128 + 50 * smooth, 0, 255).astype(np.uint8)]
    for share, low, high in ((0.0, 0, 0), (0.3, 40, 80), (1.0, 200, 200)):
        crops = Crops(pictures, GaussianNoise(), crop_size=16, batch_size=200, seed=0, sharpened=share)
        plain = Crops(pictures, GaussianNoise(), crop_size=16, batch_size=200, seed=0)
        changed = 0
        for index in range(200):
            (degraded, sharp, _), (noisy, clean, _) = crops.sample(0, index), plain.sample(0, index)
            assert sharp.min() >= 0 and sharp.max() <= 1
            if torch.equal(sharp, clean):
                assert torch.equal(degraded, noisy)
                continue
            changed += 1
            assert sharp.std() > clean.std()
        assert low <= changed <= high


def test_some_crops_of_a_colour_network_are_gray_or_toned_and_so_is_their_noise() -> None:
    """The others stay as they are, and so does their noise. What is toned is the gray crop times one colour."""
    pictures = [np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)]
    plain = Crops(pictures, GaussianNoise(), crop_size=16, batch_size=200, seed=0)
    for share, low, high in ((0.0, 0, 0), (0.3, 40, 80), (1.0, 200, 200)):
        crops = Crops(pictures, GaussianNoise(), crop_size=16, batch_size=200, seed=0, gray=share)
        changed = toned = 0
        for index in range(200):
            (degraded, gray, _), (noisy, clean, _) = crops.sample(0, index), plain.sample(0, index)
            assert degraded.shape == gray.shape == (3, 16, 16)
            if torch.equal(gray, clean):
                assert torch.equal(degraded, noisy)
                continue
            changed += 1
            tone = gray[:, 8, 8] / clean[:, 8, 8].mean()
            toned += not torch.equal(gray[0], gray[2])
            assert tone.max().item() == pytest.approx(1) and tone.min() > 0.6
            assert torch.allclose(gray, tone[:, None, None] * clean.mean(0), atol=1e-5)
            assert torch.allclose(degraded, tone[:, None, None] * (degraded / tone[:, None, None])[:1], atol=1e-4)
            assert torch.equal(gray[0], gray[2]) == torch.equal(degraded[0], degraded[2])
        assert low <= changed <= high and 0.35 * changed <= toned <= 0.65 * changed


@pytest.mark.parametrize(("worst", "line"), [(255.0, "expected floats of about 0"), (np.nan, "expected finite values")])
def test_floats_that_are_no_share_of_white_are_refused_by_name(tmp_path: Path, worst: float, line: str) -> None:
    pixels = np.full((16, 16, 1), 0.5, np.float32)
    write(tmp_path / "good.tif", pixels)
    assert len(read_folder(tmp_path, eight_bit=False)) == 1
    pixels[8:] = worst
    write(tmp_path / "bad.tif", pixels)
    with pytest.raises(SynergicError, match=rf"bad\.tif: picture: {line}"):
        read_folder(tmp_path, eight_bit=False)


# ---- pairs


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("colors", [1, 3])
def test_pairs_are_cropped_turned_and_flipped_together(tmp_path: Path, dtype: str, colors: int) -> None:
    clean = noise(20, 31, colors, dtype) // 2
    write(tmp_path / "clean" / "a.tif", clean)
    write(tmp_path / "clean" / "alone.tif", clean)
    write(tmp_path / "degraded" / "a.tif", clean + 9)
    pairs = read_pairs(tmp_path / "clean", tmp_path / "degraded", colors)
    assert list(pairs) == ["a"]
    degraded, clean_crops, strength = Crops([pairs["a"]], GaussianNoise(), crop_size=8, batch_size=40, seed=0)[0]
    assert degraded.shape == (40, colors, 8, 8)
    assert (degraded - clean_crops).numpy() == pytest.approx(9 / np.iinfo(dtype).max, abs=1e-6)
    assert strength.tolist() == [-1.0] * 40
    assert len({crop.numpy().tobytes() for crop in clean_crops}) > 30


def test_a_degraded_picture_without_its_clean_one_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "clean" / "a.png", noise(8, 8))
    write(tmp_path / "degraded" / "b.png", noise(8, 8))
    with pytest.raises(SynergicError, match=r"b: expected a clean picture \(8, 8, 3\) uint8, got none"):
        read_pairs(tmp_path / "clean", tmp_path / "degraded", 3)
    write(tmp_path / "clean" / "b.png", noise(9, 8))
    with pytest.raises(SynergicError, match=r"got \(9, 8, 3\) uint8"):
        read_pairs(tmp_path / "clean", tmp_path / "degraded", 3)


@pytest.mark.parametrize("folder", ["clean", "degraded"])
def test_two_pictures_of_one_name_make_no_pair(tmp_path: Path, folder: str) -> None:
    for name in ("clean", "degraded"):
        write(tmp_path / name / "a.png", noise(8, 8))
    write(tmp_path / folder / "a.tif", noise(8, 8))
    with pytest.raises(SynergicError, match=f"{folder}: a: expected one picture of this name, got two suffixes"):
        read_pairs(tmp_path / "clean", tmp_path / "degraded", 3)
