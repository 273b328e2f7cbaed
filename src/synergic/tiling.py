"""Overlapping tiles, blended so that no seam shows: any size in bounded memory."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np

from synergic.errors import SynergicError, first_line
from synergic.images import from_float, to_float

TILE_SIZE = 768
"""Side of a tile, in pixels, where nothing says otherwise."""
SMALLEST_TILE = 128
OVERLAP = 96
"""Pixels that neighbouring tiles share and blend over, at most. With 64 the gradients' energy where tiles meet was up
to 2.5 % off its neighbourhood's, with 80 up to 1.1 %, with 96 under 1 %: the windows of a tile's gates end at its edge,
where those of the whole picture go on."""
STRIP = 64
"""Rows that are blended at once: what lies between input and output is float32, several times, and need not be more."""
LEAST, MOST = -0.25, 16
"""Floats that networks of pictures in [0, 1] restore, without their noise: `photo` leaves a clean photograph of 0 to 16
at 45 dB and one of -0.25 to 1 at 43, but one of -0.5 to 0.5 at 27 and one of -1 to 0 at 8."""
NOISE = 1.75
"""Noise may go below by so much: six times the standard deviation of the strongest that there are weights for."""

Function = Callable[[np.ndarray], np.ndarray]
"""Restores a tile: H W C float32 in about [0, 1] to the same shape."""
Progress = Callable[[int, int], None]
"""Called after every tile with how many are done, of how many."""


def restore_picture(
    function: Function,
    image: np.ndarray,
    tile_size: int,
    align: int,
    ensemble: bool,
    strength: float,
    progress: Progress | None,
) -> np.ndarray:
    """One picture through `function` in tiles, smaller ones if memory runs out: the shape and dtype that came in.

    image: H W or H W C with C = 1 or 3; uint8, uint16, or float in [0, 1]. Gray that is stored as RGB stays gray.
    function, strength, progress and align: as in `map_tiles`. ensemble: the mean over 8 flips and turns of every tile.
    """
    pixels = checked(image)
    if not 0 <= strength <= 1:
        raise SynergicError(f"strength: expected 0 to 1, got {strength}")
    seen = pixels[..., :1] if is_gray(pixels) else pixels

    def restore_tile(tile: np.ndarray) -> np.ndarray:
        views = range(8 if ensemble else 1)
        restored: np.ndarray = np.mean([turned_back(function(turned(tile, k)), k) for k in views], axis=0)
        if not np.isfinite(restored).all():
            raise SynergicError(
                "picture: expected values in about [0, 1], got some too large to compute with; scale it"
            )
        return restored

    while True:
        try:
            restored = map_tiles(restore_tile, seen, tile_size, overlap_of(tile_size), progress, strength, align)
            whole = restored if restored.shape == pixels.shape else np.repeat(restored, 3, axis=2)  # the caller's own
            return whole.reshape(image.shape)
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not is_out_of_memory(error):
                raise
            if tile_size // 2 < SMALLEST_TILE:
                said = first_line(error)  # oneDNN may mean something else
                raise SynergicError(
                    f"memory: expected enough for tiles of {tile_size} pixels, got less ({said}); "
                    "close other programs or take a larger machine"
                ) from error
        tile_size //= 2


def tile_size_for(memory: int, itemsize: int) -> int:
    """Side of a tile, in pixels, for a device with so many bytes of memory in all: the same for every run on it.

    itemsize: bytes of a number that the network computes with. With 2, a tile of 1152 needs 0.7 GB beside the program
    and a tenth less is computed than with tiles of 768, for less of it is overlap; 768 needs 0.4 GB, 384 needs 0.2.
    With 4, twice that.
    """
    if memory >= 12 << 30 and itemsize <= 2:
        return 1152
    return TILE_SIZE if memory >= 3 << 30 else TILE_SIZE // 2


def overlap_of(tile_size: int) -> int:
    """Pixels that tiles of this size share with each neighbour: never more than half of them."""
    return min(OVERLAP, tile_size // 2)


def check_tile_size(tile_size: int) -> None:
    """Refuse tiles that are hardly more than their overlap."""
    if tile_size < SMALLEST_TILE:
        raise SynergicError(f"tile size: expected at least {SMALLEST_TILE}, got {tile_size}")


def checked(image: np.ndarray) -> np.ndarray:
    """The picture as H W C, or SynergicError."""
    if not isinstance(image, np.ndarray) or isinstance(image, np.ma.MaskedArray):
        got = f"{type(image).__module__}.{type(image).__qualname__}"
        raise SynergicError(f"picture: expected a NumPy array, got {got}; pass numpy.asarray(...) of it, gray or RGB")
    pixels = np.asarray(image)  # of a subclass, whose operations are not an array's
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise SynergicError(f"picture: expected H W, H W 1 or H W 3, got {image.shape}; give alpha separately")
    if pixels.dtype not in (np.uint8, np.uint16, np.float16, np.float32, np.float64):
        raise SynergicError(f"picture: expected uint8, uint16 or float in [0, 1], got {pixels.dtype}; convert it")
    if pixels.dtype.kind == "f":
        least, most = pixels.min(), pixels.max()
        if not np.isfinite([least, most]).all():
            raise SynergicError("picture: expected finite values, got NaN or infinity; replace them first")
        if least < LEAST - NOISE or most > MOST or (least < LEAST and smoothed(pixels).min() < LEAST):
            got = f"{least:.4g} to {most:.4g}"
            raise SynergicError(f"picture: expected floats of about 0 (black) to 1 (white), got {got}; scale them")
    return pixels


def is_gray(pixels: np.ndarray) -> bool:
    """Has a picture H W C one channel, or several that are equal?"""
    return pixels.shape[2] == 1 or bool((pixels == pixels[..., :1]).all())


def is_toned(pixels: np.ndarray) -> bool:
    """Is a colour picture H W 3 a gray one seen through a tint, as sepia prints are: are two of its colours, to a level
    of 8 bits, functions of the third? Then so is its noise, the same in all three. False for small pictures, of which
    everything is a function."""
    step = max(1, pixels[..., 0].size // 1_000_000)
    colors = to_float(pixels.reshape(-1, pixels.shape[2])[::step]) * 255
    if len(colors) < 1 << 14:
        return False
    levels = np.clip(np.rint(colors[:, 0]), 0, 255).astype(np.intp)
    counts = np.maximum(np.bincount(levels, minlength=256), 1)
    for other in colors.T[1:]:
        means = np.bincount(levels, other, 256) / counts
        if np.sqrt(np.mean((other - means[levels]) ** 2)) > 1:
            return False
    return True


def smoothed(pixels: np.ndarray) -> np.ndarray:
    """Means of blocks of 8 x 8, in which little of the noise is left. H W C -> H/8 W/8 C; what is over stays out."""
    height, width, channels = pixels.shape
    rows, columns = min(height, 8), min(width, 8)
    whole = pixels[: height // rows * rows, : width // columns * columns]
    blocks = whole.reshape(height // rows, rows, width // columns, columns, channels)
    means: np.ndarray = blocks.mean((1, 3), dtype=np.float64)
    return means


def turned(tile: np.ndarray, k: int) -> np.ndarray:
    """View number `k` of the 8 flips and quarter turns. H W C -> H W C or W H C."""
    return np.rot90(tile[:, ::-1] if k >= 4 else tile, k % 4).copy()  # PyTorch takes no negative strides


def turned_back(tile: np.ndarray, k: int) -> np.ndarray:
    """The inverse of `turned`."""
    back = np.rot90(tile, -(k % 4))
    return back[:, ::-1] if k >= 4 else back


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Python's own exception, or the message of PyTorch's CPU allocator, a driver (CUDA, Apple's), one of CUDA's
    libraries, C++, or of what cannot get its workspace: NNPACK, and cuDNN and oneDNN, which say no more."""
    allocators = "can't allocate memory", "Cannot allocate memory", "out of memory", "ALLOC_FAILED", "bad_alloc"
    libraries = "ALLOCATION_FAILED", "unable to find an engine", "could not create a primitive"
    told = (*allocators, *libraries)
    return isinstance(error, MemoryError) or any(words in str(error) for words in told)


