"""Networks that are raced, and how many operations they take."""

import torch
from torch import nn

from synergic.network import SATNet, SATNetConfig


def dncnn() -> nn.Sequential:
    """DnCNN's shape (K. Zhang et al., IEEE TIP 2017): 17 layers of 64 channels, BatchNorm; random weights."""
    layers: list[nn.Module] = [nn.Conv2d(1, 64, 3, padding=1), nn.ReLU()]
    for _ in range(15):
        layers += [nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(64, 1, 3, padding=1))


def eight_convolutions() -> nn.Sequential:
    """What the hardware gives: 64-channel convolutions with nothing between them, channels-last."""
    net = nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=1) for _ in range(8)))
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def satnet_flop(config: SATNetConfig, pixels: int) -> float:
    """Convolutions, and attention's two products in its plain form, over windows with their halo or the whole map."""
    positions = pixels / config.downscale**2
    weights = sum(m.weight.numel() for m in SATNet(config).modules() if isinstance(m, nn.Conv2d))
    size, stride, key_stride = config.patches
    seen = positions if config.window is None else min(positions, (config.window + 2 * config.halo) ** 2)
    attention = config.blocks * 4 * positions / stride**2 * seen / key_stride**2 * size**2 * config.embedding
    return 2 * weights * positions + attention


def dncnn_flop(pixels: int) -> float:
    """15 convolutions of 64 to 64 channels, one from 1 and one to 1."""
    return 2 * 9 * (15 * 64 * 64 + 2 * 64) * pixels


def convolutions_flop(positions: int) -> float:
    """Of `eight_convolutions` on so many positions."""
    return 8 * 2 * 9 * 64 * 64 * positions
