from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from conftest import tiny_card, tiny_network
from synergic import Restorer, SynergicError
from synergic.hub import HubWeights, push_to_hub
from synergic.weights import save_weights

MakeWeights = Callable[..., Path]


def test_weights_go_to_the_hub_and_come_back(hub: Path, make_weights: MakeWeights, random: np.random.Generator) -> None:
    weights = make_weights()
    assert push_to_hub(weights, "owner/name") == f"commit/{'0' * 40}"
    snapshot = next((hub / "models--owner--name" / "snapshots").iterdir())
    assert sorted(path.name for path in snapshot.iterdir()) == ["README.md", "config.json", "weights.safetensors"]
    assert (snapshot / "weights.safetensors").read_bytes() == weights.read_bytes()
    image = random.random((20, 30), np.float32)
    options: dict[str, Any] = {"device": "cpu", "precision": "float32"}
    wanted = Restorer.from_pretrained(weights, **options)(image)
    for name in ("hub:owner/name", "hub:owner/name@main"):
        np.testing.assert_array_equal(Restorer.from_pretrained(name, **options)(image), wanted)


@pytest.mark.parametrize("name", ["hub:owner/other", "hub:owner/name@v2", "hub:a/b/c", "hub:"])
def test_what_is_not_on_the_hub_is_one_line(hub: Path, make_weights: MakeWeights, name: str) -> None:
    push_to_hub(make_weights(), "owner/name")
    with pytest.raises(
        SynergicError, match=rf"^{name}: expected a repository with weights.safetensors, got none"
    ) as at:
        Restorer.from_pretrained(name)
    assert "\n" not in str(at.value)


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
    for words in ("# mine", "1,234 steps", "| Set12, sigma 25 | 30.44 dB |", "limits: only a test", "none (CC0)"):
        assert words in written.text
    read = HubWeights.from_pretrained(tmp_path / "folder")
    assert asdict(read.card) == asdict(card)
