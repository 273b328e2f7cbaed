"""Stripes and weaves, made by the code: content that repeats, which photographs taken at random hold little of.

Pictures are float32 tensors C H W in [0, 1].
"""

from math import cos, exp, log, pi, sin

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from synergic.degradations import uniform

PERIODS = 2.5, 16.0
"""From the finest stripes that pixels can show to coarse ones."""


def add_pattern(clean: Tensor, generator: Generator) -> Tensor:
    """The picture with a fabric laid over parts of it: folded stripes of one direction, or of two (a weave)."""
    height, width = clean.shape[1:]
    folds = uniform(0, 8, generator) * smooth(height, width, generator)
    fabric = stripes(folds, generator)
    if uniform(0, 1, generator) < 0.4:
        fabric = fabric * stripes(folds, generator)
    covered = torch.sigmoid(8 * (smooth(height, width, generator) + uniform(0, 1, generator)))
    tint = 1 + 0.3 * torch.randn(len(clean), 1, 1, generator=generator)
    contrast = exp(uniform(log(0.03), log(0.4), generator))
    return (clean + contrast * tint * covered * fabric).clamp(0, 1)


def stripes(folds: Tensor, generator: Generator) -> Tensor:
    """Parallel stripes in [-1, 1], H W, from soft to sharp, shifted by `folds` pixels at each position."""
    period = exp(uniform(log(PERIODS[0]), log(PERIODS[1]), generator))
    angle = uniform(0, pi, generator)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in folds.shape), indexing="ij")
    wave = torch.sin(2 * pi * ((x * cos(angle) + y * sin(angle) + folds) / period + uniform(0, 1, generator)))
    return torch.tanh(exp(uniform(-1, 1.5, generator)) * (wave + uniform(-0.5, 0.5, generator)))


def smooth(height: int, width: int, generator: Generator) -> Tensor:
    """A smooth random field about zero, H W, with a few hills and valleys."""
    knots = torch.randn(1, 1, *torch.randint(2, 6, (2,), generator=generator).tolist(), generator=generator)
    return F.interpolate(knots, (height, width), mode="bicubic", align_corners=True)[0, 0]
