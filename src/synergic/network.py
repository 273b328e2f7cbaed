"""SAT-Net, the Synergic Attention Network.

C. Mou, J. Zhang, "Synergic feature attention for image restoration", ICASSP 2021, doi 10.1109/ICASSP39728.2021.9413484.

    degraded -> Conv3x3 -> [SynergicBlock] x 4 -> Conv3x3 -> (+) -> restored
       |______________________________________________________|

    SynergicBlock: features -> FeatureExtraction -+-> LocalAttention ---------+
                                                  +-> NonLocalAttention ------+-> SynergicFusion -> features

Shape letters: N pictures, C channels of the features, H W their height and width, h w windows along them.
Convolutions run channels-last, as their weights lie; attention sees the same memory as N H W C (see attention.py).
"""

from dataclasses import dataclass, replace
from itertools import chain, pairwise
from math import inf, lcm, log
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from synergic.attention import BOUND, patch_attention
from synergic.card import UNKNOWN_STRENGTH
from synergic.pooling import between_windows, window_means

QUERIES_AT_ONCE = 512
"""Queries of a whole map that are compared at once when restoring, eight times as many on a GPU: as fast as all of
them, in memory that does not grow with the square of the map. Training's crops are small."""


@dataclass(frozen=True)
class SATNetConfig:
    """Everything that shapes a SAT-Net. The defaults are the paper's basic network for gray pictures."""

    colors: Literal[1, 3] = 1
    """Channels of the picture: 1 gray, 3 RGB."""
    downscale: Literal[1, 2] = 1
    """2: the half-resolution edition; pixels are unshuffled to half the size, and back at the end."""
    conditioned: bool = False
    """Takes the degradation's strength as one constant input plane (sigma/255, or quality/100, or unknown)."""
    channels: int = 64
    """Feature channels, at least 4: local attention halves them and its gate halves them again."""
    blocks: int = 4
    """Synergic blocks."""
    extraction: Literal["plain", "residual"] = "plain"
    """Feature extraction: plain, `depth` x (Conv-BatchNorm-ReLU); residual, `depth` x (x + Conv-ReLU-Conv)."""
    depth: int = 6
    """Layers (plain) or residual blocks (residual) of each feature extraction."""
    local_attention: bool = True
    """Selective-kernel channel attention."""
    nonlocal_attention: Literal["patch", "pixel"] | None = "patch"
    """Non-local attention over patches, over single pixels, or none."""
    embedding: int = 16
    """Channels of Q, K and V."""
    patch_size: int = 7
    """Side of an attention patch, in feature pixels."""
    stride: int = 4
    """Step between query patches, at most `patch_size`, so that they cover every pixel."""
    key_stride: int = 4
    """Step between key and value patches; 1 compares with every position, at 16 times the cost."""
    similarity: Literal["dot", "cosine"] = "dot"
    """dot: the paper's Q^T K. cosine: each pixel's Q and K are normalised, and both start as one projection."""
    similarity_scale: float = 1 / 28
    """Factor on the similarity before the softmax, learnt from this start; 1/28 is 1/sqrt(7*7*16)."""
    window: int | None = None
    """Side of the windows that bound non-local attention, in feature pixels; None is the paper's global form, and so is
    a map no larger than a window with its halo."""
    halo: int = 8
    """How far beyond its window a query sees, in feature pixels."""
    gate_window: int | None = None
    """Side of the windows whose means the gates see, in feature pixels; None is the paper's mean of the whole map, and
    so is a map no larger than a window."""

    def __post_init__(self) -> None:
        least, most = {"channels": 4, "halo": 0}, {"blocks": 64, "depth": 64}  # bounded: a file may ask for any network
        for name in ("channels", "blocks", "depth", "embedding", "patch_size", "stride", "key_stride", "halo"):
            value, low, high = getattr(self, name), least.get(name, 1), most.get(name, 1024)
            if value < low:
                raise ValueError(f"{name}: expected at least {low}, got {value}")
            if value > high:
                raise ValueError(f"{name}: expected at most {high}, got {value}")
        if not 0 < self.similarity_scale < inf:
            raise ValueError(f"similarity_scale: expected a finite number above 0, got {self.similarity_scale}")
        bound = BOUND / self.embedding
        if self.nonlocal_attention == "pixel" and self.similarity == "cosine" and self.similarity_scale > bound:
            raise ValueError(f"similarity_scale: expected at most {bound:g} for pixels, got {self.similarity_scale}")
        if self.nonlocal_attention == "patch" and self.stride > self.patch_size:
            raise ValueError(f"stride: expected at most the patch_size {self.patch_size}, got {self.stride}")
        step = lcm(*self.patches[1:]) if self.nonlocal_attention else 1
        if self.window is not None and (self.window < 1 or self.window % step or self.halo % step):
            raise ValueError(
                f"window and halo: expected multiples of the strides' {step}, got {self.window} and {self.halo}"
            )
        for name, side in (("window", self.window), ("gate_window", self.gate_window)):
            if side is not None and not 1 <= side <= 1024:
                raise ValueError(f"{name}: expected 1 to 1024, got {side}; None for the whole picture")

    @property
    def patches(self) -> tuple[int, int, int]:
        """Side of a patch, step between queries and between keys: one, where pixels are compared."""
        if self.nonlocal_attention == "pixel":
            return 1, 1, 1
        return self.patch_size, self.stride, self.key_stride


