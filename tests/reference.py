"""The slow, obvious versions of what attention.py does quickly: one picture, NumPy, loops.

Maps are H W C; computed in the dtype given, float64 wherever a test asks for it.
"""

from collections.abc import Callable
from math import ceil

import numpy as np


def starts(length: int, patch_size: int, stride: int) -> list[int]:
    """Where the patches of an axis begin: ceil(length / stride) of them cover it, the overhang shared by both ends."""
    count = ceil(length / stride)
    overhang = max(0, (count - 1) * stride + patch_size - length)
    return [i * stride - overhang // 2 for i in range(count)]


def patch_at(x: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    """The size x size patch that begins at (top, left), zero outside the map. H W C -> p p C."""
    patch = np.zeros((size, size, x.shape[2]), x.dtype)
    for i in range(size):
        for j in range(size):
            if 0 <= top + i < x.shape[0] and 0 <= left + j < x.shape[1]:
                patch[i, j] = x[top + i, left + j]
    return patch


def unfold(x: np.ndarray, patch_size: int, stride: int) -> np.ndarray:
    """Every patch that lies inside the map. H W C -> h w p p C."""
    tops, lefts = (range(0, length - patch_size + 1, stride) for length in x.shape[:2])
    return np.array([[patch_at(x, top, left, patch_size) for left in lefts] for top in tops])


def fold(patches: np.ndarray, stride: int) -> np.ndarray:
    """The sum of overlapping patches. h w p p C -> H W C."""
    h, w, p, _, channels = patches.shape
    x = np.zeros(((h - 1) * stride + p, (w - 1) * stride + p, channels), patches.dtype)
    for i, j, a, b in np.ndindex(h, w, p, p):
        x[i * stride + a, j * stride + b] += patches[i, j, a, b]
    return x


def patch_attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    scale: float,
    patch_size: int = 7,
    stride: int = 4,
    key_stride: int | None = None,
    key_mask: np.ndarray | None = None,
) -> np.ndarray:
    """softmax(scale * query . key) over all key patches; the mean of what the patches over a pixel say of it."""
    height, width = q.shape[:2]
    step = stride if key_stride is None else key_stride
    places = [(top, left) for top in starts(height, patch_size, step) for left in starts(width, patch_size, step)]
    if key_mask is not None:
        places = [place for place in places if patch_at(key_mask, *place, patch_size).any()]
    keys = [patch_at(k, *place, patch_size) for place in places]
    values = [patch_at(v, *place, patch_size) for place in places]
    total, count = np.zeros_like(v), np.zeros((height, width, 1), v.dtype)
    for top in starts(height, patch_size, stride):
        for left in starts(width, patch_size, stride):
            query = patch_at(q, top, left, patch_size)
            similarity = np.array([scale * np.vdot(query, key) for key in keys])
            weights = np.exp(similarity - similarity.max())
            weights /= weights.sum()
            attended = np.zeros((patch_size, patch_size, v.shape[2]), v.dtype)
            for weight, value in zip(weights, values, strict=True):
                attended += weight * value
            for i in range(patch_size):
                for j in range(patch_size):
                    if 0 <= top + i < height and 0 <= left + j < width:
                        total[top + i, left + j] += attended[i, j]
                        count[top + i, left + j] += 1
    return total / count


def pixel_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *, scale: float, key_mask: np.ndarray | None = None
) -> np.ndarray:
    """Every pixel compared with every other; the loops over a patch shrink to one step."""
    return patch_attention(q, k, v, scale=scale, patch_size=1, stride=1, key_mask=key_mask)


def in_windows(
    attention: Callable[..., np.ndarray], q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int, halo: int
) -> np.ndarray:
    """Each window x window core from itself and `halo` pixels around it; outside the map nothing is a key."""
    height, width = q.shape[:2]
    result = np.zeros_like(v)
    side = window + 2 * halo
    for top in range(0, height, window):
        for left in range(0, width, window):
            parts = [patch_at(x, top - halo, left - halo, side) for x in (q, k, v, np.ones_like(q[..., :1]))]
            *qkv, inside = parts
            core = attention(*qkv, key_mask=inside)[halo : halo + window, halo : halo + window]
            bottom, right = min(top + window, height), min(left + window, width)
            result[top:bottom, left:right] = core[: bottom - top, : right - left]
    return result
