import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from conftest import save, tiny_card, tiny_network
from synergic import Restorer, SynergicError, export
from synergic.cli import command
from synergic.engine import OnnxModel
from synergic.hub import HubWeights, push_to_hub
from synergic.train import start_from
from synergic.weights import save_weights

MakeWeights = Callable[..., Path]


def test_weights_go_to_the_hub_and_come_back(hub: Path, make_weights: MakeWeights, random: np.random.Generator) -> None:
    weights = make_weights()
    assert push_to_hub(weights, "owner/name") == f"commit/{'0' * 40}"
    snapshot = next((hub / "models--owner--name" / "snapshots").iterdir())
    assert sorted(path.name for path in snapshot.iterdir()) == ["README.md", "config.json", "weights.safetensors"]
    assert (snapshot / "weights.safetensors").read_bytes() == weights.read_bytes()
    assert 'Restorer.from_pretrained("hub:owner/name")' in (snapshot / "README.md").read_text()
    image = random.random((20, 30), np.float32)
    options: dict[str, Any] = {"device": "cpu", "precision": "float32"}
    wanted = Restorer.from_pretrained(weights, **options)(image)
    for name in ("hub:owner/name", "hub:owner/name@main"):
        np.testing.assert_array_equal(Restorer.from_pretrained(name, **options)(image), wanted)


def test_an_upload_that_fails_is_one_line(make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise RuntimeError("[Errno 111] Connection refused\nsecond line")

    monkeypatch.setattr(HubWeights, "push_to_hub", refuses)
    with pytest.raises(SynergicError, match=r"^owner/name: cannot be uploaded to: \[Errno 111\] Connection refused$"):
        push_to_hub(make_weights(), "owner/name")


def test_what_does_not_open_is_not_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny_network()
    assert network.tail.bias is not None
    network.tail.bias.data[0] = float("nan")
    save_weights(tmp_path / "mine.safetensors", network, tiny_card())
    monkeypatch.setattr(HubWeights, "push_to_hub", lambda *_, **__: pytest.fail("it was uploaded"))
    with pytest.raises(SynergicError, match=r"tail\.bias: expected finite values, got NaN or infinity"):
        push_to_hub(tmp_path / "mine.safetensors", "owner/name")


@pytest.mark.parametrize("name", ["hub:owner/other", "hub:owner/name@v2", "hub:a/b/c", "hub:"])
def test_what_is_not_on_the_hub_is_one_line(hub: Path, make_weights: MakeWeights, name: str) -> None:
    push_to_hub(make_weights(), "owner/name")
    with pytest.raises(
        SynergicError, match=rf"^{name}: expected a repository with weights.safetensors, got none"
    ) as at:
        Restorer.from_pretrained(name)
    assert "\n" not in str(at.value)


def named(weights: str, folder: Path) -> list[Callable[[], Any]]:
    """Every way to name weights."""
    save(folder / "in" / "a.png", np.zeros((16, 16, 3), np.uint8))
    picture, ends = str(folder / "in" / "a.png"), iter(range(9))

    def by_command(*arguments: str, suffix: str = "") -> Callable[[], Any]:
        out = str(folder / f"out-{next(ends)}{suffix}")
        return lambda: command([*arguments, "--weights", weights, "-o", out], standalone_mode=False)

    def evaluated() -> None:
        command(
            ["evaluate", "--weights", weights, "--data", str(folder / "in"), "--sigma", "25"], standalone_mode=False
        )

    return [
        by_command("restore", picture, suffix=".png"),
        by_command("explain", picture, suffix=".png"),
        by_command("compare", str(folder / "in"), "--sigma", "25"),
        by_command("export", suffix=".onnx"),
        by_command("export", "--for", "spandrel", suffix=".safetensors"),
        evaluated,
        lambda: start_from(tiny_network(3), weights),
        lambda: push_to_hub(weights, "owner/copy"),
    ]


def test_weights_on_the_hub_are_named_wherever_weights_are(
    hub: Path, tmp_path: Path, make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is not there is the same line everywhere."""
    push_to_hub(make_weights(colors=3, window=32), "owner/name")
    monkeypatch.setattr(export, "traced", lambda *_: b"a model")  # tests/test_export.py makes one
    monkeypatch.setattr(export, "parity", lambda *_: {})
    monkeypatch.setattr(OnnxModel, "from_bytes", lambda *_: None)
    for there in named("hub:owner/name", tmp_path):
        with suppress(SystemExit):
            there()
    assert [path.suffix for path in sorted(tmp_path.glob("out-*"))] == [".png", ".png", "", ".onnx", ".safetensors"]
    line = "^hub:owner/other: expected a repository with weights.safetensors, got none"
    for lost in named("hub:owner/other", tmp_path / "lost"):
        with pytest.raises(SynergicError, match=line):
            lost()
    with monkeypatch.context() as refusing:  # a proxy's answer, or a line that is cut: errors of no common class
        refusing.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: int("407 Proxy"))
        with pytest.raises(SynergicError, match=line.replace("other", "name")):
            Restorer.from_pretrained("hub:owner/name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for lost in named("hub:owner/name", tmp_path / "without"):
        with pytest.raises(SynergicError, match="^hub:owner/name: expected huggingface_hub, got none; run pip"):
            lost()


def test_a_repository_of_something_else_is_refused(hub: Path, make_weights: MakeWeights) -> None:
    push_to_hub(make_weights(), "owner/name")
    next(hub.glob("*/snapshots/*/weights.safetensors")).write_bytes(b"\x80\x04evil")
    with pytest.raises(SynergicError, match="expected a safetensors file"):
        Restorer.from_pretrained("hub:owner/name")


def test_the_model_card_says_what_the_weights_say(tmp_path: Path) -> None:
    card = replace(tiny_card("mine"), scores={"Set12, sigma 25": 30.44}, limits="only a test", steps=1234)
    save_weights(tmp_path / "mine.safetensors", tiny_network(), card)
    HubWeights(tmp_path / "mine.safetensors").save_pretrained(tmp_path / "folder")
    written = ModelCard.load(tmp_path / "folder" / "README.md")
    assert written.data.to_dict()["library_name"] == "synergic"
    assert (written.data.pipeline_tag, written.data.license) == ("image-to-image", "other")
    for words in (
        "# mine",
        'from_pretrained("hub:OWNER/NAME")',
        "1,234 steps",
        "| Set12, sigma 25 | 30.44 dB |",
        "limits: only a test",
        "none (CC0)",
    ):
        assert words in written.text
    read = HubWeights.from_pretrained(tmp_path / "folder")
    assert asdict(read.card) == asdict(card)