BASIC = SATNetConfig()
ENHANCED = replace(BASIC, extraction="residual", depth=5)
HALF = replace(
    BASIC,
    downscale=2,
    extraction="residual",
    depth=3,
    nonlocal_attention="pixel",
    similarity="cosine",
    similarity_scale=1.0,
    window=16,
    halo=4,
    gate_window=80,
)
EDITIONS = {"basic": BASIC, "enhanced": ENHANCED, "half": HALF}
"""basic and enhanced are the paper's; half is the default, at a quarter of the cost per pixel. It compares
single pixels of its features, each with all of a window: 0.2 dB better than its patches (docs/ablation.md)."""


class SATNet(nn.Module):
    """Restores degraded pictures: predicts the residual and adds it."""

    def __init__(self, config: SATNetConfig) -> None:
        super().__init__()
        self.config = config
        planes = config.colors * config.downscale**2
        self.head = nn.Conv2d(planes + config.conditioned, config.channels, 3, padding=1)
        self.blocks = nn.Sequential(*(SynergicBlock(config) for _ in range(config.blocks)))
        self.tail = nn.Conv2d(config.channels, planes, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, degraded: Tensor, strength: Tensor | None = None) -> Tensor:
        """degraded: N C H W in about [0, 1], any size from 1x1. Returns restored, N C H W, not clamped.

        strength: N values (sigma/255 or quality/100, UNKNOWN_STRENGTH where not known), for conditioned networks
        only; without it they work blind.
        """
        height, width = degraded.shape[2:]
        scale = self.config.downscale
        padded = F.pad(degraded, (0, -width % scale, 0, -height % scale), mode="replicate")
        planes = F.pixel_unshuffle(padded, scale)  # N C*s*s H/s W/s
        features = self.head(self._with_strength(planes, strength))
        residual = self.tail(self.blocks(features))
        return degraded + F.pixel_shuffle(residual, scale)[..., :height, :width]

    def _with_strength(self, planes: Tensor, strength: Tensor | None) -> Tensor:
        if not self.config.conditioned:
            assert strength is None, "this network takes no strength"
            return planes
        if strength is None:
            strength = planes.new_full((len(planes),), UNKNOWN_STRENGTH)
        plane = strength.to(planes).view(-1, 1, 1, 1).expand(-1, -1, *planes.shape[2:])
        return torch.cat([planes, plane], 1)


class SynergicBlock(nn.Module):
    """Feature extraction, then local and non-local attention side by side, then their learnt trade-off."""

    def __init__(self, config: SATNetConfig) -> None:
        super().__init__()
        self.extraction = feature_extraction(config)
        self.local_attention = LocalAttention(config.channels, config.gate_window) if config.local_attention else None
        self.nonlocal_attention = NonLocalAttention(config) if config.nonlocal_attention else None
        both = config.local_attention and config.nonlocal_attention is not None
        self.fusion = SynergicFusion(config.channels, config.gate_window) if both else None

    def forward(self, x: Tensor) -> Tensor:  # N C H W -> N C H W
        x = self.extraction(x)
        branches = [attention(x) for attention in (self.local_attention, self.nonlocal_attention) if attention]
        if self.fusion is not None:
            return self.fusion(*branches)
        return branches[0] if branches else x


def feature_extraction(config: SATNetConfig) -> nn.Sequential:
    """The two editions of the paper: basic is plain, enhanced is residual."""
    if config.extraction == "residual":
        return nn.Sequential(*(ResidualBlock(config.channels) for _ in range(config.depth)))
    layers = (plain_layer(config.channels) for _ in range(config.depth))
    return nn.Sequential(*chain.from_iterable(layers))


@torch.no_grad()
def plain_layer(channels: int) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU]:
    """Conv-BatchNorm-ReLU, starting near the identity.

    There are 24 in a row without a skip. Where all start at random, what comes out of the last shows nothing of the
    noise that is to be predicted, and training never begins. (The identity: Zagoruyko, Komodakis, "DiracNets", 2017,
    arXiv 1706.00388.)
    """
    convolution, norm = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
    convolution.weight.add_(nn.init.dirac_(torch.empty_like(convolution.weight)))
    nn.init.ones_(norm.bias)  # one deviation up: ReLU passes five sixths
    return convolution, norm, nn.ReLU()