@dataclass(frozen=True)
class Span:
    """A tile's extent along one axis, and its share of the sum at each position."""

    start: int
    stop: int
    weights: np.ndarray
    """float32 (stop - start,); over all spans of an axis the weights of a position sum to 1"""


def axis_spans(length: int, size: int, overlap: int, align: int = 2) -> list[Span]:
    """Cover an axis with spans of at most `size` that overlap by `overlap`: count first, then place at equal steps. So
    all but the last have one length, and memory that one tile has freed fits the next.

    Weights are ramps over the middle half of what neighbours share: the outer quarters, where a network feels the
    tile's border most, are left to the neighbour. Spans start at multiples of `align` (of 2 where `size` leaves no room
    for more): a network that works in blocks or windows then cuts a tile where it would cut the whole picture.
    """
    align = align if align <= size - overlap else 2
    longest = (size - overlap) // align * align  # step from one start to the next
    count = 1 if length <= size else ceil((length - overlap) / longest)
    step = ceil((length - overlap) / (count * align)) * align
    starts = [i * step for i in range(count)]
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
    function: Function,
    pixels: np.ndarray,
    tile_size: int,
    overlap: int,
    progress: Progress | None = None,
    strength: float = 1.0,
    align: int = 2,
) -> np.ndarray:
    """`function` applied tile by tile and blended. pixels H W C, any dtype -> H W C, the same dtype.

    Memory beyond input and output is one row of tiles. strength: blend with `pixels`, see `blend`. align: as in
    `axis_spans`.
    """
    height, width, channels = pixels.shape
    rows, columns = (axis_spans(length, tile_size, overlap, align) for length in (height, width))
    result = np.empty_like(pixels)
    sums = np.zeros((max(row.stop - row.start for row in rows), width, channels), np.float32)  # one row of tiles
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            tile = to_float(pixels[row.start : row.stop, column.start : column.stop])
            weights = np.outer(row.weights, column.weights)[..., None]
            sums[: row.stop - row.start, column.start : column.stop] += function(tile) * weights
            if progress is not None:
                progress(i * len(columns) + j + 1, len(rows) * len(columns))
        stop = rows[i + 1].start if i + 1 < len(rows) else height
        finished = stop - row.start
        result[row.start : stop] = blend(pixels[row.start : stop], sums[:finished], strength)
        sums[:-finished], sums[-finished:] = sums[finished:], 0  # the next row adds to what is not finished
    return result


def blend(degraded: np.ndarray, restored: np.ndarray, strength: float) -> np.ndarray:
    """From the degraded picture (strength 0) to the restored one (1), both exact at their ends.

    degraded: any dtype; restored: float32 of the same shape. Returns degraded's dtype: integers are rounded and
    clipped, floats are not clipped. Each pixel stands alone, so blending a kept result gives the bytes of a new run.
    """
    weight, result = np.float32(strength), np.empty_like(degraded)
    for top in range(0, len(degraded), STRIP):
        rows = slice(top, top + STRIP)
        result[rows] = from_float((1 - weight) * to_float(degraded[rows]) + weight * restored[rows], degraded.dtype)
    return result
