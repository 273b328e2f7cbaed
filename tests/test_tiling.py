from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synergic.images import from_float, to_float
from synergic.tiling import axis_spans, blend, is_toned, map_tiles, tile_size_for


@given(
    length=st.integers(1, 5000),
    size=st.integers(128, 600),
    overlap=st.integers(4, 40),
    align=st.sampled_from([2, 8, 64, 512]),
)
def test_spans_cover_the_axis_and_their_weights_sum_to_one(length: int, size: int, overlap: int, align: int) -> None:
    total = np.zeros(length)
    spans = axis_spans(length, size, overlap, align)
    assert len(spans) == 1 or length > size
    for span in spans:
        assert span.start % (align if align <= size - overlap else 2) == 0
        assert 0 < span.stop - span.start <= size
        assert len(span.weights) == span.stop - span.start
        assert span.weights.min() >= 0
        total[span.start : span.stop] += span.weights
    np.testing.assert_allclose(total, 1, atol=1e-6)
    for before, after in pairwise(spans):
        assert before.stop - after.start == overlap
    assert len({span.stop - span.start for span in spans[:-1]}) <= 1, "but for the last of one length"


def test_spans_by_hand() -> None:
    assert [(s.start, s.stop) for s in axis_spans(512, 512, 32)] == [(0, 512)]
    assert [(s.start, s.stop) for s in axis_spans(1000, 512, 32)] == [(0, 356), (324, 680), (648, 1000)]
    assert [(s.start, s.stop) for s in axis_spans(992, 512, 32)] == [(0, 512), (480, 992)]
    assert [(s.start, s.stop) for s in axis_spans(1000, 512, 32, 64)] == [(0, 416), (384, 800), (768, 1000)]
    assert [(s.start, s.stop) for s in axis_spans(200, 128, 48, 512)] == [(0, 124), (76, 200)], "no room: 2"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 300, 3), (301, 257, 1), (140, 129, 3)])
def test_identity_is_exact(dtype: type, shape: tuple[int, ...], random: np.random.Generator) -> None:
    top = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    pixels: np.ndarray = (random.random(shape) * top).astype(dtype)
    mapped = map_tiles(lambda tile: tile, pixels, 128, 32)
    assert mapped.dtype == dtype
    tolerance = 0 if np.dtype(dtype).kind == "u" else 1e-6
    assert np.abs(mapped.astype(float) - pixels.astype(float)).max() <= tolerance


def test_neighbouring_tiles_blend_without_a_step() -> None:
    """Tiles that answer with different constants meet in a ramp over at least 16 pixels."""
    answers = iter(np.linspace(0.2, 0.8, 16))

    def constant(tile: np.ndarray) -> np.ndarray:
        return np.full_like(tile, next(answers))

    mapped = map_tiles(constant, np.zeros((330, 330, 1), np.float32), 128, 32)
    assert np.abs(np.diff(mapped[..., 0], axis=0)).max() > 0
    assert np.abs(np.diff(mapped[..., 0], axis=0)).max() < 0.3 / 16
    assert np.abs(np.diff(mapped[..., 0], axis=1)).max() < 0.3 / 16


def test_integers_are_rounded_and_clipped() -> None:
    mapped = map_tiles(lambda tile: tile + 0.6 / 255, np.full((2, 2, 1), 7, np.uint8), 128, 32)
    assert (mapped == 8).all()
    assert (map_tiles(lambda tile: tile + 2, np.zeros((2, 2, 1), np.uint16), 128, 32) == 65535).all()
    assert (map_tiles(lambda tile: tile + 2, np.zeros((2, 2, 1), np.float32), 128, 32) == 2).all()


def test_blend_by_hand() -> None:
    degraded, restored = np.array([100, 200], np.uint8), np.array([0.5, 1.5], np.float32)
    assert blend(degraded, restored, 0.0).tolist() == [100, 200]
    assert blend(degraded, restored, 0.5).tolist() == [114, 255]  # (100 + 127.5) / 2, and clipped
    assert blend(degraded, restored, 1.0).tolist() == [128, 255]
    exact = np.array([0.1, 0.7], np.float32)
    assert (blend(exact * 3, exact, 1.0) == exact).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_blending_a_kept_result_gives_the_bytes_of_a_new_run(
    dtype: type, strength: float, random: np.random.Generator
) -> None:
    top = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    pixels: np.ndarray = (random.random((301, 257, 3)) * top).astype(dtype)
    kept = map_tiles(np.square, to_float(pixels), 128, 32)
    again = map_tiles(np.square, pixels, 128, 32, strength=strength)
    assert (blend(pixels, kept, strength) == again).all()


def test_progress_counts_every_tile() -> None:
    seen: list[tuple[int, int]] = []
    map_tiles(lambda tile: tile, np.zeros((200, 300, 1), np.uint8), 128, 32, lambda *state: seen.append(state))
    assert seen == [(i + 1, 6) for i in range(6)]


@pytest.mark.parametrize(("gigabytes", "side"), [(1, 384), (2.9, 384), (3, 768), (8, 768), (12, 1152), (96, 1152)])
def test_tiles_are_as_large_as_memory_allows(gigabytes: float, side: int) -> None:
    assert tile_size_for(int(gigabytes * 2**30), itemsize=2) == side
    assert tile_size_for(int(gigabytes * 2**30), itemsize=4) == min(side, 768)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("tint", [(1.0, 0.98, 0.96), (1.0, 0.9, 0.75), (0.6, 0.8, 1.0)])
def test_toned_gray_is_told_from_colour_by_its_noise(tint: tuple[float, ...], dtype: type) -> None:
    random = np.random.default_rng(0)
    gray = np.linspace(0, 1, 160)[:, None, None].repeat(160, 1)
    for sigma in (0.0, 5 / 255, 50 / 255):
        alike = np.clip(gray + random.normal(0, sigma, gray.shape), 0, 1) * np.array(tint)
        assert is_toned(from_float(alike.astype(np.float32), dtype))
        assert not is_toned(from_float(alike.astype(np.float32)[:100, :100], dtype)), "too small to tell"
        apart = np.clip(gray * np.array(tint) + random.normal(0, max(sigma, 2 / 255), (160, 160, 3)), 0, 1)
        assert not is_toned(from_float(apart.astype(np.float32), dtype))
