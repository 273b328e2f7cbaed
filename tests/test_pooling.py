"""Means of windows and what lies between them, against sums written out."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synergic.pooling import STEP, averaging, between_windows, interpolation, window_means, window_starts


@given(length=st.integers(1, 300), size=st.integers(1, 100))
def test_windows_cover_an_axis(length: int, size: int) -> None:
    starts = window_starts(length, size).tolist()
    assert starts[0] == 0 and starts[-1] == max(0, length - size)
    assert all(0 < after - before <= STEP for before, after in pairwise(starts))
    assert all(start % STEP == 0 for start in starts[:-1])


@given(length=st.integers(1, 300), size=st.integers(1, 100))
def test_the_matrices_average_and_interpolate(length: int, size: int) -> None:
    starts, positions = window_starts(length, size), torch.rand(length, dtype=torch.float64)
    means = averaging(length, size).double() @ positions
    for start, mean in zip(starts.tolist(), means, strict=True):
        assert mean == pytest.approx(positions[start : start + size].mean().item(), abs=1e-6)
    shares = interpolation(length, size).double()
    assert torch.allclose(shares.sum(1), torch.ones(length, dtype=torch.float64))
    assert shares.min() >= 0
    middles = starts.double() + min(size, length) / 2
    at = (torch.arange(length) + 0.5).clamp(middles[0], middles[-1])
    assert torch.allclose(shares @ middles, at.double(), rtol=0, atol=1e-3), "what is linear stays linear"


def test_a_map_is_pooled_by_rows_and_columns() -> None:
    x = torch.randn(2, 3, 40, 57, generator=torch.Generator().manual_seed(0))
    for layout in (torch.contiguous_format, torch.channels_last):
        means = window_means(x.contiguous(memory_format=layout), 24)
        assert means.shape == (2, 2, 4, 3)
        for i, top in enumerate((0, 16)):
            for j, left in enumerate((0, 16, 32, 33)):
                wanted = x[:, :, top : top + 24, left : left + 24].mean((2, 3))
                assert torch.allclose(means[:, i, j], wanted, rtol=0, atol=1e-6)
    spread = between_windows(means, 40, 57, 24)
    assert spread.shape == x.shape and spread.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(spread[..., :12, :12], means[:, 0, 0, :, None, None].expand(-1, -1, 12, 12))
    halfway = (means[:, 0, 0] * 0.75 + means[:, 1, 0] * 0.25)[..., None]
    assert torch.allclose((spread[:, :, 15, :12] + spread[:, :, 16, :12]) / 2, halfway.expand(-1, -1, 12), atol=1e-5)


def test_a_part_that_begins_at_a_step_has_the_windows_of_the_whole() -> None:
    x = torch.randn(1, 2, 30, 200, generator=torch.Generator().manual_seed(0))
    whole, part = window_means(x, 48), window_means(x[..., 32:], 48)
    assert torch.allclose(whole[:, :, 2:], part, rtol=0, atol=1e-6)


def test_gradients_reach_every_position() -> None:
    x = torch.randn(1, 2, 21, 37, requires_grad=True)
    between_windows(window_means(x, 16), 21, 37, 16).sum().backward()
    assert x.grad is not None and x.grad.min() > 0
    assert x.grad.sum() == pytest.approx(x.numel(), rel=1e-4)
