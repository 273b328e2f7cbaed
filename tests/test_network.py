"""SAT-Net: counts, shapes, gradients, the gate, strength, windows, the ablation's configurations."""

import math
from dataclasses import replace
from itertools import product
from typing import Any, Literal

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import pixel_unshuffle
from torch.utils._python_dispatch import TorchDispatchMode

from synergic.attention import BOUND
from synergic.card import UNKNOWN_STRENGTH
from synergic.network import (
    BASIC,
    EDITIONS,
    ENHANCED,
    HALF,
    BranchGate,
    LocalAttention,
    NonLocalAttention,
    SATNet,
    SATNetConfig,
    SynergicFusion,
    count_parameters,
    feature_extraction,
    fold_batch_norm,
)

SMALL: dict[str, Any] = {"channels": 16, "embedding": 4, "blocks": 1, "depth": 1}
ROWS = {  # the rows of the ablation: one configuration each
    "baseline": replace(BASIC, nonlocal_attention="pixel"),
    "w/o LA": replace(BASIC, local_attention=False),
    "w/o NLA": replace(BASIC, nonlocal_attention=None),
    "SAT-Net": BASIC,
}


def awake(config: SATNetConfig, seed: int = 0) -> SATNet:
    """A network in evaluation mode whose attention branches do something.

    Their output projections start at zero: until the first training step they are the identity, nothing in them
    reaches the output and no gradient reaches them. Small random values stand for that step. A gate of
    few channels may be dead from the start; its bias is not, here.
    """
    torch.manual_seed(seed)
    network = SATNet(config)
    for module in network.modules():
        if isinstance(module, LocalAttention | NonLocalAttention):
            nn.init.normal_(module.up.weight, std=0.1)
            nn.init.normal_(module.up.bias, std=0.1)  # type: ignore[arg-type]
        elif isinstance(module, BranchGate):
            nn.init.ones_(module.squeeze.bias)
    return network.eval()


def picture(n: int, colors: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(n, colors, height, width, generator=Generator().manual_seed(seed))


# ---- what the paper promises


@pytest.mark.parametrize(
    ("edition", "colors", "conditioned", "count"),
    [
        ("basic", 1, False, 1_065_285),
        ("basic", 1, True, 1_065_861),
        ("basic", 3, False, 1_067_591),
        ("basic", 3, True, 1_068_167),
        ("enhanced", 1, False, 1_654_597),
        ("enhanced", 1, True, 1_655_173),
        ("enhanced", 3, False, 1_656_903),
        ("enhanced", 3, True, 1_657_479),
        ("half", 1, False, 1_067_208),
        ("half", 1, True, 1_067_784),
        ("half", 3, False, 1_076_432),
        ("half", 3, True, 1_077_008),
    ],
)
def test_light_weight(edition: str, colors: Literal[1, 3], conditioned: bool, count: int) -> None:
    network = SATNet(replace(EDITIONS[edition], colors=colors, conditioned=conditioned))
    assert count_parameters(network) == count
    assert count < 1_900_000 if edition == "enhanced" else 1_000_000 < count < 1_200_000


def test_one_block_by_hand() -> None:
    """One block of the basic edition: 64 features, 16 in Q, K and V, 32 inside local attention."""
    block: Any = SATNet(BASIC).blocks[0]
    assert count_parameters(block.extraction) == 6 * (64 * 64 * 9 + 64 + 64)
    gate = (32 * 16 + 16) + (16 * 64 + 64)
    assert count_parameters(block.local_attention) == (64 * 32 + 32) + 3 * (32 * 32 * 9 + 32) + gate + (32 * 64 + 64)
    assert count_parameters(block.nonlocal_attention) == (64 * 48 + 48) + (16 * 64 + 64) + 1
    assert count_parameters(block.fusion) == (64 * 32 + 32) + (32 * 128 + 128)


def test_editions() -> None:
    assert len(SATNet(BASIC).blocks) == len(SATNet(HALF).blocks) == 4
    plain, residual = ([type(layer).__name__ for layer in feature_extraction(c)] for c in (BASIC, ENHANCED))
    assert plain == 6 * ["Conv2d", "BatchNorm2d", "ReLU"]
    assert residual == 5 * ["ResidualBlock"]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in SATNet(ENHANCED).modules())


