"""PSNR, SSIM and PSNR-B: worked by hand, and against scikit-image."""

from collections.abc import Callable
from math import inf, log10

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from synergic.errors import SynergicError
from synergic.metrics import blocking_effect, decibels, mean_squared_error, psnr, psnr_b, ssim


def gray(values: list[list[int]]) -> np.ndarray:
    return np.array(values, np.uint8)[..., None]


def noise(height: int, width: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def test_psnr_by_hand() -> None:
    clean = gray([[0, 0], [0, 0]])
    assert psnr(gray([[10, 10], [10, 10]]), clean) == pytest.approx(28.1308, abs=1e-4)  # 20 log10(25.5)
    assert psnr(gray([[255, 0], [0, 0]]), clean) == pytest.approx(10 * log10(4))
    assert psnr(gray([[255, 255], [255, 255]]), clean) == 0.0
    assert psnr(clean, clean) == inf
    assert decibels(255**2 / 100) == pytest.approx(20)


def test_errors_do_not_wrap_around_and_channels_count_alike() -> None:
    assert mean_squared_error(gray([[0]]), gray([[255]])) == mean_squared_error(gray([[255]]), gray([[0]])) == 255**2
    clean = np.zeros((2, 2, 3), np.uint8)
    degraded = clean.copy()
    degraded[0, 0, 2] = 6
    assert mean_squared_error(degraded, clean) == 36 / 12


@pytest.mark.parametrize(("height", "width", "channels"), [(11, 11, 1), (11, 40, 3), (37, 29, 1), (64, 48, 3)])
@pytest.mark.parametrize("blend", [0.0, 0.2, 0.9])
def test_ssim_is_scikit_images(height: int, width: int, channels: int, blend: float) -> None:
    clean = noise(height, width, channels)
    degraded = ((1 - blend) * clean + blend * noise(height, width, channels, seed=1)).astype(np.uint8)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    wanted = structural_similarity(degraded, clean, channel_axis=2, **options)
    assert ssim(degraded, clean) == pytest.approx(wanted, abs=1e-6)


def test_ssim_of_identical_and_of_flat_pictures() -> None:
    assert ssim(noise(16, 16), noise(16, 16)) == pytest.approx(1, abs=1e-12)
    black, white = np.zeros((12, 12, 1), np.uint8), np.full((12, 12, 1), 255, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(black, white) == pytest.approx(c1 / (255**2 + c1))  # only luminance is left


def test_psnr_b_by_hand() -> None:
    """Two flat halves, 0 and 16, that meet on the grid, beside a clean 8."""
    picture = np.zeros((16, 16, 1), np.uint8)
    picture[:, 8:] = 16
    clean = np.full_like(picture, 8)
    at_edges = 16 * 16**2 / (16 + 16)  # 16 steps of 16 across the column edge, none across the 16 of the row edge
    factor = 3 / 4 * (at_edges - 0)  # log2(8) / log2(16)
    assert blocking_effect(picture[..., 0].astype(float)) == pytest.approx(factor) == 96
    assert psnr_b(picture, clean) == pytest.approx(10 * log10(255**2 / (64 + 96)))
    assert psnr_b(picture, clean, block=16) == psnr(picture, clean)  # no edge of so large a block lies inside


def test_psnr_b_is_psnr_without_blocking() -> None:
    clean = np.full((32, 24, 1), 100, np.uint8)
    ramp = clean + np.arange(24, dtype=np.uint8)[:, None]
    off_grid = clean.copy()
    off_grid[:, 13:] += 9
    for picture in (clean, ramp, off_grid):
        assert psnr_b(picture, clean) == psnr(picture, clean)


@pytest.mark.parametrize("axis", [0, 1])
def test_psnr_b_is_lower_with_an_8x8_grid(axis: int) -> None:
    clean = np.full((32, 24, 1), 100, np.uint8)
    blocks = clean.copy()
    step = 10 * (np.arange(clean.shape[axis]) // 8 % 2).astype(np.uint8)
    blocks += step[:, None] if axis else step[:, None, None]
    assert psnr_b(blocks, clean) < psnr(blocks, clean) - 0.5
    assert psnr_b(blocks, clean) < psnr_b(np.roll(blocks, 3, axis), clean)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 20, 1), (20, 1, 1), (2, 2, 1), (7, 7, 1)])
def test_psnr_b_of_tiny_pictures(shape: tuple[int, ...]) -> None:
    picture, clean = noise(*shape), np.zeros(shape, np.uint8)
    assert psnr_b(picture, clean) <= psnr(picture, clean)


@pytest.mark.parametrize("metric", [psnr, ssim, psnr_b])
@pytest.mark.parametrize(
    ("picture", "clean"),
    [
        (noise(12, 12), noise(12, 13)),
        (noise(12, 12), noise(12, 12, 3)),
        (noise(12, 12)[..., 0], noise(12, 12)[..., 0]),
        (noise(12, 12) / 255, noise(12, 12)),
        (noise(12, 12), noise(12, 12).astype(np.uint16)),
    ],
    ids=["size", "channels", "rank", "float", "uint16"],
)
def test_wrong_shapes_and_types(
    metric: Callable[[np.ndarray, np.ndarray], float], picture: np.ndarray, clean: np.ndarray
) -> None:
    with pytest.raises(SynergicError, match="expected two uint8 pictures H W C of one shape, got"):
        metric(picture, clean)


def test_what_a_metric_is_not_defined_for() -> None:
    with pytest.raises(SynergicError, match="at least 11x11, got 30x10"):
        ssim(noise(10, 30), noise(10, 30))
    with pytest.raises(SynergicError, match="PSNR-B: expected a gray picture, got 3 channels; give its luma"):
        psnr_b(noise(12, 12, 3), noise(12, 12, 3))
