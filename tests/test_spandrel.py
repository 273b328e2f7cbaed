"""SAT-Net through spandrel where it is installed, else through a stand-in of its interface."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import tiny_card, tiny_network
from synergic import Restorer, SynergicError
from synergic.cli import command
from synergic.weights import network_from_state_dict, save_state_dict, save_weights

MakeWeights = Callable[..., Path]


@pytest.mark.usefixtures("no_nnpack")
@pytest.mark.parametrize(
    ("colors", "changes"),
    [
        (3, {"window": 8, "halo": 4, "similarity": "cosine"}),
        (1, {"conditioned": False, "patch_size": 5, "stride": 2, "key_stride": 1}),
        (3, {"extraction": "plain", "nonlocal_attention": None}),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (40, 33)])
def test_what_spandrel_loads_restores_as_the_restorer_does(
    spandrel: Any, tmp_path: Path, colors: int, changes: dict[str, Any], size: tuple[int, int]
) -> None:
    network = tiny_network(colors, **changes)
    save_weights(tmp_path / "own.safetensors", network, tiny_card())
    save_state_dict(tmp_path / "spandrel.safetensors", network, tiny_card())
    loaded = spandrel.ModelLoader().load_from_file(tmp_path / "spandrel.safetensors")
    assert isinstance(loaded, spandrel.ImageModelDescriptor)
    assert (loaded.purpose, loaded.scale, loaded.input_channels, loaded.output_channels) == ("Restoration", 1, 3, 3)
    assert loaded.model.config == network.config
    image = np.random.default_rng(0).random((*size, 3), np.float32)
    restorer = Restorer.from_pretrained(tmp_path / "own.safetensors", device="cpu", precision="float32")
    restored = loaded(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(restored, restorer(image).clip(0, 1), atol=1e-6)
    assert size == (1, 1) or np.abs(restored - image).max() > 1e-3


def test_bfloat16_is_close(spandrel: Any, tmp_path: Path) -> None:
    save_state_dict(tmp_path / "a.safetensors", tiny_network(3, window=8), tiny_card())
    loaded = spandrel.ModelLoader().load_from_file(tmp_path / "a.safetensors")
    image = torch.rand(1, 3, 40, 33, generator=torch.Generator().manual_seed(0))
    wanted = loaded(image)
    got = loaded.bfloat16()(image.bfloat16())
    assert got.dtype == torch.bfloat16
    assert 0 < (got - wanted).abs().max() < 0.02


def test_weights_without_their_configuration_are_refused(spandrel: Any, make_weights: MakeWeights) -> None:
    with pytest.raises(SynergicError, match="expected its configuration in the tensor 'config', got none; write"):
        spandrel.ModelLoader().load_from_file(make_weights())


@pytest.mark.parametrize(
    "config", [torch.tensor(2**62), torch.zeros(1 << 17, dtype=torch.uint8), torch.tensor([123.0, 125.0])]
)
def test_a_configuration_that_is_none_costs_nothing(config: torch.Tensor) -> None:
    with pytest.raises(SynergicError, match="expected its configuration in the tensor 'config', got none; write"):
        network_from_state_dict({"config": config})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[1]", "expected its configuration"),
        ('{"channels": 8', "expected its configuration"),
        ('{"chanels": 8}', "expected a known key, got 'chanels'; did you mean 'channels'?"),
        ('{"channels": 1024, "blocks": 8, "depth": 64}', "the file is damaged"),  # made before the check: 39 GB
    ],
)
def test_damaged_configurations_are_refused(spandrel: Any, tmp_path: Path, config: str, message: str) -> None:
    save_state_dict(tmp_path / "a.safetensors", tiny_network(3), tiny_card())
    tensors = load_file(tmp_path / "a.safetensors")
    tensors["config"] = torch.tensor(list(config.encode()), dtype=torch.uint8)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(SynergicError, match=message):
        spandrel.ModelLoader().load_from_file(tmp_path / "a.safetensors")


def test_values_that_are_not_finite_are_refused(spandrel: Any, tmp_path: Path) -> None:
    network = tiny_network(3)
    with torch.no_grad():
        network.tail.bias[0] = torch.nan  # type: ignore[index]
    save_state_dict(tmp_path / "a.safetensors", network, tiny_card())
    with pytest.raises(SynergicError, match="tail.bias: expected finite values, got NaN or infinity"):
        spandrel.ModelLoader().load_from_file(tmp_path / "a.safetensors")


def test_the_command_writes_what_spandrel_loads(spandrel: Any, tmp_path: Path, make_weights: MakeWeights) -> None:
    target = tmp_path / "out.safetensors"
    arguments = ["export", "--weights", str(make_weights(colors=3)), "--for", "spandrel", "-o"]
    command([*arguments, str(target)], standalone_mode=False)
    assert bytes(load_file(target)["config"].tolist()) == json.dumps(tiny_network(3).config.__dict__).encode()
    assert spandrel.ModelLoader().load_from_file(target).model.config == tiny_network(3).config
    with pytest.raises(SynergicError, match="out.safetensors: exists; pass --overwrite"):
        command([*arguments, str(target)], standalone_mode=False)
    with pytest.raises(SynergicError, match="--blind: expected an ONNX model, got a file for spandrel"):
        command([*arguments, str(target), "--blind", "--overwrite"], standalone_mode=False)
    with pytest.raises(SynergicError, match="expected a name that ends in .safetensors"):
        command([*arguments, str(tmp_path / "out.onnx")], standalone_mode=False)
