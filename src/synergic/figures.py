"""Figures: colours that colour-blind readers can tell apart, and files that appear whole or not at all.

matplotlib is imported only when a figure is drawn.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synergic.errors import SynergicError
from synergic.files import check_free, whole_file
from synergic.images import from_float, to_float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]
"""Of lines and bars. M. Okabe and K. Ito, "Color universal design", 2008."""
STYLES = ["-", "--", ":", "-."]
"""Of lines, one after another where there are more of them than colours."""
HEAT = "cividis"
"""The map of heat maps: even in lightness, the same to colour-blind readers (J. Nuñez et al., PLOS ONE 2018)."""
FORMATS = (".png", ".pdf", ".svg")


def check_figure(path: Path, overwrite: bool) -> None:
    """Refuse a figure that could not be drawn or written, before anything is computed."""
    if find_spec("matplotlib") is None:
        raise SynergicError(f"{path}: figures need matplotlib, got no such package; pip install 'synergic[figures]'")
    if path.suffix.lower() not in FORMATS:
        raise SynergicError(f"{path}: expected a name ending in one of {' '.join(FORMATS)}, got '{path.suffix}'")
    check_free(path, overwrite)


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches, laid out so that labels do not overlap."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: "Figure", path: Path, *, overwrite: bool = True) -> None:
    """Write a figure in the format of its suffix; it appears whole or not at all."""
    with whole_file(path, overwrite=overwrite) as unfinished:
        figure.savefig(unfinished, dpi=120)


def show(axis: "Axes", picture: np.ndarray | None, title: str) -> None:
    """A picture, H W C with C = 1 or 3, without ticks; None for none."""
    if picture is not None:
        axis.imshow(np.broadcast_to(from_float(to_float(picture), np.uint8), (*picture.shape[:2], 3)))
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=10, parse_math=False)  # a file's name may hold $


def outline(axis: "Axes", corner: np.ndarray, size: np.ndarray, color: Any) -> None:
    """A rectangle around pixels; corner and size: row, column."""
    from matplotlib.patches import Rectangle

    (top, left), (height, width) = corner - 0.5, size
    axis.add_patch(
        Rectangle((left, top), width, height, fill=False, edgecolor=color, linewidth=2, path_effects=[dark_edge(3.5)])
    )


def dark_edge(width: float) -> Any:
    """Black around white or coloured lines and letters, so that they show on any ground."""
    from matplotlib.patheffects import withStroke

    return withStroke(linewidth=width, foreground="black")
