import json
import os
import pickle
import re
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from conftest import tiny_card, tiny_network
from synergic.card import Card, published_weights
from synergic.errors import SynergicError
from synergic.network import zeroed
from synergic.weights import load_weights, read_header, save_weights

MakeWeights = Callable[..., Path]
TRAINING = Path(__file__).parents[1] / "training"


def contents(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def test_round_trip(tmp_path: Path) -> None:
    network, card = tiny_network(colors=3), replace(tiny_card(), scores={"Set12, sigma 25": 30.5})
    path = tmp_path / "new folder" / "a.safetensors"
    save_weights(path, network, card)
    loaded, loaded_card = load_weights(path)
    assert loaded.config == network.config
    assert loaded_card == card
    assert not loaded.training
    for key, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("head.bias"), r"head.bias: expected F32 \[8\], got none; the file"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), r"extra: expected none, got F32 \[1\]"),
        (
            lambda tensors: tensors.update({"head.bias": torch.zeros(9)}),
            r"expected F32 \[8\], got F32 \[9\]",
        ),
    ],
)
def test_tensors_must_fit_exactly(
    make_weights: MakeWeights, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    path = make_weights()
    tensors, metadata = contents(path)
    change(tensors)
    save_file(tensors, path, metadata)
    with pytest.raises(SynergicError, match=message):
        load_weights(path)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("config", {"chanels": 8}, "expected a known key, got 'chanels'; did you mean 'channels'"),
        ("config", {"channels": 0}, "safetensors: channels: expected at least 4, got 0$"),
        ("config", {"nonlocal_attention": "voxel"}, "nonlocal_attention"),
        ("card", {"task": "cook"}, "task"),
    ],
)
def test_headers_are_read_strictly(
    make_weights: MakeWeights, key: str, change: dict[str, object], message: str
) -> None:
    path = make_weights()
    tensors, metadata = contents(path)
    metadata[key] = json.dumps(json.loads(metadata[key]) | change)
    save_file(tensors, path, metadata)
    with pytest.raises(SynergicError, match=message):
        read_header(path)


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(SynergicError, match="expected weights of format synergic-1, got none"):
        load_weights(path)
    save_file({"x": torch.zeros(1)}, path, {"format": "synergic-1", "config": "{"})
    with pytest.raises(SynergicError, match="incomplete header"):
        load_weights(path)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "evil.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(SynergicError, match="expected a safetensors file"):
        load_weights(path)
    assert not (tmp_path / "ran").exists()


def test_an_unknown_name_lists_the_published_ones() -> None:
    with pytest.raises(SynergicError, match="nothing-like-it: expected a weights file or a published name"):
        load_weights("nothing-like-it")


def test_float16_is_half_the_size_and_loads_as_float32(tmp_path: Path) -> None:
    network, paths = tiny_network(extraction="plain"), [tmp_path / "whole", tmp_path / "half"]
    for path, half in zip(paths, (False, True), strict=True):
        save_weights(path, network, tiny_card(), half=half)
    headers = [int.from_bytes(path.read_bytes()[:8], "little") for path in paths]
    whole, halved = (path.stat().st_size - header for path, header in zip(paths, headers, strict=True))
    assert 0.49 < halved / whole < 0.52
    for key, tensor in load_weights(paths[1])[0].state_dict().items():
        own = network.state_dict()[key]
        assert tensor.dtype == own.dtype
        assert torch.equal(tensor, own.half().to(own.dtype)), key


def test_published_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in published_weights().values()) < 25_000_000


@pytest.mark.parametrize("name", published_weights())
def test_published_weights_load_and_say_what_they_are(name: str) -> None:
    network, card = load_weights(name)
    assert card.name == name
    assert card.steps > 1000
    assert card.seconds > 0
    assert card.licence
    assert card.scores
    assert network.config.conditioned


