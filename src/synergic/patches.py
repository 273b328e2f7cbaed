"""Overlapping patches of maps: cut out, laid on a grid, added up again.

Maps are channels-last, N H W C: a patch is then a few contiguous rows, and a PyTorch ``channels_last`` tensor
becomes such a map by ``permute(0, 2, 3, 1)`` without a copy.

Shape letters: N batch, H W map, C channels, h w patch grid, p patch size, L patches of a map, D = p*p*C patch length.
"""

from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_to_grid(x: Tensor, patch_size: int, stride: int) -> Tensor:
    """A map in zeros that ceil(H / stride) x ceil(W / stride) patches cover, which ends with the last one's `extent`.
    N H W C -> N H' W' C."""
    margins = [0, 0]
    for length in (x.shape[2], x.shape[1]):
        before = grid_padding(length, patch_size, stride)[0]
        whole = (ceil(length / stride) - 1) * stride + extent(patch_size, stride)
        margins += [before, whole - before - length]
    return F.pad(x, margins)


def extent(patch_size: int, stride: int) -> int:
    """Pixels along an axis of the cells of stride x stride that a patch reaches into."""
    return ceil(patch_size / stride) * stride


def patches(x: Tensor, patch_size: int, stride: int) -> Tensor:
    """The patches that cover a zero-padded map. N H W C -> N L D, ceil(H / stride) x ceil(W / stride) of them."""
    return unfold(pad_to_grid(x, patch_size, stride), patch_size, stride).flatten(3).flatten(1, 2)


def grid_padding(length: int, patch_size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis so that ceil(length / stride) patches cover it exactly."""
    missing = max(0, (ceil(length / stride) - 1) * stride + patch_size - length)
    return missing // 2, missing - missing // 2


def overlap_count(grid: int, patch_size: int, stride: int, device: torch.device | None = None) -> Tensor:
    """How many of `grid` patches cover each position of an axis. Shape ((grid - 1) * stride + patch_size,)."""
    return _fold(torch.ones(1, grid, 1, patch_size, 1, 1, device=device), stride)[0, :, 0, 0]


def unfold(x: Tensor, patch_size: int, stride: int) -> Tensor:
    """Overlapping patches of a map. N H W C -> N h w p p C, where H >= (h - 1) * stride + p, W likewise.

    The adjoint of `fold`: each is the other's gradient, several times faster than differentiating strided views.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return _Unfold.apply(x, patch_size, stride)  # type: ignore[no-untyped-call]
    return _unfold(x, patch_size, stride)


def fold(patches: Tensor, stride: int) -> Tensor:
    """Sum overlapping patches into a map. N h w p p C -> N H W C. The adjoint of `unfold`."""
    if torch.is_grad_enabled() and patches.requires_grad:
        return _Fold.apply(patches, stride)  # type: ignore[no-untyped-call]
    return _fold(patches, stride)


def _unfold(x: Tensor, patch_size: int, stride: int) -> Tensor:
    return x.unfold(1, patch_size, stride).unfold(2, patch_size, stride).permute(0, 1, 2, 4, 5, 3).contiguous()


def _fold(patches: Tensor, stride: int) -> Tensor:
    """The map in cells of stride x stride: every patch adds its pieces to the few cells that it overlaps. Sums of
    bfloat16 are kept in float32: rounded once, and twice as fast on a CPU, whose sums in bfloat16 are slow."""
    n, h, w, p, _, c = patches.shape
    reach = ceil(p / stride)  # cells per axis that a patch overlaps
    wide = patches.float() if patches.dtype == torch.bfloat16 else patches
    cells = wide.new_zeros(n, h + reach - 1, stride, w + reach - 1, stride, c)
    for i in range(reach):
        for j in range(reach):
            piece = wide[:, :, :, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride]  # N h w a b C
            a, b = piece.shape[3:5]
            cells[:, i : i + h, :a, j : j + w, :b] += piece.permute(0, 1, 3, 2, 4, 5)
    x = cells.to(patches).view(n, (h + reach - 1) * stride, (w + reach - 1) * stride, c)
    return x[:, : (h - 1) * stride + p, : (w - 1) * stride + p]


class _Unfold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, patch_size: int, stride: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.size, ctx.stride = x.shape[1:3], stride
        return _unfold(x, patch_size, stride)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        covered = fold(gradient, ctx.stride)
        bottom, right = (length - reached for length, reached in zip(ctx.size, covered.shape[1:3], strict=True))
        return F.pad(covered, (0, 0, 0, right, 0, bottom)), None, None


class _Fold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, patches: Tensor, stride: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.patch_size, ctx.stride = patches.shape[3], stride
        return _fold(patches, stride)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return unfold(gradient, ctx.patch_size, ctx.stride), None
