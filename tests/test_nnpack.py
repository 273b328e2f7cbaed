"""3x3 convolutions by NNPACK, where PyTorch has it: the same numbers, and chosen where they are the faster ones."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from synergic import Restorer
from synergic.hardware import gains_from_nnpack
from synergic.network import fold_batch_norm
from synergic.nnpack import NNPACKConv2d, use_nnpack
from synergic.weights import load_weights

CPU = torch.device("cpu")
NNPACK = pytest.mark.skipif(not torch.backends.nnpack.is_available(), reason="this build of PyTorch has no NNPACK")


@NNPACK
@pytest.mark.parametrize("side", [1, 2, 5, 6, 7, 33, 64])
@pytest.mark.parametrize(("channels", "made"), [(5, 64), (64, 64), (32, 32), (64, 4)])
def test_a_convolution_is_that_of_float64(side: int, channels: int, made: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(channels, made, 3, padding=1)
    x = torch.randn(2, channels, side, side + 3)
    wanted = deepcopy(convolution).double()(x.double())
    for layout in (torch.contiguous_format, torch.channels_last):
        got = NNPACKConv2d(convolution)(x.contiguous(memory_format=layout))
        assert got.shape == wanted.shape and got.is_contiguous()
        assert (got - wanted).abs().max() < 5e-5


@NNPACK
@pytest.mark.parametrize("weights", ["gray-denoise", "photo"])
def test_a_network_restores_alike_and_has_the_same_gradients(weights: str) -> None:
    network, _ = load_weights(weights)
    network = fold_batch_norm(network)
    turned = deepcopy(network)
    use_nnpack(turned)
    kinds = [module for module in turned.modules() if isinstance(module, nn.Conv2d | NNPACKConv2d)]
    by_nnpack = [module for module in kinds if isinstance(module, NNPACKConv2d)]
    assert len(by_nnpack) == 4 * (6 + 3) + 2  # residual and local layers of four blocks, head and tail
    assert all(convolution.kernel_size == (1, 1) for convolution in kinds if isinstance(convolution, nn.Conv2d))
    assert list(turned.state_dict()) == list(network.state_dict())

    differences = []
    for seed in range(1, 4):
        degraded = torch.rand(1, network.config.colors, 75, 98, generator=torch.Generator().manual_seed(seed))
        results = []
        for each in (network, turned):
            x = degraded.clone().requires_grad_()
            restored = each(x)
            in_x, in_head = torch.autograd.grad(restored.square().sum(), (x, each.head.weight))
            results.append((restored.detach(), in_x, in_head))
        assert (results[0][0] - degraded).abs().max() > 0.1  # it does something
        assert (results[0][0] - results[1][0]).abs().max() < 1e-5
        differences.append(max((first - second).norm() / first.norm() for first, second in zip(*results, strict=True)))
    assert max(differences) < 1e-3  # some ReLU lets through what another does not
    assert min(differences) < 1e-5  # but not on every picture


APPLY = """
import sys, torch
convolution = torch.load(sys.argv[1], weights_only=False)
print(convolution(torch.ones(1, 2, 9, 9)).mean().item())
"""


@NNPACK
def test_a_process_that_unpickles_one_convolves_too(tmp_path: Path) -> None:
    """PyTorch starts NNPACK in a process that asks for it: in others, all its convolutions fail."""
    torch.manual_seed(0)
    convolution = NNPACKConv2d(nn.Conv2d(2, 8, 3, padding=1))
    torch.save(convolution, tmp_path / "convolution.pt")
    arguments = [sys.executable, "-c", APPLY, str(tmp_path / "convolution.pt")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(convolution(torch.ones(1, 2, 9, 9)).mean().item(), abs=1e-6)


def test_a_machine_without_nnpack_convolves_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    convolution, x = nn.Conv2d(2, 8, 3, padding=1), torch.rand(1, 2, 9, 9)
    brought = NNPACKConv2d(convolution)
    monkeypatch.setattr(torch.backends.nnpack, "is_available", lambda: False)
    assert torch.equal(brought(x), convolution(x))


@pytest.mark.parametrize(
    ("capability", "precision", "wanted"),
    [
        ("AVX2", "float32", True),
        ("AVX512", "float32", False),
        ("DEFAULT", "float32", False),
        ("AVX2", "bfloat16", False),
    ],
)
def test_restorers_take_it_where_it_pays(
    capability: str, precision: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.nnpack, "is_available", lambda: True)
    restorer = Restorer.from_pretrained("gray-denoise", device="cpu", precision=precision)
    assert isinstance(restorer.network.tail, NNPACKConv2d) == wanted


def test_nothing_is_changed_without_nnpack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.backends.nnpack, "is_available", lambda: False)
    assert not gains_from_nnpack(CPU, torch.float32)
    assert not gains_from_nnpack(torch.device("cuda"), torch.float32)
