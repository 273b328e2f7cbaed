"""The benchmark runs: one contestant beside the convolutions, a small picture, one round."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from itertools import chain, count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from synergic.hardware import gains_from_bfloat16
from synergic.network import BASIC

SPEED = Path(__file__).parents[1] / "benchmarks" / "speed.py"


def test_speed_writes_its_figures(tmp_path: Path) -> None:
    options = ["--only", "gray-denoise, bare", "--sizes", "64", "--rounds", "1", "--turn", "0.1", "-o", str(tmp_path)]
    subprocess.run([sys.executable, str(SPEED), *options], check=True)
    report = json.loads((tmp_path / "speed.json").read_text(), parse_constant=pytest.fail)
    rows = report["rows"]
    assert report["psnr"] == {}, "no picture, no quality"
    kind = "bfloat16" if gains_from_bfloat16(torch.device("cpu")) else "float32"
    assert {row["name"] for row in rows} == {"gray-denoise, bare network", f"convolutions alone, {kind}"}
    for row in rows:
        assert 1e-3 < row["mpx_per_second"] < 1e3
        assert 50 < row["memory"] < 4000, "MB"
        assert row["gflops"] > 0.1
    assert "| gray-denoise, bare network |" in (tmp_path / "speed.md").read_text()


def test_operations_of_attention_over_windows_and_over_the_whole_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SPEED.parent))
    flop = import_module("networks").satnet_flop
    assert flop(BASIC, 4096) - flop(replace(BASIC, window=16, halo=8), 4096) == 4 * 4 * 256 * (256 - 64) * 784
    assert flop(BASIC, 64) == flop(replace(BASIC, window=16, halo=8), 64), "a map no larger than a window"


def test_a_contestant_whose_process_is_gone_sits_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SPEED.parent))
    speed = import_module("speed")
    monkeypatch.setattr(speed, "PAUSE", 0)

    class Quick:
        """Of the benchmark's pipes: 1 s for 8 x 8, too long for 16 x 16; gone after `turns` pictures."""

        def __init__(self, turns: int) -> None:
            self.turns, self.side, self.ended = turns, 0, False

        def send(self, asked: tuple[np.ndarray, float] | None) -> None:
            self.ended, self.side = asked is None, 0 if asked is None else len(asked[0])

        def recv(self) -> tuple[None, float, int]:
            self.turns -= 1
            if self.turns < 0:
                raise EOFError
            return None, 1.0 if self.side == 8 else 100 * speed.SLOW, 7

    pipes = {"whole": Quick(9), "gone at once": Quick(0), "gone at the next size": Quick(3), "slow": Quick(4)}
    rows = speed.race(pipes, [8, 16], 2)
    assert [(row["name"], row["size"], len(row["seconds"])) for row in rows] == [
        ("whole", 8, 2),
        ("gone at the next size", 8, 2),
        ("slow", 8, 2),
        ("whole", 16, 1),
        ("slow", 16, 1),
    ]
    assert [name for name, pipe in pipes.items() if pipe.ended] == ["whole", "slow"]


def test_the_first_picture_of_a_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SPEED.parent))
    speed = import_module("speed")
    for seconds, pictures, wanted in (([0.5, 0.125, 0.25, 0.125, 4], 4, 0.125), ([3, 4], 1, 3), ([0.5, 2, 4], 2, 2)):
        passing = iter(seconds)
        clock = chain.from_iterable((at, at + next(passing)) for at in count(0, 100))
        monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda clock=clock: next(clock)))
        seen = list[np.ndarray]()
        _, found = speed.turn(seen.append, np.zeros((4, 4, 1), np.float32), 1.0)
        assert (len(seen), found) == (pictures, wanted)


def test_floor_writes_its_figures(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(SPEED.with_name("floor.py")), "--small", "--rounds", "1", "-o", tmp_path], check=True
    )
    rows = json.loads((tmp_path / "floor.json").read_text())["rows"]
    assert len(rows) == 7
    for row in rows:
        assert row["times_floor"] == pytest.approx(row["ms"] / row["floor_ms"])
        least, most = (0, 1) if "its batch" in row["name"] else (0.1, 1e3)
        assert least < row["times_floor"] < most
    assert (tmp_path / "floor.md").read_text().count("\n") == 9


def test_accelerator_writes_its_figures(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--small", "--rounds", "1", "-o", str(tmp_path)]
    subprocess.run([sys.executable, str(SPEED.with_name("accelerator.py")), *options], check=True)
    rows = {row["name"]: row for row in json.loads((tmp_path / "accelerator.json").read_text())["rows"]}
    assert len(rows) == 16
    for row in rows.values():
        assert 1e-6 < row["tflops"] < 10
    half = rows["half edition, 64 x 64"]
    assert half["mpx_per_second"] == pytest.approx(64**2 / half["ms"] / 1e3)
    assert "| DnCNN, 64 x 64 |" in (tmp_path / "accelerator.md").read_text()
