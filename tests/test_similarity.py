"""The measurement behind docs/ablation.md, by hand and against plain loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

import similarity
from conftest import save


def test_distances_are_exact() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 23))
    picture = torch.from_numpy(pixels)[None].float()
    queries, keys = torch.tensor([[3, 3], [10, 16]]), similarity.key_positions(picture)
    assert keys[0].tolist() == [3, 3]
    assert keys[-1].tolist() == [15, 19]
    found = similarity.distances(picture, queries, keys, 7)
    for i, (y, x) in enumerate(queries.tolist()):
        for j, (v, u) in enumerate(keys.tolist()):
            patches = pixels[y - 3 : y + 4, x - 3 : x + 4], pixels[v - 3 : v + 4, u - 3 : u + 4]
            assert found[i, j].item() == ((patches[0] - patches[1]) ** 2).sum()


def test_stability_by_hand() -> None:
    truth = torch.tensor([[*range(20)], [5] * 20]).float()
    seen = truth.clone()
    seen[0, :4] = 100  # four of the ten nearest are lost
    none = torch.zeros(2, 20, dtype=torch.bool)
    nearest, overlap = similarity.stability(truth, seen, none)
    assert nearest[0].tolist() == list(range(4, 14))
    assert overlap == pytest.approx((6 / 10 + 1) / 2), "where all are equally near, any ten are the nearest"
    excluded = none.clone()
    excluded[0, :4] = True
    assert similarity.stability(truth, seen, excluded)[1] == 1


def test_patches_are_steadier_than_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a picture of two textures that repeat, patches tell them apart in noise and pixels do not."""
    rows, columns = np.indices((64, 64))
    stripes = np.where(rows < 32, columns % 8 < 4, rows % 8 < 4) * 60 + 90
    save(tmp_path / "two" / "x.png", stripes.astype(np.uint8)[..., None])
    monkeypatch.setattr(similarity, "SIGMAS", (0, 25))
    monkeypatch.setattr(similarity, "draw_queries", lambda picture, _: similarity.key_positions(picture)[::7])
    found = similarity.measure(tmp_path / "two")
    for reach in similarity.REACHES:
        assert found[reach, 7, 0] == (1.0, 0.0)
        assert found[reach, 1, 0] == (1.0, 0.0)
        assert found[reach, 7, 25][0] > 0.9
        assert found[reach, 1, 25][0] < 0.9
        assert found[reach, 7, 25][1] < found[reach, 1, 25][1] / 2


def test_queries_lie_where_patches_fit() -> None:
    picture = torch.zeros(1, 30, 9)
    queries = similarity.draw_queries(picture, Generator().manual_seed(0))
    assert (queries.amin(0).tolist(), queries.amax(0).tolist()) == ([3, 3], [26, 5])


def test_table_and_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "one" / "x.png", np.random.default_rng(0).integers(0, 256, (40, 40, 1), np.uint8))
    monkeypatch.setattr(similarity, "SIGMAS", (0, 50))
    similarity.main([tmp_path / "one"], tmp_path / "out")
    assert {path.suffix for path in tmp_path.glob("out.*")} == {".md", ".json", ".png"}
    assert (tmp_path / "out.md").read_text().count("| 1.00 |") == 8
