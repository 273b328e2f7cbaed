"""Non-local attention over patches and over pixels, as functions.

General form (Wang et al., "Non-local neural networks", CVPR 2018): y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j).
Here i and j run over overlapping patches (Mou and Zhang, SAT-Net, ICASSP 2021); a pixel is a patch of size 1.

Maps are channels-last, N H W C, as in patches.py. Shape letters beside those there: L queries, M keys.
"""

from collections.abc import Iterator
from itertools import repeat
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from synergic.cells import attend_cells
from synergic.patches import extent, fold, grid_padding, overlap_count, pad_to_grid, unfold

FUSED = 32
"""Longest tokens that go to PyTorch's fused attention, which stores no similarities: three times as fast for single
pixels, slower for patches."""
BOUND = 60.0
"""What similarities called bounded keep to: e^60 times the number of keys is far from the largest number."""


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
    bounded: bool = False,
) -> Tensor:
    """Patch-wise non-local attention: softmax(scale * Q K^T) V over overlapping patches, folded back by averaging.

    q, k: N H W C; v: N H W E; all of one height and width, from 1x1 on. Returns N H W E.
    Maps are zero-padded so that ceil(H / stride) x ceil(W / stride) patches cover every pixel: stride <= patch_size.
    `key_stride`: step between key patches, `stride` unless given (1 compares with every position).
    `window`, `halo`: queries are taken in windows of `window` x `window` pixels, and each sees the keys of its window
    and of `halo` pixels around it, so that time is linear in the map's area; both are multiples of the strides. A map
    no larger than a window with its halo is compared whole, as is every map without a window.
    `chunk`: at most this many queries of a whole map are compared at once, or one row of them, so that memory is linear
    in the number of patches (also for gradients: the chunk's similarities are computed again in the backward pass).
    `bounded`: no similarity, scaled, is outside -BOUND ... BOUND, as with normalised features; saves time for pixels.
    """
    height, width = q.shape[1:3]
    key_stride = stride if key_stride is None else key_stride
    h, w = ceil(height / stride), ceil(width / stride)
    q = q * scale
    summed = bounded and patch_size == 1 and q.is_cpu and q.dtype == torch.bfloat16
    if summed:  # a softmax that needs no maximum is one sum of exponentials over another; ones beside V give that too
        v = torch.cat([v, torch.ones_like(v)], 3)
    if window is None or max(height, width) <= window + 2 * halo:
        top, left = grid_padding(height, patch_size, stride)[0], grid_padding(width, patch_size, stride)[0]
        q = pad_to_grid(q, patch_size, stride)
        k, v = (pad_to_grid(x, patch_size, key_stride) for x in (k, v))
        total = attend_maps(q, k, v, patch_size, stride, key_stride, chunk=chunk, normalised=not summed)
    else:
        top = left = max(0, patch_size - stride) // 2
        total = attend_in_windows(q, k, v, patch_size, stride, key_stride, window, halo, normalised=not summed)
    total = total[:, top : top + height, left : left + width]
    if summed:
        weighted, weights = total.chunk(2, 3)
        return weighted / weights
    if patch_size == stride:
        return total
    rows = overlap_count(h, patch_size, stride, total.device)[top : top + height].to(total)
    columns = overlap_count(w, patch_size, stride, total.device)[left : left + width].to(total)
    return total / (rows[:, None] * columns)[..., None]


def attend_maps(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    patch_size: int,
    stride: int,
    key_stride: int,
    *,
    outside: Tensor | None = None,
    inside: Tensor | None = None,
    chunk: int | None = None,
    normalised: bool = True,
) -> Tensor:
    """softmax(Q K^T) V, folded by sums, of maps that begin with their first patch and end with the last's `extent`.

    q: N H W C; k: N H' W' C; v: N H' W' E. Returns as much of N H W E as the query patches cover. outside: N M, added
    to the similarities of every query. inside: N L, what each query's patch is multiplied by. normalised: as in
    `attend`.
    """
    if q.is_cpu and key_stride == stride < patch_size < 2 * stride:  # a GPU is bound by memory
        return attend_cells(q, k, v, patch_size, stride, outside=outside, inside=inside, chunk=chunk)
    queries = unfold(q, patch_size, stride)  # N h w p p C
    keys, values = (unfold(x, patch_size, key_stride).flatten(3).flatten(1, 2) for x in (k, v))
    attended = attend(queries.flatten(3).flatten(1, 2), keys, values, outside, chunk, normalised)  # N L D
    if inside is not None:
        attended = attended * inside[..., None]
    return fold(attended.view(*queries.shape[:5], -1), stride)


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, chunk: int | None = None, normalised: bool = True
) -> Tensor:
    """softmax(q k^T + bias) v, or exp(q k^T) v if it is not to be `normalised`. q: N L D, k: N M D, v: N M E, bias: N M
    or None. Returns N L E."""
    if chunk is None or q.shape[1] <= chunk:
        return _attend(q, k, v, bias, normalised)
    parts = q.split(chunk, dim=1)
    k = k.mT.contiguous().mT  # a product in bfloat16 would transpose them anew for every part
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(_attend, part, k, v, bias, normalised, use_reentrant=False) for part in parts], 1)
    return torch.cat([_attend(part, k, v, bias, normalised) for part in parts], 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, normalised: bool) -> Tensor:
    if not normalised:
        return (q @ k.mT).exp_() @ v
    if q.shape[2] <= FUSED:
        mask = None if bias is None else bias[:, None, None].expand(-1, 1, q.shape[1], -1)
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], attn_mask=mask, scale=1.0)[:, 0]
    similarity = q @ k.transpose(1, 2)  # N L M
    if bias is not None:
        similarity = similarity + bias[:, None]
    return similarity.softmax(2).to(v.dtype) @ v


