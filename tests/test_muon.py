import pytest
import torch
from torch import nn

from synergic.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(3, 16, 40), (3, 40, 16), (2, 8, 8), (1, 1, 30)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalized(matrices)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.5 and values.max() < 1.3
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    large = s > 0.2 * s.max()  # the small ones are still on their way to 1
    overlap = torch.einsum("nri,nrc,nic->ni", u, result, v)[large]
    assert overlap.min() > 0.6 and overlap.max() < 1.3


def test_the_scale_of_the_gradient_does_not_matter() -> None:
    matrices = torch.randn(2, 8, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalized(matrices), orthogonalized(matrices * 1024), atol=0.02, rtol=0)
    assert orthogonalized(torch.zeros(1, 4, 4)).abs().max() == 0


def test_one_step_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(8, 4, 3, 3, generator=generator) for _ in range(2)]
    gradients = [torch.randn(8, 4, 3, 3, generator=generator) for _ in range(2)]
    parameters = [nn.Parameter(weight.clone().contiguous(memory_format=torch.channels_last)) for weight in weights]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    Muon(parameters, lr=0.1, weight_decay=0.5).step()
    for parameter, weight, gradient in zip(parameters, weights, gradients, strict=True):
        nesterov = gradient * (1 - 0.95 + 0.95 * 0.05)
        step = orthogonalized(nesterov.flatten(1)[None]).view_as(weight)
        expected = weight * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 36**0.5 * step
        torch.testing.assert_close(parameter.detach(), expected)


def test_a_step_is_as_long_as_adamws() -> None:
    """Root mean square about 0.2 lr, whatever the shape: singular values are 0.7-1.2."""
    for shape in ((64, 64, 3, 3), (16, 200), (64, 16, 1, 1)):
        parameter = nn.Parameter(torch.zeros(shape))
        parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        Muon([parameter], lr=1.0).step()
        assert 0.14 < parameter.square().mean().sqrt().item() < 0.24


def test_it_finds_a_matrix() -> None:
    target = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    still, parameter = nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.zeros(6, 10))
    optimizer = Muon([still, parameter], lr=0.5)
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 0.5 * (1 - step / 100)
        optimizer.zero_grad()
        (parameter - target).square().sum().backward()
        optimizer.step()
    assert (parameter - target).abs().max() < 0.1
    assert still.abs().max() == 0, "no gradient, no step"
