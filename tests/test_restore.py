import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from synergic import Restorer, SATNet, SynergicError, tiling
from synergic.hardware import pick_precision, total_memory

MakeWeights = Callable[..., Path]


def restorer_of(path: Path, **options: object) -> Restorer:
    return Restorer.from_pretrained(path, device="cpu", precision="float32", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5, 1), (1, 9, 3), (40, 33, 3)])
@pytest.mark.parametrize("colors", [1, 3])
def test_shape_and_dtype_come_back(
    make_weights: MakeWeights, random: np.random.Generator, dtype: type, shape: tuple[int, ...], colors: int
) -> None:
    top = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    image: np.ndarray = (random.random(shape) * top).astype(dtype)
    original = image.copy()
    restored = restorer_of(make_weights(colors=colors))(image)
    assert (restored.shape, restored.dtype) == (image.shape, image.dtype)
    assert (image == original).all(), "the input must not change"
    assert image.size == 1 or (restored != image).any()


def test_depths_agree(make_weights: MakeWeights, random: np.random.Generator) -> None:
    restorer = restorer_of(make_weights())
    image = random.integers(0, 256, (30, 30), np.uint8)
    from_8 = restorer(image) / 255
    from_16 = restorer(image.astype(np.uint16) * 257) / 65535
    from_float = restorer((image / 255).astype(np.float32)).clip(0, 1)
    np.testing.assert_allclose(from_8, from_float, atol=0.51 / 255)
    np.testing.assert_allclose(from_16, from_float, atol=0.51 / 65535 + 1e-6)


def test_gray_stored_as_rgb_stays_gray(make_weights: MakeWeights, random: np.random.Generator) -> None:
    gray = random.integers(0, 256, (20, 20, 1), np.uint8)
    restorer = restorer_of(make_weights(colors=3))
    restored = restorer(np.repeat(gray, 3, axis=2))
    assert (restored == restored[..., :1]).all()
    assert (restored[..., :1] == restorer(gray)).all()


def test_a_gray_network_restores_colour_channel_by_channel(
    make_weights: MakeWeights, random: np.random.Generator
) -> None:
    image = random.integers(0, 256, (20, 22, 3), np.uint8)
    restorer = restorer_of(make_weights(colors=1))
    channels = [restorer(image[..., i]) for i in range(3)]
    assert (restorer(image) == np.stack(channels, 2)).all()


def test_sigma_and_strength_change_the_result(make_weights: MakeWeights, random: np.random.Generator) -> None:
    restorer = restorer_of(make_weights())
    image = random.random((24, 24), np.float32)
    blind, told = restorer(image), restorer(image, sigma=50)
    assert np.abs(blind - told).max() > 1e-4
    np.testing.assert_array_equal(restorer(image, strength=0.0), image)
    np.testing.assert_allclose(restorer(image, strength=0.25), image + 0.25 * (blind - image), atol=1e-6)


def test_ensemble_is_the_mean_of_eight_views(make_weights: MakeWeights, random: np.random.Generator) -> None:
    path = make_weights()
    image = random.random((24, 30), np.float32)
    one = restorer_of(path)
    views = []
    for k in range(8):
        turned = np.rot90(np.fliplr(image) if k >= 4 else image, k % 4)
        back = np.rot90(one(np.ascontiguousarray(turned)), -(k % 4))
        views.append(np.fliplr(back) if k >= 4 else back)
    ensemble = restorer_of(path, ensemble=True)
    np.testing.assert_allclose(ensemble(image), np.mean(views, 0), atol=1e-6)
    batch = ensemble.tensor(torch.from_numpy(image)[None, None]).detach()
    np.testing.assert_allclose(batch[0, 0], np.mean(views, 0), atol=1e-6)


@pytest.mark.usefixtures("no_nnpack")
def test_tiles_agree_with_the_whole_picture(make_weights: MakeWeights, random: np.random.Generator) -> None:
    """Without attention and gates a network sees 8 pixels around each: inside the overlap, so tiles are exact."""
    path = make_weights(local_attention=False, nonlocal_attention=None)
    image = random.random((300, 260), np.float32)
    whole, tiled = restorer_of(path)(image), restorer_of(path, tile_size=128)(image)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