class ResidualBlock(nn.Module):
    """x + Conv-ReLU-Conv, without BatchNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # N C H W -> N C H W
        return x + self.conv2(F.relu(self.conv1(x)))


class BranchGate(nn.Module):
    """Softmax across two branches, per channel: the weights of their sum, from what the map holds.

    Sum of the branches -> average pool -> squeeze -> one layer per branch -> softmax over the branches (Li et al.,
    "Selective kernel networks", CVPR 2019). The pool is global, or over a window around each place, as large as what
    training showed (Chu et al., "Improving image restoration by revisiting global information aggregation", ECCV 2022).
    """

    def __init__(self, channels: int, window: int | None = None, reduction: int = 2) -> None:
        super().__init__()
        self.window = window
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, 2 * channels)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:  # N C H W each -> N C H W
        return torch.lerp(second, first, self.weight(first, second))

    def weight(self, first: Tensor, second: Tensor) -> Tensor:  # N C H W each -> N C H W, or N C 1 1 for all places
        """The first branch's weight; the second's is what is missing to 1."""
        summed = first + second
        height, width = summed.shape[2:]
        if self.window is None or max(height, width) <= self.window:
            pooled = summed.mean((2, 3))[:, None, None]  # N 1 1 C
            return self.weights(pooled)[0].permute(0, 3, 1, 2)
        weights = self.weights(window_means(summed, self.window))
        return between_windows(weights[0], height, width, self.window)

    def weights(self, pooled: Tensor) -> Tensor:  # N h w C -> 2 N h w C, summing to 1 over 2
        logits = self.excite(F.relu(self.squeeze(pooled)))  # N h w 2*C
        return torch.stack(logits.chunk(2, 3)).softmax(0).to(pooled)


class LocalAttention(nn.Module):
    """Selective-kernel channel attention: two receptive fields, gated per channel, on half the features."""

    def __init__(self, channels: int, gate_window: int | None = None) -> None:
        super().__init__()
        half = channels // 2
        self.down = nn.Conv2d(channels, half, 1)
        self.field3 = nn.Conv2d(half, half, 3, padding=1)  # receptive field 3x3
        self.field5 = nn.Sequential(  # 3x3 twice: 5x5
            nn.Conv2d(half, half, 3, padding=1), nn.ReLU(), nn.Conv2d(half, half, 3, padding=1)
        )
        self.gate = BranchGate(half, gate_window)
        self.up = zeroed(nn.Conv2d(half, channels, 1))

    def forward(self, x: Tensor) -> Tensor:  # N C H W -> N C H W
        y = self.down(x)  # N C/2 H W
        return x + self.up(self.gate(F.relu(self.field3(y)), F.relu(self.field5(y))))


class NonLocalAttention(nn.Module):
    """Patch-wise (or pixel-wise) non-local attention: Q, K, V by 1x1 convolutions, attention, 1x1 up, residual."""

    def __init__(self, config: SATNetConfig) -> None:
        super().__init__()
        self.config = config
        self.qkv = nn.Conv2d(config.channels, 3 * config.embedding, 1)
        self.up = zeroed(nn.Conv2d(config.embedding, config.channels, 1))
        self.log_scale = nn.Parameter(torch.tensor(log(config.similarity_scale)))
        if config.similarity == "cosine":
            with torch.no_grad():  # unequal random projections would start blind to what is alike
                for parameter in self.qkv.parameters():
                    query, key, _ = parameter.chunk(3)
                    key.copy_(query)

    def forward(self, x: Tensor) -> Tensor:  # N C H W -> N C H W
        attended = self.attend(*self.project(x))  # N H W E
        return x + self.up(attended.contiguous().permute(0, 3, 1, 2))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # N C H W -> Q, K, V, each N H W E
        q, k, v = self.qkv(x).permute(0, 2, 3, 1).chunk(3, 3)
        if self.config.similarity == "cosine":
            q, k = (F.layer_norm(x, x.shape[3:]).to(v) for x in (q, k))
        return q, k, v

    @property
    def scale(self) -> Tensor:
        """Factor on the similarity; that of normalised pixels is kept to a bound: `photo` has reached it in a block."""
        scale = self.log_scale.exp()
        return scale.clamp(max=BOUND / self.config.embedding) if self._bounded else scale

    @property
    def _bounded(self) -> bool:
        return self.config.similarity == "cosine" and self.config.nonlocal_attention == "pixel"

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # N H W E -> N H W E
        patch_size, stride, key_stride = self.config.patches
        return patch_attention(
            q,
            k,
            v,
            scale=self.scale,
            patch_size=patch_size,
            stride=stride,
            key_stride=key_stride,
            window=self.config.window,
            halo=self.config.halo,
            chunk=None if self.training else QUERIES_AT_ONCE * (1 if q.is_cpu else 8),
            bounded=self._bounded,
        )


class SynergicFusion(BranchGate):
    """The learnt trade-off between the local and the non-local branch, per channel."""


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with zero weights: an attention branch then starts as the identity."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def count_parameters(network: nn.Module) -> int:
    """Number of learnt values."""
    return sum(parameter.numel() for parameter in network.parameters())


def fold_batch_norm(network: SATNet) -> SATNet:
    """A network in evaluation mode with every BatchNorm folded into the convolution before it, in place."""
    for extraction in (module for module in network.modules() if isinstance(module, nn.Sequential)):
        for i, (convolution, norm) in enumerate(pairwise(extraction)):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                extraction[i], extraction[i + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    return network