@pytest.mark.parametrize(
    ("row", "parts", "count"),
    [
        ("baseline", ("local_attention", "nonlocal_attention", "fusion"), 1_065_285),
        ("w/o LA", ("nonlocal_attention",), 905_861),
        ("w/o NLA", ("local_attention",), 1_023_233),
        ("SAT-Net", ("local_attention", "nonlocal_attention", "fusion"), 1_065_285),
    ],
)
def test_ablation_rows_are_configurations(row: str, parts: tuple[str, ...], count: int) -> None:
    network = SATNet(ROWS[row])
    for block in network.blocks:
        assert tuple(name for name, _ in block.named_children() if name != "extraction") == parts
    assert count_parameters(network) == count


def test_ablation_rows_compute_different_things() -> None:
    degraded = picture(1, 1, 17, 23)
    outputs = [awake(replace(config, **SMALL))(degraded) for config in ROWS.values()]
    for i, j in product(range(4), range(4)):
        assert torch.equal(outputs[i], outputs[j]) == (i == j)


# ---- every configuration

SPANNED: dict[str, tuple[Any, ...]] = {
    "colors": (1, 3),
    "conditioned": (False, True),
    "nonlocal_attention": ("patch", "pixel", None),
    "local_attention": (True, False),
}
SPAN = [
    replace(EDITIONS[edition], **SMALL, **dict(zip(SPANNED, values, strict=True)))
    for edition, values in product(EDITIONS, product(*SPANNED.values()))
]


@pytest.mark.parametrize(
    "config",
    SPAN,
    ids=lambda c: f"{c.extraction}{c.downscale}-{c.colors}-{c.conditioned}-{c.nonlocal_attention}-{c.local_attention}",
)
def test_every_configuration(config: SATNetConfig) -> None:
    """Odd sizes keep their shape, and every parameter receives a gradient."""
    network = awake(config)
    with torch.inference_mode():
        for height, width in ((1, 1), (1, 7), (5, 3), (17, 23)):
            degraded = picture(1, config.colors, height, width)
            restored = network(degraded)
            assert restored.shape == degraded.shape and restored.isfinite().all()
    strength = torch.tensor([0.1, UNKNOWN_STRENGTH]) if config.conditioned else None
    network.train()(picture(2, config.colors, 18, 21), strength).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize("edition", EDITIONS)
def test_an_untrained_network_is_deterministic_and_finite(edition: str) -> None:
    degraded = picture(1, 1, 17, 23)
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(SATNet(replace(EDITIONS[edition], channels=16, blocks=2))(degraded))  # BatchNorm has no past yet
    assert torch.equal(*outputs)
    residual = outputs[0] - degraded
    assert residual.isfinite().all() and residual.any() and residual.abs().max() < 10


@pytest.mark.parametrize(("edition", "least"), [("basic", 0.2), ("enhanced", 0.5), ("half", 0.5)])
def test_an_untrained_network_passes_the_noise_through_its_blocks(edition: str, least: float) -> None:
    """Where nothing of what the last convolution is to predict reaches it, training does not begin."""
    torch.manual_seed(0)
    network = SATNet(EDITIONS[edition])
    seen: list[Tensor] = []
    network.blocks.register_forward_hook(lambda *call: seen.append(call[2]))
    ramp = torch.linspace(0.2, 0.8, 64)
    noise = torch.randn(4, 1, 64, 64) * 0.1
    with torch.no_grad():
        network(ramp * ramp[:, None] + noise)
    features = seen[0].permute(0, 2, 3, 1).flatten(0, 2)  # M C
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    target = pixel_unshuffle(noise, network.config.downscale).permute(0, 2, 3, 1).flatten(0, 2)
    left = target - features @ torch.linalg.lstsq(features, target).solution
    assert 1 - left.var() / target.var() > least