@pytest.mark.parametrize("colors", [1, 3])
@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({"blocks": 2, "depth": 2}, 31),
        ({"extraction": "plain", "downscale": 1, "channels": 16}, 33),
        ({"local_attention": False, "embedding": 6}, 13),
        ({"nonlocal_attention": None}, 22),
    ],
)
def test_the_documented_tensors_are_those_of_the_network(
    colors: int, conditioned: bool, changes: dict[str, Any], rows: int
) -> None:
    """Every tensor is a row of docs/weights.md, with its shape."""
    text = (Path(__file__).parents[1] / "docs" / "weights.md").read_text()
    table = dict(re.findall(r"^\| `(\S+\.\S+)` \| (.+?) \|", text, re.MULTILINE))
    assert len(table) == 37
    network = tiny_network(colors, conditioned, **changes)
    c, planes = network.config, colors * network.config.downscale**2
    letters = {"C": c.channels, "H": c.channels // 2, "E": c.embedding, "P": planes, "I": planes + c.conditioned}
    found = set()
    for key, tensor in network.state_dict().items():
        name = re.sub(r"^blocks\.\d+", "blocks.b", key)
        layers = ("3d", "3d+1") if c.extraction == "plain" else ("d", "d", "d")
        name = re.sub(r"(?<=extraction\.)\d+", lambda at: layers[int(at[0]) % 3], name)  # noqa: B023
        shape = table[name].replace("one number", "").replace("one int64", "")
        assert list(tensor.shape) == ([eval(size, letters) for size in shape.split(", ")] if shape else []), key
        assert tensor.dtype == (torch.int64 if table[name] == "one int64" else torch.float32)
        found.add(name)
    assert len(found) == rows, "rows of the table that this network has"


def measured_card(name: str = "tiny") -> Card:
    """What is measured is not known of what is made of it."""
    return replace(tiny_card(name), scores={"Set12, sigma 25": 30.5}, protocol="whole picture", limits="none")


def test_average(tmp_path: Path) -> None:
    networks = [tiny_network(), tiny_network()]
    for name, network, value in zip("ab", networks, (1.0, 5.0), strict=True):
        for parameter in network.parameters():
            parameter.data.fill_(value)
        save_weights(tmp_path / f"{name}.safetensors", network, measured_card())
    average = runpy.run_path(str(TRAINING / "average.py"))["main"]
    average(str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"), tmp_path / "mean", share=0.75)
    mean, card = load_weights(tmp_path / "mean" / "weights.safetensors")
    assert all((parameter == 4.0).all() for parameter in mean.parameters())
    assert card == tiny_card()


def test_a_mean_of_batch_normalised_networks_counts_the_batches_of_the_end(tmp_path: Path) -> None:
    networks = [tiny_network(extraction="plain") for _ in range(2)]
    for name, network, count in zip("ab", networks, (3, 8), strict=True):
        for key, buffer in network.named_buffers():
            buffer.fill_(count if key.endswith("num_batches_tracked") else 2.0 * count)
        save_weights(tmp_path / f"{name}.safetensors", network, tiny_card())
    average = runpy.run_path(str(TRAINING / "average.py"))["main"]
    average(str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"), tmp_path / "mean", share=0.5)
    buffers = dict(load_weights(tmp_path / "mean" / "weights.safetensors")[0].named_buffers())
    assert {float(buffer.flatten()[0]) for buffer in buffers.values()} == {8, 11}


def test_weights_are_a_file_as_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rights are those that the umask leaves, and it is what reaches the disk before it gets its name."""
    synced, umask = list[int](), os.umask(0o027)
    monkeypatch.setattr("synergic.files.os.fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    try:
        save_weights(tmp_path / "a.safetensors", tiny_network(), tiny_card())
    finally:
        os.umask(umask)
    status = (tmp_path / "a.safetensors").stat()
    assert status.st_mode & 0o777 == 0o640
    assert synced == [status.st_ino]


def test_graft(tmp_path: Path) -> None:
    """Colour weights of patches take a gray network's pixels: its branches and how they compare, nothing else."""
    host, donor = (
        tiny_network(3, window=32, gate_window=24),
        tiny_network(1, nonlocal_attention="pixel", window=16, halo=4),
    )
    for name, network, value in (("host", host, 1.0), ("donor", donor, 5.0)):
        for parameter in network.parameters():
            parameter.data.fill_(value)
        save_weights(tmp_path / f"{name}.safetensors", network, measured_card(name))
    graft = runpy.run_path(str(TRAINING / "graft.py"))["main"]
    graft(str(tmp_path / "host.safetensors"), str(tmp_path / "donor.safetensors"), tmp_path / "both")
    both, card = load_weights(tmp_path / "both" / "weights.safetensors")
    assert card == tiny_card("host")
    assert both.config == replace(donor.config, colors=3, conditioned=host.config.conditioned, gate_window=24)
    values = {name: set(parameter.unique().tolist()) for name, parameter in both.named_parameters()}
    assert {name for name, held in values.items() if held == {5.0}} == {name for name in values if "nonlocal" in name}
    assert all(held <= {1.0, 5.0} for held in values.values())


def test_shorten(tmp_path: Path) -> None:
    """What is left out changed nothing here, so that the shorter network restores as the longer one does."""
    network = tiny_network(blocks=3, depth=2, nonlocal_attention="pixel", window=16, halo=4)
    residual = [f"blocks.{i}.extraction.{j}.conv2" for i, j in ((0, 1), (1, 0), (1, 1), (2, 0))]
    for name in (*residual, "blocks.1.local_attention.up", "blocks.1.nonlocal_attention.up"):
        zeroed(cast(torch.nn.Conv2d, network.get_submodule(name)))
    save_weights(tmp_path / "long.safetensors", network, measured_card())
    shorten = runpy.run_path(str(TRAINING / "shorten.py"))["main"]
    shorten(str(tmp_path / "long.safetensors"), tmp_path / "short", ["0:0.0", "2:2.1"])
    shorter, card = load_weights(tmp_path / "short" / "weights.safetensors")
    assert card == tiny_card()
    assert shorter.config == replace(network.config, blocks=2, depth=1)
    degraded, strength = torch.rand(1, 1, 40, 32), torch.tensor([0.1])
    with torch.no_grad():
        restored = network(degraded, strength)
        assert (restored - degraded).abs().max() > 0.01
        assert torch.allclose(shorter(degraded, strength), restored, atol=1e-6)
    with pytest.raises(ValueError, match=r"as many layers in every block, got \[1, 2\]"):
        shorten(str(tmp_path / "long.safetensors"), tmp_path / "short", ["0:0.0", "2:2.0,2.1"])