def attend_in_windows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    patch_size: int,
    stride: int,
    key_stride: int,
    window: int,
    halo: int,
    *,
    normalised: bool = True,
) -> Tensor:
    """Query patches in windows, each with the key patches of its window and of `halo` pixels around it.

    q, k: N H W C, v: N H W E. Returns the overlapping sums over a map that begins (p - stride) // 2 before the given
    one and is at least as large, N H' W' E. One row of windows at a time, so that memory stays small. normalised: as in
    `attend`; keys that are not on the map then add zeros by their values.
    """
    n, height, width = q.shape[:3]
    rows, columns = ceil(height / window), ceil(width / window)
    own, seen, reach = window // stride, (window + 2 * halo) // key_stride, halo // key_stride  # patches on a side
    at_once = rows_at_once(q.device)

    def on_map(side: int, step: int, margin: int) -> Iterator[Tensor]:
        """For windows of `side` patches: 1 for every patch that lies on the map, 0 for those that only windows have."""
        h, w = ceil(height / step), ceil(width / step)
        below, right = (count * window // step - length + margin for count, length in ((rows, h), (columns, w)))
        grid = F.pad(q.new_ones(1, h, w, 1), (0, 0, margin, right, margin, below))
        return (strip.flatten(1).repeat(n, 1) for strip in windows(grid, side, window // step, at_once))

    size = window - stride + extent(patch_size, stride), window + 2 * halo - key_stride + extent(patch_size, key_stride)
    strips = zip(
        windows(pad_to_windows(q, patch_size, stride, window, 0), size[0], window, at_once),
        windows(pad_to_windows(k, patch_size, key_stride, window, halo), size[1], window, at_once),
        windows(pad_to_windows(v, patch_size, key_stride, window, halo), size[1], window, at_once),
        on_map(seen, key_stride, reach) if normalised else repeat(None),
        on_map(own, stride, 0) if patch_size > stride else repeat(None),  # else none of the others reaches the map
        strict=False,
    )
    sums = []
    for queries, keys, values, key_on_map, inside in strips:
        outside = None if key_on_map is None else key_on_map.log()
        sizes = patch_size, stride, key_stride
        maps = attend_maps(queries, keys, values, *sizes, outside=outside, inside=inside, normalised=normalised)
        sums.append(maps.unflatten(0, (n, -1, columns)))
    return fold(torch.cat(sums, 1), window)


def rows_at_once(device: torch.device) -> int:
    """How many rows of windows are compared together. One stays in a processor's cache; a GPU would be done with it
    before it could be asked for the next."""
    return 1 if device.type == "cpu" else 64


def pad_to_windows(x: Tensor, patch_size: int, stride: int, window: int, halo: int) -> Tensor:
    """Zero-pad an N H W C map so that windows with their halo of patches cover it.

    What comes before the first patch does not depend on the map's size: a part of a map that begins where a window does
    has its patches where the whole map has them.
    """
    margins = [0, 0]
    for length in (x.shape[2], x.shape[1]):
        before = max(0, patch_size - stride) // 2 + halo
        whole = ceil(length / window) * window + 2 * halo - stride + extent(patch_size, stride)
        margins += [before, whole - before - length]
    return F.pad(x, margins)


def windows(x: Tensor, size: int, step: int, at_once: int) -> Iterator[Tensor]:
    """The windows of a padded map, `at_once` rows of them at a time. N H W C -> N*rows*columns size size C each."""
    for top in range(0, x.shape[1] - size + 1, at_once * step):
        yield unfold(x[:, top : top + (at_once - 1) * step + size], size, step).flatten(0, 2)
