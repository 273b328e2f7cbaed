"""The pictures of docs/ablation.md's runs."""

from pathlib import Path

import numpy as np
import pytest

import held_out
from conftest import save
from synergic import SynergicError
from synergic.images import read_pixels


def test_what_is_held_out(tmp_path: Path, random: np.random.Generator) -> None:
    listed = (Path(held_out.__file__).parent / "repetitive.txt").read_text().split()
    pixels = random.integers(0, 256, (260, 300, 3), np.uint8)
    for name in (f"train/{listed[0]}", "train/a", f"val/{listed[-1]}", "val/b"):
        save(tmp_path / f"{name}.png", pixels)
    held_out.main(tmp_path / "train", tmp_path / "val", tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    repetitive = {f"repetitive/{listed[0]}.png", f"repetitive/{listed[-1]}.png"}
    assert found == {"train/a.png", "val/b.png", f"val/{listed[-1]}.png"} | repetitive
    assert np.array_equal(read_pixels(tmp_path / "out" / "val" / "b.png"), pixels[2:258, 22:278])
    assert np.array_equal(read_pixels(tmp_path / "out" / "train" / "a.png"), pixels)
    with pytest.raises(SynergicError, match="a.png: exists"):
        held_out.main(tmp_path / "train", tmp_path / "val", tmp_path / "out")
    held_out.cut(save(tmp_path / "small.png", pixels[:200]), tmp_path / "out")
    assert np.array_equal(read_pixels(tmp_path / "out" / "small.png"), pixels[:200, 22:278])