def test_attention_branches_start_as_the_identity() -> None:
    x = torch.randn(2, 16, 9, 11, generator=Generator().manual_seed(0))
    assert torch.equal(LocalAttention(16)(x), x)
    assert torch.equal(NonLocalAttention(replace(BASIC, **SMALL))(x), x)


CONFIGS = {
    "basic": replace(BASIC, **SMALL),
    "key_stride": replace(BASIC, **SMALL, key_stride=1),
    "window": replace(BASIC, **SMALL, window=8),
    "half": replace(HALF, **SMALL, window=8, colors=3),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_is_one_by_one(name: str) -> None:
    network = awake(CONFIGS[name])
    degraded = picture(3, CONFIGS[name].colors, 19, 30)
    with torch.inference_mode():
        one_by_one = torch.cat([network(x[None]) for x in degraded])
        assert torch.allclose(network(degraded), one_by_one, rtol=0, atol=1e-5)


class Operations(TorchDispatchMode):
    """Counts the operations that PyTorch is asked for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CONFIGS)
def test_no_loop_over_the_batch(name: str) -> None:
    network, counts = awake(CONFIGS[name]), []
    for n in (1, 4):
        with torch.no_grad(), Operations() as operations:  # type: ignore[no-untyped-call]
            network(picture(n, CONFIGS[name].colors, 19, 30))
        counts.append(operations.count)
    assert counts[0] == counts[1] > 20


@pytest.mark.parametrize("edition", EDITIONS)
def test_bfloat16_is_close(edition: str) -> None:
    network, degraded = awake(replace(EDITIONS[edition], **SMALL)), picture(2, 1, 24, 28)
    with torch.inference_mode():
        wanted = network(degraded) - degraded
        with torch.autocast("cpu", torch.bfloat16):
            got = network(degraded) - degraded
    assert got.dtype == torch.float32
    assert 0 < (got - wanted).norm() / wanted.norm() < 0.02


# ---- each option changes what it says


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 5},
        {"stride": 2},
        {"key_stride": 1},
        {"similarity": "cosine"},
        {"similarity_scale": 0.5},
        {"window": 8, "halo": 4},
    ],
)
def test_options_of_attention_change_the_output(change: dict[str, Any]) -> None:
    degraded = picture(1, 1, 21, 30)
    plain, changed = awake(replace(BASIC, **SMALL)), awake(replace(BASIC, **SMALL, **change))
    weights = {name: value for name, value in plain.state_dict().items() if "log_scale" not in name}
    assert not changed.load_state_dict(weights, strict=False).unexpected_keys
    assert (changed(degraded) - plain(degraded)).abs().max() > 1e-6


def test_halo_changes_the_output() -> None:
    degraded = picture(1, 1, 21, 30)
    outputs = [awake(replace(BASIC, **SMALL, window=4, halo=halo))(degraded) for halo in (0, 4, 8)]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-6 and (outputs[1] - outputs[2]).abs().max() > 1e-6


@pytest.mark.parametrize("nonlocal_attention", ["patch", "pixel"])
@pytest.mark.parametrize(("downscale", "height", "width"), [(1, 16, 12), (2, 31, 32)])
def test_a_map_no_larger_than_a_window_with_its_halo_is_global(
    downscale: Literal[1, 2], height: int, width: int, nonlocal_attention: Literal["patch", "pixel"]
) -> None:
    config = replace(BASIC, **SMALL, downscale=downscale, nonlocal_attention=nonlocal_attention)
    degraded = picture(1, 1, height, width)
    bounded = awake(replace(config, window=8, halo=4))
    assert torch.equal(bounded(degraded), awake(config)(degraded))
    wider = picture(1, 1, height, width + 8 * downscale)
    assert not torch.equal(bounded(wider), awake(config)(wider))


def test_strength_changes_the_output() -> None:
    network, degraded = awake(replace(BASIC, **SMALL, conditioned=True)), picture(2, 1, 9, 11)
    blind = network(degraded)
    assert torch.equal(blind, network(degraded, torch.full((2,), UNKNOWN_STRENGTH)))
    outputs = [network(degraded, torch.tensor(s)) for s in ([0.1, 0.1], [0.2, 0.2], [0.1, 0.2])]
    for i, output in enumerate(outputs):
        assert (output - blind).abs().amax((1, 2, 3)).min() > 1e-4, i
    mixed = torch.stack([outputs[0][0], outputs[1][1]])  # each picture has its own strength
    assert torch.allclose(outputs[2], mixed, rtol=0, atol=1e-5)


def test_an_unconditioned_network_takes_no_strength() -> None:
    with pytest.raises(AssertionError, match="takes no strength"):
        awake(replace(BASIC, **SMALL))(picture(1, 1, 5, 5), torch.tensor([0.1]))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_cosine_starts_with_one_projection_for_queries_and_keys(similarity: Literal["dot", "cosine"]) -> None:
    torch.manual_seed(0)
    qkv = NonLocalAttention(replace(BASIC, similarity=similarity)).qkv
    assert qkv.bias is not None
    for parameter in (qkv.weight, qkv.bias):
        query, key, value = parameter.chunk(3)
        assert torch.equal(query, key) == (similarity == "cosine")
        assert not torch.equal(query, value)


def test_cosine_does_not_see_a_pixels_length() -> None:
    """Attention weights stay the same when all features, hence Q, K and V, are ten times as large."""
    torch.manual_seed(0)
    attention = NonLocalAttention(replace(BASIC, **SMALL, similarity="cosine"))
    nn.init.zeros_(attention.qkv.bias)  # type: ignore[arg-type]
    nn.init.normal_(attention.up.weight)
    x = torch.randn(1, 16, 12, 12)
    assert torch.allclose(attention(10 * x), 10 * attention(x), rtol=0, atol=0.02 * float(x.abs().max()))


@pytest.mark.parametrize(("kind", "scale"), [("pixel", BOUND / 16), ("patch", 20.0)])
def test_the_scale_of_normalised_pixels_is_bounded(kind: Literal["patch", "pixel"], scale: float) -> None:
    attention = NonLocalAttention(replace(HALF, nonlocal_attention=kind))
    with torch.no_grad():
        attention.log_scale.fill_(math.log(20))
    assert abs(attention.scale.item() - scale) < 1e-4
    q, k, _ = attention.project(100 * torch.randn(1, 64, 12, 12))
    similarity = q.flatten(0, 2) @ k.flatten(0, 2).T
    assert kind == "patch" or attention.scale * similarity.abs().max() < 1.0001 * BOUND


# ---- the gate


def test_gate_weights_sum_to_one_across_branches() -> None:
    torch.manual_seed(0)
    gate = BranchGate(16)
    first, second = torch.randn(2, 2, 16, 5, 7)
    pooled = (first + second).mean((2, 3))[:, None, None]
    weights = gate.weights(pooled)
    assert weights.shape == (2, 2, 1, 1, 16)
    assert torch.allclose(weights.sum(0), torch.ones(2, 1, 1, 16)) and (weights > 0).all()
    weight = gate.weight(first, second)
    assert torch.equal(weight, weights[0].permute(0, 3, 1, 2))
    assert torch.allclose(gate(first, second), weight * first + (1 - weight) * second, rtol=0, atol=1e-6)
    assert (gate.weight(2 * first + 1, 2 * second + 1) - weight).abs().max() > 1e-3  # by what the map holds, ...
    assert (weight[0] - weight[1]).abs().max() > 1e-3  # ... for each picture, ...
    assert weight.std(1).min() > 1e-3  # ... and per channel


def test_gates_with_windows_weigh_every_place_by_what_is_around_it() -> None:
    torch.manual_seed(0)
    everywhere, windowed = BranchGate(8), BranchGate(8, window=32)
    windowed.load_state_dict(everywhere.state_dict())
    first, second = torch.randn(2, 2, 8, 30, 112)
    first[..., 56:] += 2
    small = first[..., :32], second[..., :32]
    assert torch.equal(windowed(*small), everywhere(*small)), "a map no larger than a window is seen whole"
    weight = windowed.weight(first, second)
    assert weight.shape == first.shape

    def seen(left: int) -> Tensor:
        return everywhere.weight(first[..., left : left + 32], second[..., left : left + 32])

    half_way = (weight[..., 23:24] + weight[..., 24:25]) / 2
    for got, wanted in (
        (weight[..., :1], seen(0)),
        (weight[..., 15:16], seen(0)),
        (half_way, (seen(0) + seen(16)) / 2),
        (weight[..., 96:97], seen(80)),
        (weight[..., 111:], seen(80)),
    ):
        assert torch.allclose(got.mean(2, keepdim=True), wanted, rtol=0, atol=1e-5)
    assert (weight[..., 0] - weight[..., 111]).abs().mean() > 0.01


def test_fusion_and_local_attention_share_the_gate() -> None:
    assert isinstance(SATNet(BASIC).blocks[0].fusion, SynergicFusion)
    assert issubclass(SynergicFusion, BranchGate)
    assert type(LocalAttention(8).gate) is BranchGate


# ---- BatchNorm


def test_fold_batch_norm_changes_nothing() -> None:
    network = awake(replace(BASIC, **(SMALL | {"blocks": 2, "depth": 3})))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias):
                nn.init.normal_(values, std=0.5)  # type: ignore[arg-type]
            for values in (module.running_var, module.weight):
                nn.init.uniform_(values, 0.5, 2)  # type: ignore[arg-type]
    degraded = picture(2, 1, 17, 23)
    with torch.inference_mode():
        wanted = network(degraded)
        folded = fold_batch_norm(network)
        assert folded is network and not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        assert (wanted - degraded).abs().max() > 0.05
        assert (folded(degraded) - wanted).abs().max() < 1e-5


def test_fold_batch_norm_leaves_a_network_without_any() -> None:
    network, degraded = awake(replace(HALF, **SMALL)), picture(1, 1, 9, 9)
    assert torch.equal(fold_batch_norm(network)(degraded), awake(replace(HALF, **SMALL))(degraded))


# ---- wrong configurations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 2}, "channels: expected at least 4, got 2"),
        ({"blocks": 0}, "blocks: expected at least 1, got 0"),
        ({"depth": 0}, "depth: expected at least 1, got 0"),
        ({"embedding": 0}, "embedding: expected at least 1, got 0"),
        ({"patch_size": 0}, "patch_size: expected at least 1, got 0"),
        ({"stride": 0}, "stride: expected at least 1, got 0"),
        ({"key_stride": 0}, "key_stride: expected at least 1, got 0"),
        ({"halo": -4}, "halo: expected at least 0, got -4"),
        ({"similarity_scale": 0.0}, "similarity_scale: expected a finite number above 0, got 0.0"),
        ({"patch_size": 3}, "stride: expected at most the patch_size 3, got 4"),
        ({"window": 30}, "expected multiples of the strides' 4, got 30 and 8"),
        ({"window": 0}, "expected multiples of the strides' 4, got 0 and 8"),
        ({"window": 32, "halo": 6}, "expected multiples of the strides' 4, got 32 and 6"),
    ],
)
def test_wrong_configurations(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(BASIC, **change)
