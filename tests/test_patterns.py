"""Made-up patterns: within range, from their generator alone, as fine and as varied as they say."""

import pytest
import torch
from torch import Generator, Tensor

from synergic.data import Crops
from synergic.degradations import GaussianNoise
from synergic.patterns import PERIODS, add_pattern, smooth, stripes

FLAT = torch.full((3, 64, 96), 0.5)


def drawn(seed: int, clean: Tensor = FLAT) -> Tensor:
    return add_pattern(clean, Generator().manual_seed(seed))


def test_a_pattern_depends_on_its_generator_alone() -> None:
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.equal(FLAT, torch.full((3, 64, 96), 0.5))


def test_patterned_pictures_stay_in_range_and_vary_in_contrast() -> None:
    pictures = torch.stack([drawn(seed) for seed in range(200)])
    assert pictures.shape == (200, 3, 64, 96)
    assert pictures.min() >= 0 and pictures.max() <= 1
    contrast = pictures.std((1, 2, 3))
    assert contrast.min() < 0.02 and contrast.max() > 0.2


@pytest.mark.parametrize("seed", range(8))
def test_unfolded_stripes_are_one_wave(seed: int) -> None:
    """Of the energy of a stripe's soft wave all but its overtones lies at one frequency, within PERIODS."""
    wave = stripes(torch.zeros(256, 256), Generator().manual_seed(seed))
    assert wave.abs().max() <= 1
    window = torch.hann_window(256, periodic=False)
    energy = torch.fft.fft2((wave - wave.mean()) * window * window[:, None]).abs().square()
    row, column = divmod(int(energy.argmax()), 256)
    frequency = sum(min(k, 256 - k) ** 2 for k in (row, column)) ** 0.5 / 256
    assert 1 / PERIODS[1] * 0.9 < frequency < 1 / PERIODS[0] * 1.1


def test_a_smooth_field_is_smooth() -> None:
    fields = torch.stack([smooth(60, 80, Generator().manual_seed(seed)) for seed in range(100)])
    assert 0.3 < fields.std() < 1.2
    assert fields.diff(dim=2).abs().mean() < 0.1


def test_a_share_of_the_crops_is_patterned() -> None:
    pictures = [FLAT.mul(255).byte().permute(1, 2, 0).numpy()]
    for patterns, low, high in ((0.0, 0, 0), (0.25, 30, 70), (1.0, 200, 200)):
        crops = Crops(pictures, GaussianNoise(), crop_size=16, batch_size=200, seed=0, patterns=patterns)
        clean = crops[0][1]
        assert low <= int((clean.std((1, 2, 3)) > 1e-3).sum()) <= high