def test_out_of_memory_halves_the_tile(
    make_weights: MakeWeights, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, image = make_weights(), random.random((300, 300), np.float32)
    sizes = []
    whole = tiling.map_tiles

    def limited(function: object, pixels: np.ndarray, tile_size: int, *rest: object) -> np.ndarray:
        sizes.append(tile_size)
        if tile_size > 128:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(function, pixels, tile_size, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(tiling, "map_tiles", limited)
    restored = restorer_of(path, tile_size=512)(image)
    assert sizes == [512, 256, 128]
    monkeypatch.undo()
    np.testing.assert_array_equal(restored, restorer_of(path, tile_size=128)(image))


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("MPS backend out of memory (MPS allocated: 5.83 GB, other allocations: 2.71 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("posix_memalign failed:Cannot allocate memory (12)"),
    RuntimeError("could not create a primitive"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_memory_that_ends_half_way_gives_the_answer_of_tiles_that_fit(
    make_weights: MakeWeights, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path, image, sides = make_weights(), random.integers(0, 256, (300, 300, 3), np.uint8), []
    forward = SATNet.forward

    def limited(network: SATNet, degraded: torch.Tensor, strength: torch.Tensor | None = None) -> torch.Tensor:
        sides.append(max(degraded.shape[2:]))
        if sides[-1] > 128 and len(sides) > 2:
            raise error
        return forward(network, degraded, strength)

    monkeypatch.setattr(SATNet, "forward", limited)
    restored = restorer_of(path, tile_size=256)(image)
    assert min(sides[:3]) > 128 and max(sides[3:]) <= 128, "two tiles, and no third"
    monkeypatch.undo()
    np.testing.assert_array_equal(restored, restorer_of(path, tile_size=128)(image))


STARVE = """
import re, resource, sys
import numpy as np, torch
import synergic.tiling as module
from synergic import Restorer

torch.set_num_threads(1)
whole = dict(device="cpu", precision="float32")
restorer = Restorer.from_pretrained(sys.argv[1], tile_size=1024, **whole)
picture = np.random.default_rng(0).random((1024, 1024), np.float32)
restorer(picture[:64, :64])
used, map_tiles = [], module.map_tiles

def remember(function, pixels, tile_size, *rest):
    used.append(tile_size)
    return map_tiles(function, pixels, tile_size, *rest)

module.map_tiles = remember
size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
for megabytes in (200, 140, 100, 70, 50, 35, 25):
    used.clear()
    resource.setrlimit(resource.RLIMIT_AS, (size + (megabytes << 20), -1))
    starved = restorer(picture)
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    if len(used) > 1:
        break
assert used[:2] == [1024, 512], used
fed = Restorer.from_pretrained(sys.argv[1], tile_size=used[-1], **whole)(picture)
assert (starved == fed).all()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux lets a process be starved")
def test_a_starved_process_halves_its_tiles(make_weights: MakeWeights) -> None:
    done = subprocess.run([sys.executable, "-c", STARVE, make_weights()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
def test_memory_grows_by_a_few_bytes_a_pixel() -> None:
    """So that 100 Mpx take under 3 GB; `python tests/large.py 10000 10000` is the same at length."""
    command = [sys.executable, str(Path(__file__).with_name("large.py")), "6000", "5000"]
    figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert figures["bytes_per_pixel"] > 6, "3 of the input, 3 of the output, and what comes and goes"
    assert figures["before"] + 100 * figures["bytes_per_pixel"] < 2400, "the rest of 3 GB is for a tile in the network"


def test_the_result_is_the_callers_own(make_weights: MakeWeights, random: np.random.Generator) -> None:
    restorer, colour = restorer_of(make_weights()), random.integers(0, 256, (20, 24, 3), np.uint8)
    for image in (colour, np.repeat(colour[..., :1], 3, axis=2), colour[..., :1], colour[..., 0], colour / 255):
        restored = restorer(image)
        before = restored.copy()
        restored += 1
        assert (restored == before + 1).all()


def test_what_cannot_be_computed_is_refused() -> None:
    with pytest.raises(SynergicError, match=r"expected values in about \[0, 1\], got some too large"):
        tiling.restore_picture(lambda tile: tile * np.inf, np.ones((8, 8), np.float32), 128, 2, False, 1.0, None)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_far_from_0_to_1_are_refused(make_weights: MakeWeights, dtype: type) -> None:
    """They would be ruined in silence."""
    restorer = restorer_of(make_weights())
    ramp: np.ndarray = np.linspace(0, 1, 1024, dtype=dtype).reshape(32, 32)
    for low, high, told in ((0, 255, "0 to 255"), (-3, -2, "-3 to -2"), (-0.5, 0.5, "-0.5 to 0.5"), (0, 17, "0 to 17")):
        wanted = rf"picture: expected floats of about 0 \(black\) to 1 \(white\), got {told}; scale them"
        with pytest.raises(SynergicError, match=f"^{wanted}$"):
            restorer((ramp * (high - low) + low).astype(dtype))
    with pytest.raises(SynergicError, match="got -0.5 to -0.5"):
        restorer(np.full((3, 5), -0.5, dtype))
    assert restorer((ramp * 16.25 - 0.25).astype(dtype)).dtype == dtype


def test_strong_noise_below_0_is_no_reason(make_weights: MakeWeights, random: np.random.Generator) -> None:
    noisy = random.normal(0, 75 / 255, (160, 90, 3))
    assert noisy.min() < -1
    assert restorer_of(make_weights())(noisy).shape == noisy.shape


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("can't allocate memory: you tried\nto allocate"), "can't allocate memory: you tried"),
        (RuntimeError("could not create a primitive"), "could not create a primitive"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_out_of_memory_at_the_smallest_tile_is_one_line_with_what_the_library_said(
    make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def full(*_: object) -> np.ndarray:
        raise error

    monkeypatch.setattr(tiling, "map_tiles", full)
    with pytest.raises(SynergicError, match=rf"expected enough for tiles of 200 pixels, got less \({said}\); close"):
        restorer_of(make_weights(), tile_size=200)(np.zeros((4, 4), np.uint8))


def test_other_runtime_errors_pass(make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> np.ndarray:
        raise RuntimeError("a bug")

    monkeypatch.setattr(tiling, "map_tiles", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        restorer_of(make_weights())(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"expected H W, H W 1 or H W 3, got \(4, 4, 4\)"),
        (np.zeros((0, 4), np.uint8), r"got \(0, 4\)"),
        (np.zeros(4, np.uint8), r"got \(4,\)"),
        (np.zeros((4, 4), np.int32), "got int32"),
        (np.full((4, 4), np.nan, np.float32), "expected finite values"),
        ([[0.5]], r"expected a NumPy array, got builtins\.list; pass numpy\.asarray\(\.\.\.\) of it"),
        (Image.new("P", (4, 4)), r"expected a NumPy array, got PIL\.Image\.Image"),
    ],
)
def test_bad_pictures_are_refused(make_weights: MakeWeights, image: Any, message: str) -> None:
    with pytest.raises(SynergicError, match=message):
        restorer_of(make_weights())(image)


def test_subclasses_of_arrays_are_arrays_and_masks_are_refused(make_weights: MakeWeights) -> None:
    restorer, pixels = restorer_of(make_weights()), np.arange(64, dtype=np.uint8).reshape(8, 8)
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(pixels)
    assert np.array_equal(restorer(matrix), restorer(pixels))
    with pytest.raises(SynergicError, match=r"expected a NumPy array, got numpy\.ma.*MaskedArray"):
        restorer(np.ma.masked_array(pixels, pixels > 9))


def test_a_tensor_has_a_gradient_only_if_it_is_asked_for(make_weights: MakeWeights) -> None:
    restorer = restorer_of(make_weights())
    batch = torch.rand(2, 1, 9, 12)
    assert not restorer.tensor(batch).requires_grad
    restored = restorer.tensor(batch.requires_grad_())
    restored.square().sum().backward()
    assert batch.grad is not None
    assert batch.grad.abs().min() > 0


@pytest.mark.parametrize(
    "batch", [torch.zeros(8, 8), torch.zeros(0, 1, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.uint8)]
)
def test_bad_tensors_are_refused(make_weights: MakeWeights, batch: torch.Tensor) -> None:
    with pytest.raises(SynergicError, match=r"expected floats N C H W, got (float32|uint8) \(.*\); convert it"):
        restorer_of(make_weights()).tensor(batch)


def test_any_kind_of_float_is_taken(make_weights: MakeWeights) -> None:
    restorer, batch = restorer_of(make_weights()), torch.rand(1, 1, 8, 8)
    for kind in (torch.float64, torch.float16):
        restored = restorer.tensor(batch.to(kind))
        assert restored.dtype == torch.float32
        assert torch.allclose(restored, restorer.tensor(batch), atol=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": -1}, "sigma: expected 0 to 255, got -1"),
        ({"quality": 10}, "quality: .* works without"),
        ({"sigma": 1, "quality": 1}, "expected one of them"),
        ({"strength": 1.5}, "strength: expected 0 to 1, got 1.5"),
    ],
)
def test_bad_options_are_refused(make_weights: MakeWeights, options: dict[str, float], message: str) -> None:
    with pytest.raises(SynergicError, match=message):
        restorer_of(make_weights())(np.zeros((4, 4), np.uint8), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("quality", [0, 101, -5])
def test_a_quality_that_no_jpeg_has_is_refused(make_weights: MakeWeights, quality: int) -> None:
    restorer = restorer_of(make_weights("jpeg"))
    with pytest.raises(SynergicError, match=f"^quality: expected 1 to 100, got {quality}$"):
        restorer(np.zeros((4, 4), np.uint8), quality=quality)
    assert [restorer.told_strength(None, quality) for quality in (1, 100)] == [0.01, 1.0]


def test_unconditioned_weights_take_no_sigma(make_weights: MakeWeights) -> None:
    restorer = restorer_of(make_weights(conditioned=False))
    with pytest.raises(SynergicError, match="sigma"):
        restorer(np.zeros((4, 4), np.uint8), sigma=10)
    assert restorer(np.zeros((4, 4), np.uint8)).shape == (4, 4)


def test_unknown_device_precision_and_tile_size(make_weights: MakeWeights) -> None:
    with pytest.raises(SynergicError, match="device: expected one that this machine has, got 'abacus'"):
        Restorer.from_pretrained(make_weights(), device="abacus")
    with pytest.raises(SynergicError, match="precision: expected auto, float32 or bfloat16, got 'int4'"):
        Restorer.from_pretrained(make_weights(), precision="int4")
    with pytest.raises(SynergicError, match="tile size: expected at least 128, got 1"):
        Restorer.from_pretrained(make_weights(), tile_size=1)


def test_tensor_keeps_gradients_and_batches(make_weights: MakeWeights) -> None:
    restorer = restorer_of(make_weights())
    x = torch.rand(3, 1, 12, 10, requires_grad=True)
    y = restorer.tensor(x, sigma=25)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    torch.testing.assert_close(y[1:2], restorer.tensor(x[1:2], sigma=25))


def test_bfloat16_is_close_to_float32(make_weights: MakeWeights, random: np.random.Generator) -> None:
    path, image = make_weights(), random.random((40, 40), np.float32)
    rough = Restorer.from_pretrained(path, device="cpu", precision="bfloat16")(image)
    assert 0 < np.abs(rough - restorer_of(path)(image)).max() < 0.02


@pytest.mark.parametrize(
    ("vendor", "flags", "picked"),
    [
        ("AuthenticAMD", "avx2 avx512f avx512_bf16", torch.bfloat16),
        ("AuthenticAMD", "avx2 avx512f", torch.float32),
        ("GenuineIntel", "avx2 avx512f avx512_bf16 amx_bf16", torch.bfloat16),
        ("GenuineIntel", "avx2 avx512f avx512_bf16", torch.float32),  # half as fast there as float32
        ("", "asimd bf16", torch.bfloat16),
        ("", "", torch.float32),
    ],
)
def test_the_processor_chooses_the_precision(
    vendor: str, flags: str, picked: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synergic.hardware.cpu_flags", lambda: set(flags.split()))
    monkeypatch.setattr("synergic.hardware.cpu_information", {"vendor_id": vendor}.get)
    assert pick_precision("auto", torch.device("cpu")) == picked
    assert pick_precision("bfloat16", torch.device("cpu")) == torch.bfloat16


def test_the_memory_of_the_machine_chooses_the_tile(make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2**28 < total_memory(torch.device("cpu")) < 2**45
    for memory, side in ((2**31, 384), (2**32, 768), (2**35, 1152)):
        monkeypatch.setattr("synergic.restore.total_memory", lambda _, memory=memory: memory)
        made = partial(Restorer.from_pretrained, make_weights(), device="cpu")
        assert made(precision="bfloat16").tile_size == side
        assert made(precision="float32").tile_size == min(side, 768)
        assert made(tile_size=256).tile_size == 256
