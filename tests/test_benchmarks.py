"""The benchmark runs: one contestant beside the convolutions, a small picture, one round."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from synergic.hardware import has_bfloat16

SPEED = Path(__file__).parents[1] / "benchmarks" / "speed.py"


def test_speed_writes_its_figures(tmp_path: Path) -> None:
    options = ["--only", "bare network", "--sizes", "64", "--rounds", "1", "-o", str(tmp_path)]
    subprocess.run([sys.executable, str(SPEED), *options], check=True)
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    kind = "bfloat16" if has_bfloat16(torch.device("cpu")) else "float32"
    assert {row["name"] for row in rows} == {"gray-denoise, bare network", f"convolutions alone, {kind}"}
    for row in rows:
        assert 1e-3 < row["mpx_per_second"] < 1e3
        assert 50 < row["memory"] < 4000, "MB"
        assert row["gflops"] > 0.1
    assert "| gray-denoise, bare network |" in (tmp_path / "speed.md").read_text()


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
