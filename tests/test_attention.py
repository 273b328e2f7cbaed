"""Attention: the fast versions against tests/reference.py, their gradients, their memory."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import reference
import synergic.attention
from synergic.attention import BOUND, attend, patch_attention
from synergic.network import NonLocalAttention, SATNetConfig
from synergic.patches import fold, grid_padding, overlap_count, patches, unfold

SIZES = [(1, 1), (1, 9), (7, 5), (13, 17), (20, 24)]
GRIDS = [
    (7, 4, 4),
    (7, 4, 1),
    (5, 4, 4),
    (5, 4, 1),
    (5, 3, 3),
    (3, 3, 3),
    (3, 2, 2),
    (3, 2, 1),
    (1, 1, 1),
    (1, 1, 2),
    (3, 3, 6),
]  # patch_size, stride, key_stride
SCALE = 0.3
pixel_attention = partial(patch_attention, patch_size=1, stride=1)
TOLERANCE = 1e-5


def maps(height: int, width: int, n: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """q and k N H W 3, v N H W 2."""
    generator = Generator().manual_seed(height * 100 + width)
    q, k, v = (torch.randn(n, height, width, c, generator=generator, dtype=dtype) for c in (3, 3, 2))
    return q, k, v


def slow(attention: Callable[..., np.ndarray], qkv: tuple[Tensor, ...], **options: Any) -> Tensor:
    """A reference on the only picture of a batch, in float64."""
    return torch.from_numpy(attention(*(x[0].double().numpy() for x in qkv), **options))[None]


def error(got: Tensor, wanted: Tensor) -> float:
    """Greatest difference relative to the greatest value."""
    assert got.shape == wanted.shape
    return float((got.double() - wanted.double()).abs().max() / wanted.double().abs().max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grid", GRIDS)
def test_patch_attention_is_the_reference(size: tuple[int, int], grid: tuple[int, int, int]) -> None:
    qkv = maps(*size)
    options: dict[str, Any] = dict(zip(("patch_size", "stride", "key_stride"), grid, strict=True))
    wanted = slow(reference.patch_attention, qkv, scale=SCALE, **options)
    for chunk in (None, 1, 5):
        assert error(patch_attention(*qkv, scale=SCALE, chunk=chunk, **options), wanted) < TOLERANCE


@pytest.mark.parametrize("size", SIZES[:4])
def test_pixel_attention_is_the_reference(size: tuple[int, int]) -> None:
    qkv = maps(*size)
    assert error(pixel_attention(*qkv, scale=SCALE), slow(reference.pixel_attention, qkv, scale=SCALE)) < TOLERANCE


@pytest.mark.parametrize("option", [{"scale": SCALE * 1.01}, {"key_stride": 1}, {"stride": 2}, {"patch_size": 5}])
def test_the_comparison_would_see_an_ignored_option(option: dict[str, Any]) -> None:
    qkv = maps(13, 17)
    wanted = slow(reference.patch_attention, qkv, **({"scale": SCALE} | option))
    assert error(patch_attention(*qkv, scale=SCALE), wanted) > 100 * TOLERANCE


def test_scale_may_be_a_tensor_and_the_defaults_are_the_papers() -> None:
    qkv = maps(13, 17)
    wanted = patch_attention(*qkv, scale=SCALE, patch_size=7, stride=4, key_stride=4, window=None, halo=0, chunk=None)
    assert torch.equal(patch_attention(*qkv, scale=torch.tensor(SCALE)), wanted)


@pytest.mark.parametrize(
    "attention", [partial(patch_attention, chunk=5), partial(patch_attention, key_stride=1), pixel_attention]
)
def test_a_batch_is_each_alone(attention: Callable[..., Tensor]) -> None:
    qkv = maps(9, 14, n=2)
    together = attention(*qkv, scale=SCALE)
    alone = torch.cat([attention(*(x[i : i + 1] for x in qkv), scale=SCALE) for i in range(2)])
    assert error(together, alone) < TOLERANCE
    assert error(together[:1], alone[1:]) > 0.1


def test_equal_values_average_to_themselves() -> None:
    v = torch.full((1, 13, 17, 2), 0.7)
    assert torch.allclose(pixel_attention(*maps(13, 17)[:2], v, scale=SCALE), v)


@pytest.mark.parametrize("patch_size", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_unfold_and_fold_are_the_reference_and_adjoint(patch_size: int, stride: int) -> None:
    generator = Generator().manual_seed(0)
    height, width = 2 * stride + patch_size, 3 * stride + patch_size
    x = torch.randn(2, height, width, 3, generator=generator, dtype=torch.float64)
    patches = unfold(x, patch_size, stride)
    y = torch.randn(patches.shape, generator=generator, dtype=torch.float64)
    folded = fold(y, stride)
    for i in range(2):
        assert np.array_equal(patches[i].numpy(), reference.unfold(x[i].numpy(), patch_size, stride))
        assert np.allclose(folded[i].numpy(), reference.fold(y[i].numpy(), stride), rtol=0, atol=1e-12)
    assert (patches * y).sum().item() == pytest.approx((x * folded).sum().item(), rel=1e-12)


@pytest.mark.parametrize(("patch_size", "stride"), [(7, 4), (5, 4), (3, 1), (1, 1)])
@pytest.mark.parametrize("length", [1, 2, 7, 16, 17])
def test_the_grid_covers_every_pixel(length: int, patch_size: int, stride: int) -> None:
    before, after = grid_padding(length, patch_size, stride)
    grid = -(-length // stride)
    assert 0 <= before <= after <= before + 1
    assert before + length + after == (grid - 1) * stride + patch_size
    assert before == -reference.starts(length, patch_size, stride)[0]
    assert patches(torch.ones(1, length, length, 1), patch_size, stride).shape == (1, grid**2, patch_size**2)
    count = overlap_count(grid, patch_size, stride)
    assert torch.equal(
        count[:, None],
        torch.from_numpy(reference.fold(np.ones((grid, 1, patch_size, patch_size, 1), np.float32), stride))[:, 0],
    )
    assert count.min() >= 1


# ---- gradients


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("key_stride", [2, 1])
def test_gradients_of_patch_attention(chunk: int | None, key_stride: int) -> None:
    inputs = [x.requires_grad_() for x in (*maps(4, 5, dtype=torch.float64), torch.tensor(SCALE, dtype=torch.float64))]

    def attention(q: Tensor, k: Tensor, v: Tensor, scale: Tensor) -> Tensor:
        return patch_attention(q, k, v, scale=scale, patch_size=3, stride=2, key_stride=key_stride, chunk=chunk)

    assert torch.autograd.gradcheck(attention, inputs, fast_mode=True, rtol=1e-5)


def test_fold_rounds_a_sum_in_bfloat16_once() -> None:
    patches = torch.randn(2, 5, 3, 7, 7, 4, generator=Generator().manual_seed(0)).bfloat16()
    assert torch.equal(fold(patches, 4), fold(patches.double(), 4).bfloat16())
    in_bfloat16 = torch.full((1, 2, 2, 7, 7, 1), 1 / 3).bfloat16()
    assert fold(in_bfloat16, 2)[0, 6, 6, 0] == (4 * in_bfloat16[0, 0, 0, 0, 0, 0].float()).bfloat16()


def test_first_and_second_gradients_of_unfold_and_fold() -> None:
    x = maps(5, 7, dtype=torch.float64)[2].requires_grad_()
    unfolded = unfold(x.detach(), 3, 2).requires_grad_()
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(partial(unfold, patch_size=3, stride=2), x, rtol=1e-5)
        assert check(partial(fold, stride=2), unfolded, rtol=1e-5)


def test_chunks_change_no_gradient() -> None:
    gradients = []
    for chunk in (None, 3):
        inputs = [x.requires_grad_() for x in maps(13, 17)]
        patch_attention(*inputs, scale=SCALE, chunk=chunk).square().sum().backward()
        gradients.append([x.grad for x in inputs])
    for whole, chunked in zip(*gradients, strict=True):
        assert whole is not None and chunked is not None
        assert error(chunked, whole) < TOLERANCE


# ---- windows


@pytest.mark.parametrize("size", [(5, 60), (21, 30), (33, 20), (40, 45)])
@pytest.mark.parametrize("grid", [(7, 4, 4), (5, 4, 2), (7, 4, 1), (1, 1, 1)])
@pytest.mark.parametrize(("window", "halo"), [(8, 4), (8, 0), (4, 8), (12, 4)])
def test_windows_are_the_reference(size: tuple[int, int], grid: tuple[int, int, int], window: int, halo: int) -> None:
    qkv = maps(*size)
    options: dict[str, Any] = dict(zip(("patch_size", "stride", "key_stride"), grid, strict=True))
    options |= {"scale": SCALE, "window": window, "halo": halo}
    wanted = slow(reference.patch_attention, qkv, **options)
    assert error(patch_attention(*qkv, **options), wanted) < TOLERANCE
    assert error(patch_attention(*qkv, **options | {"window": None}), wanted) > 100 * TOLERANCE


@pytest.mark.parametrize("rows", [2, 64])
@pytest.mark.parametrize("grid", [(7, 4, 4), (7, 4, 1), (1, 1, 1)])
def test_rows_of_windows_may_be_compared_together(
    rows: int, grid: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = dict(zip(("patch_size", "stride", "key_stride"), grid, strict=True))
    options |= {"scale": SCALE, "window": 8, "halo": 4}
    gradients = []
    for at_once in (1, rows):
        monkeypatch.setattr(synergic.attention, "rows_at_once", lambda _, count=at_once: count)
        inputs = [x.requires_grad_() for x in maps(37, 30, n=2)]
        result = patch_attention(*inputs, **options)
        result.square().sum().backward()
        gradients.append([result.detach(), *(x.grad for x in inputs)])
    for one_by_one, together in zip(*gradients, strict=True):
        assert error(together, one_by_one) < TOLERANCE


@pytest.mark.parametrize(("window", "halo"), [(8, 4), (16, 0), (4, 8)])
def test_a_map_no_larger_than_a_window_with_its_halo_is_compared_whole(window: int, halo: int) -> None:
    qkv = maps(13, 16, n=2)
    for attention in (patch_attention, pixel_attention):
        bounded = attention(*qkv, scale=SCALE, window=window, halo=halo)
        assert torch.equal(bounded, attention(*qkv, scale=SCALE))


def test_pictures_of_a_batch_have_windows_of_their_own() -> None:
    qkv = maps(21, 30, n=3)
    options: dict[str, Any] = {"scale": SCALE, "window": 8, "halo": 4}
    alone = [patch_attention(*(x[i : i + 1] for x in qkv), **options) for i in range(3)]
    assert error(patch_attention(*qkv, **options), torch.cat(alone)) < TOLERANCE


def test_gradients_reach_through_windows() -> None:
    def attention(*qkv: Tensor) -> Tensor:
        return patch_attention(*qkv, scale=SCALE, patch_size=3, stride=2, window=4, halo=2)

    inputs = [x.requires_grad_() for x in maps(5, 11, dtype=torch.float64)]
    assert torch.autograd.gradcheck(attention, inputs)


def test_bias_ignores_keys() -> None:
    q, k, v = (x.flatten(1, 2) for x in maps(6, 5))
    bias = torch.zeros(1, 30)
    bias[:, 20:] = float("-inf")
    assert error(attend(q, k, v, bias), attend(q, k[:, :20], v[:, :20])) < TOLERANCE


def test_bounded_similarities_need_no_maximum() -> None:
    q, k, v = (x.flatten(1, 2) for x in maps(6, 5, dtype=torch.float64))
    summed = partial(attend, normalised=False)
    ones, zeros = torch.ones_like(v), torch.zeros_like(v)
    assert error(summed(q, k, v) / summed(q, k, ones), attend(q, k, v)) < 1e-12
    on_map = torch.cat([ones[:, :20], zeros[:, 20:]], 1)  # as beyond the map's edge
    assert error(summed(q, k, v * on_map) / summed(q, k, on_map), attend(q, k[:, :20], v[:, :20])) < 1e-12
    inputs = [x.requires_grad_() for x in (q, k, v)]
    assert torch.autograd.gradcheck(summed, inputs)


@pytest.mark.parametrize("window", [None, 8])
def test_bounded_similarities_at_their_bound_in_bfloat16(window: int | None) -> None:
    generator = Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 20, 28, 16, generator=generator) for _ in range(3))
    q, k = (torch.nn.functional.layer_norm(x, (16,)) for x in (q, k))
    for scale, tolerance in ((1.0, 0.03), (BOUND / 16, 0.3)):  # the greatest is rounded by up to 1/8
        options: dict[str, Any] = {"scale": scale, "patch_size": 1, "stride": 1, "window": window, "halo": 4}
        wanted = patch_attention(q, k, v, **options)
        got = patch_attention(*(x.bfloat16() for x in (q, k, v)), **options, bounded=True)
        plain = patch_attention(*(x.bfloat16() for x in (q, k, v)), **options)
        assert error(got, wanted) < tolerance
        assert not torch.equal(got, plain)


# ---- memory


class Memory(TorchDispatchMode):
    """Counts the bytes of all tensors alive, and those of the largest."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.largest = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.known:
                self._born(tensor.untyped_storage())
        return result

    def _born(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.known.add(key)
        self.live += size
        self.peak, self.largest = max(self.peak, self.live), max(self.largest, size)
        weakref.finalize(storage, self._died, key, size)

    def _died(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def memory_of(width: int, chunk: int | None, **options: Any) -> Memory:
    """Of attention over a 16 x width map, forward and backward."""
    inputs = [x.requires_grad_() for x in maps(16, width)]
    with Memory() as memory:
        patch_attention(*inputs, scale=SCALE, chunk=chunk, **options).sum().backward()
    return memory


@pytest.mark.parametrize(
    "options", [{"patch_size": 4, "stride": 1, "key_stride": 1}, {"patch_size": 4, "stride": 2, "key_stride": 1}]
)
def test_memory_is_linear_in_the_patches_when_chunked(options: dict[str, int]) -> None:
    queries, keys = (16 // options["stride"]) * (192 // options["stride"]), 16 * 192
    whole = [memory_of(width, None, **options) for width in (96, 192)]
    assert whole[1].largest == 4 * queries * keys
    assert whole[1].peak > 3.4 * whole[0].peak
    chunked = [memory_of(width, 32, **options) for width in (96, 192)]
    assert chunked[1].largest <= 4 * keys * max(32, 3 * options["patch_size"] ** 2)  # similarities, or key patches
    assert chunked[1].peak < 2.2 * chunked[0].peak
    assert chunked[1].peak < whole[1].peak / 5


def test_single_pixels_are_compared_without_holding_similarities() -> None:
    q, k, v = (torch.randn(1, 16, 96, 16).requires_grad_() for _ in range(3))
    with Memory() as memory:
        pixel_attention(q, k, v, scale=SCALE).sum().backward()
    assert memory.peak < 4 * (16 * 96) ** 2 / 4


def test_a_restoring_network_never_holds_all_similarities() -> None:
    """48 x 48 patches, each a query: 2304 x 2304 similarities in training, 512 x 2304 at once when restoring."""
    network = NonLocalAttention(SATNetConfig(channels=4, embedding=4, patch_size=3, stride=1, key_stride=1))
    features = torch.rand(1, 4, 48, 48)
    largest = {}
    for training in (True, False):
        with torch.no_grad(), Memory() as memory:
            network.train(training)(features)
        largest[training] = memory.largest
    assert largest == {True: 4 * 2304 * 2304, False: 4 * 512 * 2304}
