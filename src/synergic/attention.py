"""Non-local attention over patches and over pixels, as functions.

General form (Wang et al., "Non-local neural networks", CVPR 2018): y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j).
Here i and j run over overlapping patches (Mou and Zhang, SAT-Net, ICASSP 2021); a pixel is a patch of size 1.

Maps are channels-last, N H W C: a patch is then a few contiguous rows, and a PyTorch ``channels_last`` tensor
becomes such a map by ``permute(0, 2, 3, 1)`` without a copy.

Shape letters: N batch, H W map, C channels, h w patch grid, p patch size, L queries, M keys, D = p*p*C patch length.
"""

from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def patch_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: Tensor | float,
    patch_size: int = 7,
    stride: int = 4,
    key_stride: int | None = None,
    window: int | None = None,
    halo: int = 0,
    chunk: int | None = None,
) -> Tensor:
    """Patch-wise non-local attention: softmax(scale * Q K^T) V over overlapping patches, folded back by averaging.

    q, k: N H W C; v: N H W E; all of one height and width, from 1x1 on. Returns N H W E.
    Maps are zero-padded so that ceil(H / stride) x ceil(W / stride) patches cover every pixel: stride <= patch_size.
    `key_stride`: step between key patches, `stride` unless given (1 compares with every position).
    `window`, `halo`: queries are taken in windows of `window` x `window` pixels, and each sees the keys of its window
    and of `halo` pixels around it, so that time is linear in the map's area; both are multiples of the strides. A map
    no larger than a window with its halo is compared whole, as is every map without a window.
    `chunk`: at most this many queries of a whole map are compared at once, so that memory is linear in the number of
    patches (also for gradients: the chunk's similarities are computed again in the backward pass).
    """
    height, width = q.shape[1:3]
    key_stride = key_stride or stride
    h, w = ceil(height / stride), ceil(width / stride)
    if window is None or max(height, width) <= window + 2 * halo:
        queries = patches(q * scale, patch_size, stride)
        keys, values = patches(k, patch_size, key_stride), patches(v, patch_size, key_stride)
        attended = attend(queries, keys, values, chunk=chunk).view(len(q), h, w, -1)
        top, left = grid_padding(height, patch_size, stride)[0], grid_padding(width, patch_size, stride)[0]
    else:
        top = left = max(0, patch_size - stride) // 2
        attended = attend_in_windows(q * scale, k, v, patch_size, stride, key_stride, window, halo)[:, :h, :w]
    total = fold(attended.unflatten(3, (patch_size, patch_size, -1)), stride)
    rows = overlap_count(h, patch_size, stride)[top : top + height].to(total)
    columns = overlap_count(w, patch_size, stride)[left : left + width].to(total)
    return total[:, top : top + height, left : left + width] / (rows[:, None] * columns)[..., None]


