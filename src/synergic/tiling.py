"""Overlapping tiles, blended so that no seam shows: any size in bounded memory."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np

from synergic.images import from_float, to_float

Progress = Callable[[int, int], None]
"""Called after every tile with how many are done, of how many."""


@dataclass(frozen=True)
class Span:
    """A tile's extent along one axis, and its share of the sum at each position."""

    start: int
    stop: int
    weights: np.ndarray
    """float32 (stop - start,); over all spans of an axis the weights of a position sum to 1"""


def axis_spans(length: int, size: int, overlap: int, align: int = 2) -> list[Span]:
    """Cover an axis with spans of at most `size` that overlap by `overlap`: count first, then place about evenly.

    Weights are ramps over the middle half of what neighbours share: the outer quarters, where a network feels the
    tile's border most, are left to the neighbour. Spans start at multiples of `align` (of 2 where `size` leaves no room
    for more): a network that works in blocks or windows then cuts a tile where it would cut the whole picture.
    """
    align = align if align <= size - overlap else 2
    longest = (size - overlap) // align * align  # step from one start to the next
    count = 1 if length <= size else ceil((length - overlap) / longest)
    starts = [-(-i * (length - overlap) // (count * align)) * align for i in range(count)]  # rounded up
    stops = [start + overlap for start in starts[1:]] + [length]
    spans = []
    for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        positions, weights = np.arange(start, stop), np.ones(stop - start, np.float32)
        if i > 0:  # rises over what it shares with the span before
            weights *= _ramp(positions, start, stops[i - 1])
        if i < count - 1:  # and falls as the next one rises
            weights *= 1 - _ramp(positions, starts[i + 1], stop)
        spans.append(Span(start, stop, weights))
    return spans


def _ramp(positions: np.ndarray, start: int, stop: int) -> np.ndarray:
    """0 over the first quarter from `start` to `stop`, 1 from the last quarter on, linear between. float32."""
    return np.clip(2 * (positions + 0.5 - start) / (stop - start) - 0.5, 0, 1).astype(np.float32)


def map_tiles(
    function: Callable[[np.ndarray], np.ndarray],
    pixels: np.ndarray,
    tile_size: int,
    overlap: int,
    progress: Progress | None = None,
    strength: float = 1.0,
    align: int = 2,
) -> np.ndarray:
    """`function` applied tile by tile and blended. pixels H W C, any dtype -> H W C, the same dtype.

    function: float32 tile in [0, 1] -> float32 tile of the same shape. Memory beyond input and output is one row of
    tiles. strength: blend with `pixels`, see `blend`. align: as in `axis_spans`.
    """
    height, width, channels = pixels.shape
    rows, columns = (axis_spans(length, tile_size, overlap, align) for length in (height, width))
    result = np.empty_like(pixels)
    waiting = np.zeros((0, width, channels), np.float32)  # sums that still await the next row of tiles
    for i, row in enumerate(rows):
        band = np.zeros((row.stop - row.start, width, channels), np.float32)
        band[: len(waiting)] = waiting
        for j, column in enumerate(columns):
            tile = to_float(pixels[row.start : row.stop, column.start : column.stop])
            band[:, column.start : column.stop] += function(tile) * np.outer(row.weights, column.weights)[..., None]
            if progress is not None:
                progress(i * len(columns) + j + 1, len(rows) * len(columns))
        stop = rows[i + 1].start if i + 1 < len(rows) else height
        finished = stop - row.start
        result[row.start : stop] = blend(pixels[row.start : stop], band[:finished], strength)
        waiting = band[finished:]
    return result


def blend(degraded: np.ndarray, restored: np.ndarray, strength: float) -> np.ndarray:
    """From the degraded picture (strength 0) to the restored one (1), both exact at their ends.

    degraded: any dtype; restored: float32 of the same shape. Returns degraded's dtype: integers are rounded and
    clipped, floats are not clipped. Each pixel stands alone, so blending a kept result gives the bytes of a new run.
    """
    weight = np.float32(strength)
    return from_float((1 - weight) * to_float(degraded) + weight * restored, degraded.dtype)
