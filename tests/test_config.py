from dataclasses import dataclass
from typing import Literal

import pytest

from synergic.config import read_config
from synergic.errors import SynergicError


@dataclass(frozen=True)
class Lamp:
    watts: int
    shade: Literal["red", "blue"] = "red"
    height: float = 1.5


def test_reads() -> None:
    assert read_config(Lamp, {"watts": 4, "height": 2}, "lamp.toml") == Lamp(4, "red", 2.0)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"wats": 4}, "lamp.toml: expected a known key, got 'wats'; did you mean 'watts'?"),
        ({"watts": "many"}, "lamp.toml: watts: .*integer.*, got 'many'"),
        ({"watts": 1.5}, "lamp.toml: watts: .*integer.*, got 1.5"),
        ({"watts": 1, "shade": "green"}, "lamp.toml: shade: .*'red' or 'blue'.*, got 'green'"),
        ({}, "lamp.toml: watts: Field required"),
    ],
)
def test_refuses(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(SynergicError, match=message):
        read_config(Lamp, mapping, "lamp.toml")
