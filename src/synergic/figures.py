"""Figures: colours that colour-blind readers can tell apart, and files that appear whole or not at all.

matplotlib is imported only when a figure is drawn.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from synergic.errors import SynergicError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]
"""Of lines and bars. M. Okabe and K. Ito, "Color universal design", 2008."""
HEAT = "cividis"
"""The map of heat maps: even in lightness, the same to colour-blind readers (J. Nuñez et al., PLOS ONE 2018)."""
FORMATS = (".png", ".pdf", ".svg")


def check_figure(path: Path, overwrite: bool) -> None:
    """Refuse a figure that could not be drawn or written, before anything is computed."""
    if find_spec("matplotlib") is None:
        raise SynergicError(f"{path}: figures need matplotlib, got no such package; pip install 'synergic[figures]'")
    if path.suffix.lower() not in FORMATS:
        raise SynergicError(f"{path}: expected a name ending in one of {' '.join(FORMATS)}, got '{path.suffix}'")
    if path.exists() and not overwrite:
        raise SynergicError(f"{path}: exists; pass --overwrite to replace it")


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches, laid out so that labels do not overlap."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure in the format of its suffix; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, format=path.suffix.lower().removeprefix("."), dpi=120)
    partial.replace(path)
