"""PSNR, SSIM and PSNR-B with their protocols: uint8 pictures, whole image, no border."""

from math import log10

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from synergic.errors import SynergicError

SSIM_SIDE = 11
"""Of SSIM's window, in pixels: no picture may be smaller."""


def psnr(picture: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 pictures H W C: 10 log10(255^2 / mean squared error)."""
    return decibels(mean_squared_error(picture, clean))


def decibels(error: float) -> float:
    """PSNR in dB of a mean squared error on the 0-255 scale; infinite for none."""
    return 10 * log10(255**2 / error) if error > 0 else float("inf")


def mean_squared_error(picture: np.ndarray, clean: np.ndarray) -> float:
    """Mean squared difference over pixels and channels, in float64."""
    _check(picture, clean)
    return float(np.mean((picture.astype(np.float64) - clean.astype(np.float64)) ** 2))


def ssim(picture: np.ndarray, clean: np.ndarray) -> float:
    """Structural similarity of uint8 pictures H W C, 11x11 or larger, mean over channels.

    Z. Wang, A. Bovik, H. Sheikh, E. Simoncelli, "Image quality assessment", IEEE TIP 2004: 11x11 Gaussian window of
    sigma 1.5, valid region only, K = (0.01, 0.03), data range 255.
    """
    _check(picture, clean)
    if min(picture.shape[:2]) < SSIM_SIDE:
        least, got = f"{SSIM_SIDE}x{SSIM_SIDE}", f"{picture.shape[1]}x{picture.shape[0]}"
        raise SynergicError(f"SSIM: expected pictures of at least {least}, got {got}")
    x, y = (torch.from_numpy(p.astype(np.float64)).permute(2, 0, 1)[:, None] for p in (picture, clean))  # C 1 H W
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean().item()


def psnr_b(picture: np.ndarray, clean: np.ndarray, block: int = 8) -> float:
    """PSNR-B in dB of gray uint8 pictures H W 1: PSNR with the blocking of `picture` added to its error.

    C. Yim, A. Bovik, "Quality assessment of deblocked images", IEEE TIP 2011.
    """
    error = mean_squared_error(picture, clean)
    if picture.shape[2] != 1:
        raise SynergicError(f"PSNR-B: expected a gray picture, got {picture.shape[2]} channels; give its luma")
    return decibels(error + blocking_effect(picture[..., 0].astype(np.float64), block))


def blocking_effect(x: np.ndarray, block: int = 8) -> float:
    """Blocking effect factor of a gray picture H W (Yim and Bovik, equations 4 to 9)."""
    across, along = (np.diff(x, axis=axis) ** 2 for axis in (1, 0))
    on_columns = np.arange(1, x.shape[1]) % block == 0
    on_rows = np.arange(1, x.shape[0]) % block == 0
    at_edges = np.concatenate([across[:, on_columns].ravel(), along[on_rows].ravel()])
    elsewhere = np.concatenate([across[:, ~on_columns].ravel(), along[~on_rows].ravel()])
    if min(x.shape) == 1 or at_edges.size == 0 or elsewhere.size == 0 or at_edges.mean() <= elsewhere.mean():
        return 0.0
    weight = np.log2(block) / np.log2(min(x.shape))
    return float(weight * (at_edges.mean() - elsewhere.mean()))


def _blur(x: Tensor) -> Tensor:
    """Valid convolution with the 11x11 Gaussian, separably. N 1 H W -> N 1 H-10 W-10."""
    offsets = torch.arange(-5, 6, dtype=x.dtype)
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = window / window.sum()
    return F.conv2d(F.conv2d(x, window.view(1, 1, 11, 1)), window.view(1, 1, 1, 11))


def _check(picture: np.ndarray, clean: np.ndarray) -> None:
    if picture.shape != clean.shape or picture.ndim != 3 or picture.dtype != np.uint8 or clean.dtype != np.uint8:
        got = f"{picture.dtype} {picture.shape} and {clean.dtype} {clean.shape}"
        raise SynergicError(f"metrics: expected two uint8 pictures H W C of one shape, got {got}")