def pixel_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: Tensor | float,
    window: int | None = None,
    halo: int = 0,
    chunk: int | None = None,
) -> Tensor:
    """Pixel-wise non-local attention (Wang et al.): `patch_attention` with patches of one pixel. Same shapes."""
    return patch_attention(q, k, v, scale=scale, patch_size=1, stride=1, window=window, halo=halo, chunk=chunk)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, chunk: int | None = None) -> Tensor:
    """softmax(q k^T + bias) v. q: N L D, k: N M D, v: N M E, bias: N M or None. Returns N L E."""
    if chunk is None or q.shape[1] <= chunk:
        return _attend(q, k, v, bias)
    parts = q.split(chunk, dim=1)
    k = k.mT.contiguous().mT  # a product in bfloat16 would transpose them anew for every part
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(_attend, part, k, v, bias, use_reentrant=False) for part in parts], 1)
    return torch.cat([_attend(part, k, v, bias) for part in parts], 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    similarity = q @ k.transpose(1, 2)  # N L M
    if bias is not None:
        similarity = similarity + bias[:, None]
    return similarity.softmax(2).to(v.dtype) @ v


def attend_in_windows(
    q: Tensor, k: Tensor, v: Tensor, patch_size: int, stride: int, key_stride: int, window: int, halo: int
) -> Tensor:
    """Query patches in windows, each with the key patches of its window and of `halo` pixels around it.

    q, k: N H W C, v: N H W E. Returns N h w D, at least the patches that cover the map. One row of windows at a time,
    so that memory stays small.
    """
    height, width = q.shape[1:3]
    rows, columns = ceil(height / window), ceil(width / window)
    own, seen, reach = window // stride, (window + 2 * halo) // key_stride, halo // key_stride  # patches on a side
    q = pad_to_windows(q, patch_size, stride, window, 0)
    k, v = (pad_to_windows(x, patch_size, key_stride, window, halo) for x in (k, v))
    missing = [count * window // key_stride - ceil(n / key_stride) for count, n in ((rows, height), (columns, width))]
    outside = k.new_zeros(1, ceil(height / key_stride), ceil(width / key_stride), 1)
    outside = F.pad(outside, (0, 0, reach, missing[1] + reach, reach, missing[0] + reach), value=float("-inf"))
    strips = []
    for row in range(rows):
        queries = window_patches(q[:, row * window :], own, patch_size, stride, window)
        keys, values = (window_patches(x[:, row * window :], seen, patch_size, key_stride, window) for x in (k, v))
        bias = window_patches(outside[:, row * window // key_stride :], seen, 1, 1, window // key_stride)
        attended = attend(queries, keys, values, bias[..., 0].repeat(len(q), 1))  # N*columns own*own D
        strips.append(fold(attended.view(len(q), 1, columns, own, own, -1), own))
    return torch.cat(strips, 1)


def pad_to_windows(x: Tensor, patch_size: int, stride: int, window: int, halo: int) -> Tensor:
    """Zero-pad an N H W C map so that windows with their halo of patches cover it.

    What comes before the first patch does not depend on the map's size: a part of a map that begins where a window does
    has its patches where the whole map has them.
    """
    margins = [0, 0]
    for length in (x.shape[2], x.shape[1]):
        before = max(0, patch_size - stride) // 2 + halo
        whole = ceil(length / window) * window + 2 * halo - stride + patch_size
        margins += [before, whole - before - length]
    return F.pad(x, margins)


def window_patches(x: Tensor, side: int, patch_size: int, stride: int, window: int) -> Tensor:
    """The patches of the uppermost row of windows, `side` x `side` each. N H W C -> N*columns side*side D."""
    size = (side - 1) * stride + patch_size  # of a window with its halo
    windows = unfold(x[:, :size], size, window).flatten(0, 2)  # N*columns size size C
    return unfold(windows, patch_size, stride).flatten(3).flatten(1, 2)


def patches(x: Tensor, patch_size: int, stride: int) -> Tensor:
    """The patches that cover a zero-padded map. N H W C -> N L D, ceil(H / stride) x ceil(W / stride) of them."""
    top, bottom = grid_padding(x.shape[1], patch_size, stride)
    left, right = grid_padding(x.shape[2], patch_size, stride)
    return unfold(F.pad(x, (0, 0, left, right, top, bottom)), patch_size, stride).flatten(3).flatten(1, 2)


def grid_padding(length: int, patch_size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis so that ceil(length / stride) patches cover it exactly."""
    missing = max(0, (ceil(length / stride) - 1) * stride + patch_size - length)
    return missing // 2, missing - missing // 2


def overlap_count(grid: int, patch_size: int, stride: int) -> Tensor:
    """How many of `grid` patches cover each position of an axis. Shape ((grid - 1) * stride + patch_size,)."""
    return _fold(torch.ones(1, grid, 1, patch_size, 1, 1), stride)[0, :, 0, 0]


def unfold(x: Tensor, patch_size: int, stride: int) -> Tensor:
    """Overlapping patches of a map. N H W C -> N h w p p C, where H = (h - 1) * stride + p, W likewise.

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
        ctx.stride = stride
        return _unfold(x, patch_size, stride)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        return fold(gradient, ctx.stride), None, None


class _Fold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, patches: Tensor, stride: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.patch_size, ctx.stride = patches.shape[3], stride
        return _fold(patches, stride)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return unfold(gradient, ctx.patch_size, ctx.stride), None
