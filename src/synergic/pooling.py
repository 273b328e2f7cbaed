"""Means over windows of a map, and values between windows: a product with one small matrix for each axis.

Windows of `size` positions begin every `STEP` positions, the last one where it ends with the axis; an axis no longer
than that has one window. A part of a map that begins at a multiple of `STEP` has its windows where the whole has them.
Shape letters: N C H W as in network.py, h w the windows along H and W.
"""

import torch
from torch import Tensor

STEP = 16
"""Positions from one window to the next. Steps of 8 and of 32 differ by less than 0.005 dB, of either sign."""


def window_means(x: Tensor, size: int) -> Tensor:
    """The mean of every window. N C H W -> N h w C."""
    n, channels, height, width = x.shape
    rows, columns = (averaging(length, size, x.device).to(x) for length in (height, width))
    lines = rows @ x.permute(0, 2, 3, 1).reshape(n, height, width * channels)  # N h W*C
    return columns @ lines.view(n, -1, width, channels)


def between_windows(values: Tensor, height: int, width: int, size: int) -> Tensor:
    """One value for each window, on to every position: linear between the windows' middles, constant beyond the first
    and the last. N h w C -> N C H W, channels-last."""
    n, h, _, channels = values.shape
    rows, columns = (interpolation(length, size, values.device).to(values) for length in (height, width))
    lines = (columns @ values).view(n, h, width * channels)
    return (rows @ lines).view(n, height, width, channels).permute(0, 3, 1, 2)


def averaging(length: int, size: int, device: torch.device | None = None) -> Tensor:
    """The matrix h H of an axis whose rows sum to 1: each is the mean of a window."""
    starts, size = window_starts(length, size, device), min(size, length)
    after_start = torch.arange(length, device=device) - starts[:, None]
    return ((after_start >= 0) & (after_start < size)) / size


def interpolation(length: int, size: int, device: torch.device | None = None) -> Tensor:
    """The matrix H h of an axis whose rows sum to 1: each has the shares of two neighbouring windows."""
    starts = window_starts(length, size, device)  # as far apart as the windows' middles
    behind = torch.arange(length, device=device)[:, None] + 0.5 - min(size, length) / 2 - starts[:-1]
    passed = (behind / starts.diff()).clamp(0, 1)  # H h-1: how far a position is from a middle to the next
    first, last = passed.new_ones(length, 1), passed.new_zeros(length, 1)
    return torch.cat([first, passed], 1) - torch.cat([passed, last], 1)


def window_starts(length: int, size: int, device: torch.device | None = None) -> Tensor:
    """Where the windows of an axis begin."""
    last = max(0, length - size)
    return torch.arange(0, last + STEP, STEP, device=device).clamp(max=last)
