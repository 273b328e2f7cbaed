"""The slow, obvious versions of what attention.py does quickly: one picture, NumPy, loops.

Maps are H W C; computed in the dtype given, float64 wherever a test asks for it.
"""

from math import ceil

import numpy as np


def starts(length: int, patch_size: int, stride: int, window: int | None = None) -> list[int]:
    """Where the patches of an axis begin: ceil(length / stride) of them cover it, the overhang shared by both ends.

    With a window as if the length were a multiple of the stride."""
    count = ceil(length / stride)
    overhang = max(0, (count - 1) * stride + patch_size - (length if window is None else count * stride))
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
    window: int | None = None,
    halo: int = 0,
) -> np.ndarray:
    """softmax(scale * query . key) over the key patches that a query sees; the mean of what the patches over a pixel
    say of it. With a window, patch number i of an axis belongs to the pixels from i * stride on."""
    height, width = q.shape[:2]
    step = stride if key_stride is None else key_stride
    keys = {}
    for i, top in enumerate(starts(height, patch_size, step, window)):
        for j, left in enumerate(starts(width, patch_size, step, window)):
            keys[i * step, j * step] = patch_at(k, top, left, patch_size), patch_at(v, top, left, patch_size)
    total, count = np.zeros_like(v), np.zeros((height, width, 1), v.dtype)
    for i, top in enumerate(starts(height, patch_size, stride, window)):
        for j, left in enumerate(starts(width, patch_size, stride, window)):
            query = patch_at(q, top, left, patch_size)
            seen = [key for place, key in keys.items() if sees((i * stride, j * stride), place, window, halo)]
            similarity = np.array([scale * np.vdot(query, key) for key, _ in seen])
            weights = np.exp(similarity - similarity.max())
            weights /= weights.sum()
            attended = np.zeros((patch_size, patch_size, v.shape[2]), v.dtype)
            for weight, (_, value) in zip(weights, seen, strict=True):
                attended += weight * value
            for a in range(patch_size):
                for b in range(patch_size):
                    if 0 <= top + a < height and 0 <= left + b < width:
                        total[top + a, left + b] += attended[a, b]
                        count[top + a, left + b] += 1
    return total / count


def sees(query: tuple[int, int], key: tuple[int, int], window: int | None, halo: int) -> bool:
    """Whether a key's place lies within `halo` of the window that the query's place lies in."""
    if window is None:
        return True
    begins = [place // window * window for place in query]
    return all(begin - halo <= place < begin + window + halo for begin, place in zip(begins, key, strict=True))


def pixel_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *, scale: float, window: int | None = None, halo: int = 0
) -> np.ndarray:
    """Every pixel compared with every other; the loops over a patch shrink to one step."""
    return patch_attention(q, k, v, scale=scale, patch_size=1, stride=1, window=window, halo=halo)
