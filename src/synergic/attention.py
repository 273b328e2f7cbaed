"""Non-local attention over patches and over pixels, as functions.

General form (Wang et al., "Non-local neural networks", CVPR 2018): y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j).
Here i and j run over overlapping patches (Mou and Zhang, SAT-Net, ICASSP 2021); a pixel is a patch of size 1.

Maps are channels-last, N H W C: a patch is then a few contiguous rows, and a PyTorch ``channels_last`` tensor
becomes such a map by ``permute(0, 2, 3, 1)`` without a copy.

Shape letters: N batch, H W map, C channels, h w patch grid, p patch size, L queries, M keys, D = p*p*C patch length.
"""

from collections.abc import Callable
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
    chunk: int | None = None,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Patch-wise non-local attention: softmax(scale * Q K^T) V over overlapping patches, folded back by averaging.

    q, k: N H W C; v: N H W E; all of one height and width, from 1x1 on. Returns N H W E.
    Maps are zero-padded so that ceil(H / stride) x ceil(W / stride) patches cover every pixel: stride <= patch_size.
    `key_stride`: step between key patches, `stride` unless given (1 compares with every position).
    `chunk`: at most this many queries are compared at once, so that memory is linear in the number of patches
    (also for gradients: the chunk's similarities are computed again in the backward pass). None compares all at once.
    `key_mask`: N H W 1, zero where a pixel is outside the picture; key patches without any pixel inside are ignored.
    """
    height, width = q.shape[1:3]
    key_stride = key_stride or stride
    queries = unfold(pad_to_grid(q, patch_size, stride), patch_size, stride)  # N h w p p C
    keys = unfold(pad_to_grid(k, patch_size, key_stride), patch_size, key_stride).flatten(3).flatten(1, 2)  # N M D
    values = unfold(pad_to_grid(v, patch_size, key_stride), patch_size, key_stride)  # N . . p p E
    bias = None
    if key_mask is not None:
        inside = unfold(pad_to_grid(key_mask, patch_size, key_stride), patch_size, key_stride).flatten(3).amax(3)
        bias = torch.zeros_like(inside).masked_fill(inside == 0, float("-inf")).flatten(1)  # N M
    n, grid_h, grid_w = queries.shape[:3]
    attended = attend(queries.flatten(3).flatten(1, 2), keys, values.flatten(3).flatten(1, 2), scale, bias, chunk)
    patches = attended.view(n, grid_h, grid_w, patch_size, patch_size, v.shape[3])  # N L D -> N h w p p E
    top, left = grid_padding(height, patch_size, stride)[0], grid_padding(width, patch_size, stride)[0]
    covered = fold(patches, stride)[:, top : top + height, left : left + width]
    rows = overlap_count(grid_h, patch_size, stride)[top : top + height].to(covered)
    columns = overlap_count(grid_w, patch_size, stride)[left : left + width].to(covered)
    return covered / (rows[:, None] * columns)[..., None]


def pixel_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: Tensor | float, chunk: int | None = None, key_mask: Tensor | None = None
) -> Tensor:
    """Pixel-wise non-local attention (Wang et al.): `patch_attention` with patches of one pixel. Same shapes."""
    return patch_attention(q, k, v, scale=scale, patch_size=1, stride=1, chunk=chunk, key_mask=key_mask)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: Tensor | float, bias: Tensor | None, chunk: int | None) -> Tensor:
    """softmax(scale * q k^T + bias) v. q: N L D, k: N M D, v: N M E, bias: N M or None. Returns N L E."""
    if chunk is None or q.shape[1] <= chunk:
        return _attend(q, k, v, scale, bias)
    parts = q.split(chunk, dim=1)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(_attend, part, k, v, scale, bias, use_reentrant=False) for part in parts], 1)
    return torch.cat([_attend(part, k, v, scale, bias) for part in parts], 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: Tensor | float, bias: Tensor | None) -> Tensor:
    similarity = (q * scale) @ k.transpose(1, 2)  # N L M
    if bias is not None:
        similarity = similarity + bias[:, None].to(similarity)
    return similarity.softmax(2).to(v.dtype) @ v


def in_windows(
    attention: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, window: int, halo: int, tokens: int = 1 << 17
) -> Tensor:
    """`attention(q, k, v, key_mask=...)` inside windows of the map: time is linear in the map's area.

    The map is cut into `window` x `window` cores; each is computed from itself and `halo` pixels around it, so a
    query sees keys of (window + 2 * halo)^2 pixels. Windows are taken in groups of about `tokens` pixels, which
    bounds the memory. `window` and `halo` are multiples of the attention's stride, so that patches fall as in a whole
    map whose sides are such multiples; at the map's border a few more patches than there reach in.
    q, k: N H W C, v: N H W E -> N H W E.
    """
    n, height, width = q.shape[:3]
    inside = torch.ones_like(q[..., :1])
    parts = [cut_windows(tensor, window, halo) for tensor in (q, k, v, inside)]  # each N h w P P C
    grid_h, grid_w = parts[0].shape[1:3]
    group = max(1, tokens // (window + 2 * halo) ** 2)
    groups = zip(*(part.flatten(0, 2).split(group) for part in parts), strict=True)  # each B P P C
    core = slice(halo, halo + window)
    attended = torch.cat([attention(*qkv, key_mask=mask)[:, core, core] for *qkv, mask in groups])
    return fold(attended.view(n, grid_h, grid_w, window, window, -1), window)[:, :height, :width]


def cut_windows(x: Tensor, window: int, halo: int) -> Tensor:
    """Windows with their halo. N H W C -> N h w P P C with P = window + 2 * halo, zeros outside the map."""
    bottom, right = -x.shape[1] % window + halo, -x.shape[2] % window + halo
    return unfold(F.pad(x, (0, 0, halo, right, halo, bottom)), window + 2 * halo, window)


def grid_padding(length: int, patch_size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis so that ceil(length / stride) patches cover it exactly."""
    missing = max(0, (ceil(length / stride) - 1) * stride + patch_size - length)
    return missing // 2, missing - missing // 2


def pad_to_grid(x: Tensor, patch_size: int, stride: int) -> Tensor:
    """Zero-pad an N H W C map as `grid_padding` says for both axes."""
    top, bottom = grid_padding(x.shape[1], patch_size, stride)
    left, right = grid_padding(x.shape[2], patch_size, stride)
    return F.pad(x, (0, 0, left, right, top, bottom))


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
    """The map in cells of stride x stride: every patch adds its pieces to the few cells that it overlaps."""
    n, h, w, p, _, c = patches.shape
    reach = ceil(p / stride)  # cells per axis that a patch overlaps
    cells = patches.new_zeros(n, h + reach - 1, stride, w + reach - 1, stride, c)
    for i in range(reach):
        for j in range(reach):
            piece = patches[:, :, :, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride]  # N h w a b C
            a, b = piece.shape[3:5]
            cells[:, i : i + h, :a, j : j + w, :b] += piece.permute(0, 1, 3, 2, 4, 5)
    x = cells.view(n, (h + reach - 1) * stride, (w + reach - 1) * stride, c)
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
