"""Patch-wise attention with a third of the multiplications: exact, and with no patch in memory.

On a grid of cells of stride x stride pixels, a patch of p pixels with stride < p < 2 stride is its own cell and the
first p - stride rows and columns of the cells after it, which belong to other patches as well. So the dot product of
two patches is a sum over parts of cells, and that of their neighbours holds the same parts: each part is multiplied
once with every other of its kind, and the similarities of patches are sums along the diagonals of these products. The
other way round, a patch's weight is a weight of its parts: those of the patches that share a part are added, and each
part of the values is multiplied once. For patches of 7 x 7 at a stride of 4 that is 256 multiplications, not 784.

Shape letters as in attention.py; k l the grid of the keys' patches. Parts [a][b] of a map: a = 0 are the rows of a cell
that a patch shares with the one before, a = 1 the others; b likewise the columns. A part is N h w D, and has one cell
more along an axis whose pixels are shared: the last patch has those as well.
"""

from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Parts = list[list[Tensor]]


def attend_cells(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    patch_size: int,
    stride: int,
    *,
    outside: Tensor | None = None,
    inside: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """`attention.attend_maps` for stride < patch_size < 2 * stride and keys at the same stride.

    chunk: at most this many queries are compared at once, in whole rows, or a single row.
    """
    shared = patch_size - stride
    keys, values = (parts(x, shared, stride) for x in (k, v))
    h, w = (length // stride - 1 for length in q.shape[1:3])

    def attend(band: Tensor) -> Tensor:
        similarity = similarities(parts(band, shared, stride), keys)  # N h w k l
        if outside is not None:
            similarity += outside.view(len(q), 1, 1, *similarity.shape[3:])
        weights = similarity.flatten(3).softmax(3).view(similarity.shape)
        if inside is not None:
            weights = weights * inside.view(*weights.shape[:3], 1, 1)
        return weighted_sums(weights, values, shared, stride)

    if chunk is None or h * w <= chunk:
        return attend(q)
    rows = max(1, chunk // w)
    total = v.new_zeros(len(q), h * stride + shared, w * stride + shared, v.shape[3])
    again = partial(checkpoint, attend, use_reentrant=False) if torch.is_grad_enabled() else attend
    for top in range(0, h, rows):
        below = (min(top + rows, h) + 1) * stride
        sums = again(q[:, top * stride : below])
        total[:, top * stride :][:, : sums.shape[1]] += sums
    return total


def parts(x: Tensor, shared: int, stride: int) -> Parts:
    """A map of whole cells, N H W C, cut into the parts of its patches, each N h w D."""
    cells = x.unflatten(1, (-1, stride)).unflatten(3, (-1, stride)).transpose(2, 3)  # N h w s s C
    upper, lower = cells[:, :, :, :shared], cells[:, :-1, :, shared:]
    return [[rows[:, :, :, :, :shared].flatten(3), rows[:, :, :-1, :, shared:].flatten(3)] for rows in (upper, lower)]


def similarities(q: Parts, k: Parts) -> Tensor:
    """Dot products of all patches: N h w k l. Those of parts in bfloat16 are added in float32."""

    def products(a: int, b: int) -> Tensor:
        x, y = q[a][b], k[a][b]
        together = x.flatten(1, 2) @ y.flatten(1, 2).mT
        return together.to(torch.promote_types(together.dtype, torch.float32)).view(*x.shape[:3], *y.shape[1:3])

    upper, lower = (along_diagonal(products(a, 1), products(a, 0), 2) for a in (0, 1))
    return along_diagonal(lower, upper, 1)


def along_diagonal(own: Tensor, shared: Tensor, axis: int) -> Tensor:
    """Adds to each pair of patches the products of their own cells' shared pixels and of the next cells'.

    axis: 1 rows, 2 columns. own: N h w k l, changed in place; shared: one longer along the axis, and along the keys'.
    """
    for i in (0, 1):
        own += shared.narrow(axis, i, own.shape[axis]).narrow(axis + 2, i, own.shape[axis + 2])
    return own


def spread(weights: Tensor, axis: int) -> Tensor:
    """The adjoint of `along_diagonal`: from the weights of pairs of patches to those of their shared pixels."""
    shares = weights.new_zeros([length + (i in (axis, axis + 2)) for i, length in enumerate(weights.shape)])
    for i in (0, 1):
        shares.narrow(axis, i, weights.shape[axis]).narrow(axis + 2, i, weights.shape[axis + 2]).add_(weights)
    return shares


def weighted_sums(weights: Tensor, v: Parts, shared: int, stride: int) -> Tensor:
    """The overlapping sums of the patches of v, weighted. weights: N h w k l. Returns N h*s+shared w*s+shared E."""
    n, h, w = weights.shape[:3]
    pixels = slice(shared), slice(shared, stride)
    total = v[0][0].new_empty(n, h + 1, stride, w + 1, stride, v[0][0].shape[3] // shared**2)
    for a, by_row in enumerate((spread(weights, 1), weights)):
        for b, by_part in enumerate((spread(by_row, 2), by_row)):
            sums = by_part.flatten(3).flatten(1, 2).to(total.dtype) @ v[a][b].flatten(1, 2)  # N L D
            rows, columns = by_part.shape[1:3]
            target = total[:, :rows, pixels[a], :columns, pixels[b]].transpose(2, 3)  # N h w a b E
            target.copy_(sums.view(target.shape))
    return total.flatten(3, 4).flatten(1, 2)[:, : h * stride + shared, : w * stride + shared]
