"""Seeing where the network looks: local against non-local, and which patches a query patch attends to."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from synergic.card import share_of_range
from synergic.data import to_tensor
from synergic.degradations import add_gaussian_noise
from synergic.errors import SynergicError
from synergic.figures import COLORS, HEAT, dark_edge, new_figure, outline, save_figure, show
from synergic.images import to_float
from synergic.network import NonLocalAttention, SynergicBlock
from synergic.patches import grid_padding, patches
from synergic.restore import Restorer
from synergic.tiling import Progress, axis_spans, checked, is_gray, map_tiles, overlap_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

Kind = Literal["patch", "pixel"]

DRAWN = 10
"""Key patches drawn for a query patch at most: those of greatest weight."""
LEAST = 0.001
"""Weight of a key patch that is drawn at least; where a patch attends to itself alone the rest is rounding."""


@dataclass(frozen=True)
class TradeOff:
    """How much of a restored picture is local and how much non-local. B blocks, C channels."""

    share: np.ndarray
    """H W float32, 0 (all local) to 1 (all non-local): the picture's heat map"""
    weights: np.ndarray
    """B 2 C: the fusion's weights of the local and the non-local branch, which sum to 1; mean over the picture"""
    added: np.ndarray
    """B 2: what the local and the non-local branch add; mean over positions and tiles"""

    @property
    def shares(self) -> np.ndarray:
        """B: the non-local branch's share of what each block adds, 0 where it adds nothing."""
        return self.added[:, 1] / np.maximum(self.added.sum(1), 1e-12)


@dataclass(frozen=True)
class Trace:
    """What one block did. N pictures (a gray network takes colours one by one), C channels, H W the map."""

    features: Tensor
    """N C H W: what both branches start from"""
    branches: Tensor
    """2 N C H W: the answers of local and non-local attention"""
    weights: Tensor
    """2 N C H W: what the fusion multiplies them by; H and W are 1 where it is the same everywhere"""

    def added(self, patch_size: int) -> Tensor:
        """2 H W: how much each branch adds at each position.

        The weights sum to 1, so the fusion's answer is features + w_local (local - features) + w_nonlocal (nonlocal -
        features). What a branch adds is its term of this sum, less the term's mean over the map, which is the same
        everywhere and prefers no place. Its size is the Euclidean norm over the channels, averaged over the patch
        around the position, the scale at which attention chooses.
        """
        terms = self.weights * (self.branches - self.features)  # 2 N C H W
        sizes = (terms - terms.mean((3, 4), keepdim=True)).norm(dim=2).mean(1)  # 2 H W
        return F.avg_pool2d(sizes[None], patch_size | 1, 1, patch_size // 2, count_include_pad=False)[0]


class Watch:
    """A copy of a restorer, which may be at work elsewhere, whose blocks tell what they did. Of an ensemble it is the
    picture as it stands that is watched: the other seven views, turned, have maps and weights of their own."""

    def __init__(self, restorer: Restorer) -> None:
        """A network without both branches raises SynergicError."""
        config = restorer.network.config
        if not config.local_attention or config.nonlocal_attention is None:
            missing = "non-local" if config.local_attention else "local"
            raise SynergicError(
                f"{restorer.card.name}: expected a network with both branches, got one without {missing}"
            )
        self.restorer = replace(restorer, network=deepcopy(restorer.network), ensemble=False)
        self.blocks = [block for block in self.restorer.network.blocks if isinstance(block, SynergicBlock)]
        self.seen: dict[nn.Module | None, tuple[Any, Tensor]] = {}
        for block in self.blocks:
            for part in (block.extraction, block.fusion):
                assert part is not None
                part.register_forward_hook(self.see)

    def see(self, part: nn.Module, given: Any, result: Tensor) -> None:
        """Remember what a part of the network last took in and gave out."""
        self.seen[part] = given, result

    @torch.no_grad()
    def traces(self, picture: np.ndarray, sigma: float | None, quality: int | None) -> list[Trace]:
        """Restore one picture, H W C float32, whole, and tell what each block did."""
        degraded = torch.from_numpy(picture).permute(2, 0, 1)[None].to(self.restorer.device)
        self.restorer.tensor(degraded, sigma=sigma, quality=quality)
        traces = []
        for block in self.blocks:
            assert block.fusion is not None
            branches = [branch.float() for branch in self.seen[block.fusion][0]]
            weight = block.fusion.weight(*branches)
            weights = torch.stack([weight, 1 - weight])
            traces.append(Trace(self.seen[block.extraction][1].float(), torch.stack(branches), weights))
        return traces


def trade_off(
    restorer: Restorer,
    image: np.ndarray,
    *,
    sigma: float | None = None,
    quality: int | None = None,
    progress: Progress | None = None,
) -> TradeOff:
    """Where the result leans on the non-local branch, if the picture is restored as `Restorer` does, tile by tile.

    image: H W or H W C, as for `Restorer`; any size. Of a restorer that is an ensemble, it is that of the picture as it
    stands, without the other seven views. The share at a position is what the non-local branches of all blocks add
    there, of what both branches add (`Trace.added`). A network without both raises SynergicError.
    """
    pixels, config = to_float(checked(image)), restorer.network.config
    watch = Watch(restorer)
    weights, added = [], []

    def share(tile: np.ndarray) -> np.ndarray:  # H W C -> H W 1
        traces = watch.traces(tile, sigma, quality)
        weights.append(torch.stack([trace.weights.mean((1, 3, 4)) for trace in traces]))  # B 2 C
        sizes = torch.stack([trace.added(config.patch_size) for trace in traces])  # B 2 H W of the map
        added.append(sizes.mean((2, 3)))
        local, nonlocal_ = F.interpolate(sizes.sum(0)[None], scale_factor=config.downscale, mode="bilinear")[0]
        heat = nonlocal_ / (local + nonlocal_).clamp(min=1e-12)
        return heat[: tile.shape[0], : tile.shape[1], None].cpu().numpy()

    heat = map_tiles(share, pixels, restorer.tile_size, overlap_of(restorer.tile_size), progress, align=restorer.align)
    mean_weights, mean_added = (torch.stack(values).mean(0).cpu().numpy() for values in (weights, added))
    return TradeOff(heat[..., 0], mean_weights, mean_added)


@dataclass(frozen=True)
class Attended:
    """What one query patch attends to. Corners are the top left ones, (row, column) on the map; M key patches."""

    query: tuple[int, int]
    """corner of the query patch"""
    corners: np.ndarray
    """M 2: corners of the key patches, that of the greatest weight first"""
    weights: np.ndarray
    """M: their weights, which sum to 1"""
    patch_size: int
    """side of a patch; 1 for pixels"""

    @property
    def middle(self) -> tuple[int, int]:
        """The query patch's middle position on the map."""
        row, column = self.query
        return row + self.patch_size // 2, column + self.patch_size // 2

    @property
    def reach(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners (row, column) of the part of the map that the keys cover."""
        return self.corners.min(0), self.corners.max(0) + self.patch_size

    def strongest(self) -> tuple[float, np.ndarray, np.ndarray]:
        """The query's weight for itself; corners and weights of the other keys that are worth drawing."""
        itself = (self.corners == self.query).all(1)
        chosen = np.flatnonzero(~itself & (self.weights >= LEAST))[:DRAWN]
        return float(self.weights[itself].sum()), self.corners[chosen], self.weights[chosen]


@torch.no_grad()
def attended(attention: NonLocalAttention, features: Tensor, row: int, column: int, kind: Kind) -> Attended:
    """The weights that the patch (or the pixel) nearest to a position of the map gives to its keys.

    features: 1 C H W. For the network's own kind these are the weights that its attention uses. The other kind compares
    the same Q and K by the other size of patch, with the scale divided by the ratio of areas, so that both kinds see
    similarities of the same range.
    """
    c = attention.config
    size, stride, key_stride = (c.patch_size, c.stride, c.key_stride) if kind == "patch" else (1, 1, 1)
    q, k, _ = attention.project(features)  # 1 H W E
    height, width = q.shape[1:3]
    windowed = c.window is not None and max(height, width) > c.window + 2 * c.halo
    if windowed:  # windows lay their patches as if the map's sides were multiples of their stride
        q, k = (F.pad(x, (0, 0, 0, -width % by, 0, -height % by)) for x, by in ((q, stride), (k, key_stride)))
    query_rows, query_columns = (patch_starts(length, size, stride) for length in q.shape[1:3])
    key_rows, key_columns = (patch_starts(length, size, key_stride) for length in k.shape[1:3])
    i, j = (int(np.abs(axis + size // 2 - at).argmin()) for axis, at in ((query_rows, row), (query_columns, column)))
    rows, columns = slice(None), slice(None)  # of the grid of key patches, seen from the query's window
    if windowed:
        assert c.window is not None
        rows, columns = (
            seen_from(index * stride // c.window, c.window, c.halo, key_stride, length)
            for index, length in ((i, height), (j, width))
        )
    query = patches(q, size, stride)[0].unflatten(0, (len(query_rows), len(query_columns)))[i, j]  # D
    keys = patches(k, size, key_stride)[0].unflatten(0, (len(key_rows), len(key_columns)))[rows, columns]  # h w D
    scale = attention.scale * c.patches[0] ** 2 / size**2
    weights, order = (keys @ (query * scale)).flatten().softmax(0).sort(descending=True)
    corners = np.stack(np.meshgrid(key_rows[rows], key_columns[columns], indexing="ij"), 2).reshape(-1, 2)
    corner = int(query_rows[i]), int(query_columns[j])
    return Attended(corner, corners[order.cpu().numpy()], weights.cpu().numpy(), size)


def patch_starts(length: int, patch_size: int, stride: int) -> np.ndarray:
    """Where the patches of an axis begin, as `patches` lays them."""
    before, after = grid_padding(length, patch_size, stride)
    return np.arange(-before, length + after - patch_size + 1, stride)


def seen_from(index: int, window: int, halo: int, key_stride: int, length: int) -> slice:
    """The key patches of an axis of that length that the queries of its window number `index` see."""
    start = index * window - halo
    stop = min((start + window + 2 * halo) // key_stride, ceil(length / key_stride))
    return slice(max(0, start) // key_stride, stop)


def explain(
    restorer: Restorer,
    image: np.ndarray,
    path: Path,
    *,
    at: Sequence[tuple[int, int]] = (),
    noise: float | None = None,
    sigma: float | None = None,
    quality: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> TradeOff:
    """Draw the figure: degraded, restored and heat map; each block's fusion weights; and for each query the patches
    that it attends to in each block, patch-wise above pixel-wise.

    at: queries as (x, y) in pixels; unless given, the place that leans most on the non-local branch and the one that
    leans least, not nearer to the border than an eighth of the picture. noise: see `with_noise`; none unless given.
    """
    if noise is not None:
        share_of_range("noise", noise)
    pixels = checked(image)
    if restorer.network.config.colors == 1 and is_gray(pixels):  # its noise would be of three colours
        pixels = pixels[..., :1]
    if noise is not None:
        pixels = with_noise(pixels, noise)
    height, width = pixels.shape[:2]
    for x, y in at:
        if not (0 <= x < width and 0 <= y < height):
            raise SynergicError(f"--at: expected a place in the picture, 0,0 to {width - 1},{height - 1}, got {x},{y}")
    found = trade_off(restorer, pixels, sigma=sigma, quality=quality, progress=progress)
    restored, watch = restorer(pixels, sigma=sigma, quality=quality), Watch(restorer)
    queries = [look(watch, pixels, x, y, sigma, quality) for x, y in at or extremes(found.share)]

    blocks, tall = len(watch.blocks), 4.4 * min(max(height / width, 0.5), 1.5)
    heights = [tall, 2.6] + [6.8] * len(queries)
    figure = new_figure(3.5 * max(blocks, 3), sum(heights))
    figure.suptitle(conditions(restorer, noise, sigma, quality), fontsize=14, parse_math=False)
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    pictures, bars, *rows = parts
    draw_pictures(pictures, pixels, restored, found.share, queries)
    draw_weights(bars, found)
    for i, (row, query) in enumerate(zip(rows, queries, strict=True), 1):
        row.suptitle(
            f"query {i} at {query.x},{query.y} (white) and the keys that weigh most in its attention; "
            "patch-wise and pixel-wise compare the same Q and K"
        )
        draw_query(row, query)
    save_figure(figure, path, overwrite=overwrite)
    return found


def conditions(restorer: Restorer, noise: float | None, sigma: float | None, quality: int | None) -> str:
    """The figure's title: weights, what was added to the picture, what the network was told."""
    added = "the picture as it is" if noise is None else f"noise of sigma {noise:g} added, seed 0"
    told = [f"{name} {value:g}" for name, value in (("sigma", sigma), ("quality", quality)) if value is not None]
    return f"{restorer.card.name}: {added}, the network told {' and '.join(told) or 'no strength'}"


def with_noise(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """The picture, H W or H W C of any dtype, as float32 H W C with white Gaussian noise of seed 0, not clipped."""
    return add_gaussian_noise(to_tensor(checked(pixels)), sigma, Generator().manual_seed(0)).permute(1, 2, 0).numpy()


def extremes(share: np.ndarray) -> list[tuple[int, int]]:
    """Where the share is greatest and where least, as (x, y), an eighth of the picture away from its border."""
    height, width = share.shape
    inner = share[height // 8 : height - height // 8, width // 8 : width - width // 8]
    places = [np.unravel_index(k, inner.shape) for k in (inner.argmax(), inner.argmin())]
    return [(int(column) + width // 8, int(row) + height // 8) for row, column in places]


@dataclass(frozen=True)
class Query:
    """One place of the picture and what its patch attends to in each block."""

    x: int
    y: int
    tile: np.ndarray
    """H W C float32: the part of the picture in which it was restored, one tile at most, with the place inside"""
    corner: np.ndarray
    """row and column of the tile's corner in the picture"""
    scale: int
    """pixels for one position of the map"""
    patch: list[Attended]
    """block by block, compared by patches"""
    pixel: list[Attended]
    """block by block, compared by single pixels of the map"""


def look(watch: Watch, pixels: np.ndarray, x: int, y: int, sigma: float | None, quality: int | None) -> Query:
    """What (x, y) attends to, and the patch nearest to it; a gray network's with a colour picture in its first colour.

    Where the network compares patches, the pixel is the middle one of that patch: both lie in one window then, and
    choose among the same part of the map.
    """
    rows, columns = (tile_at(*pair, watch.restorer) for pair in zip((y, x), pixels.shape, strict=False))
    tile, scale = to_float(pixels[rows, columns]), watch.restorer.network.config.downscale
    row, column = (y - rows.start) // scale, (x - columns.start) // scale
    by_patch, by_pixel = list[Attended](), list[Attended]()
    for block, trace in zip(watch.blocks, watch.traces(tile, sigma, quality), strict=True):
        attention, features = block.nonlocal_attention, trace.features[:1]
        assert attention is not None
        by_patch.append(attended(attention, features, row, column, "patch"))
        by_pixels = attention.config.nonlocal_attention == "pixel"
        place: tuple[int, int] = (row, column) if by_pixels else by_patch[-1].middle
        by_pixel.append(attended(attention, features, *place, "pixel"))
    return Query(x, y, tile, np.array([rows.start, columns.start]), scale, by_patch, by_pixel)


def tile_at(at: int, length: int, restorer: Restorer) -> slice:
    """Of the tiles that the restorer cuts an axis into, the one that counts most at a position."""
    spans = axis_spans(length, restorer.tile_size, overlap_of(restorer.tile_size), restorer.align)
    holding = [span for span in spans if span.start <= at < span.stop]
    chosen = max(holding, key=lambda span: span.weights[at - span.start])
    return slice(chosen.start, chosen.stop)


def bounds(share: np.ndarray) -> tuple[float, float]:
    """The shares that the heat map's ends stand for: all but the outermost hundredths."""
    low, high = np.quantile(share, (0.01, 0.99))
    return float(low), float(high)


def heat_picture(
    restorer: Restorer,
    pixels: np.ndarray,
    *,
    sigma: float | None = None,
    quality: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """The heat map as a picture of the same size, dark local, bright non-local. H W C -> uint8 H W 3."""
    from matplotlib import colormaps

    share = trade_off(restorer, pixels, sigma=sigma, quality=quality, progress=progress).share
    low, high = bounds(share)
    return colormaps[HEAT]((share - low) / max(high - low, 1e-6), bytes=True)[..., :3]


def draw_pictures(
    figure: "SubFigure", degraded: np.ndarray, restored: np.ndarray, share: np.ndarray, queries: Sequence[Query]
) -> None:
    """Degraded, with the queries and the frames in which their keys lie; restored; and the heat map."""
    axes = figure.subplots(1, 3)
    show(axes[0], degraded, "degraded; queries, and\nthe reach of their keys")
    show(axes[1], restored, "restored")
    show(axes[2], None, f"heat map, mean {share.mean():.2f}")
    low, high = bounds(share)
    heat = axes[2].imshow(share, cmap=HEAT, vmin=low, vmax=high)
    bar = figure.colorbar(heat, ax=axes[2], extend="both", shrink=0.9)
    bar.set_label("share of the non-local branch\nin what is added (0 all local,\n1 all non-local; ends: 1-99 %)")
    for i, query in enumerate(queries, 1):
        reach = (at * query.scale + query.corner for at in query.patch[0].reach)
        corner, end = (at.clip(0, share.shape) for at in reach)
        outline(axes[0], corner, end - corner, "white")
        mark(axes[0], query, str(i), left=query.x > degraded.shape[1] / 2)


def mark(axis: "Axes", query: Query, name: str, *, left: bool) -> None:
    """A dot on the query's place, its name beside it."""
    axis.plot(query.x, query.y, "o", color="white", markersize=5, markeredgecolor="black")
    aside, ha = ((-6, 0), "right") if left else ((6, 0), "left")
    words = axis.annotate(
        name, (query.x, query.y), aside, textcoords="offset points", color="white", ha=ha, va="center"
    )
    words.set_path_effects([dark_edge(3)])


def draw_weights(figure: "SubFigure", found: TradeOff) -> None:
    """For every block the fusion's weights, channel by channel, in order of the non-local one."""
    axes = figure.subplots(1, len(found.weights), sharey=True, squeeze=False)[0]
    for i, (axis, (local, nonlocal_), share) in enumerate(zip(axes, found.weights, found.shares, strict=True), 1):
        order, channels = nonlocal_.argsort()[::-1], np.arange(len(local))
        axis.bar(channels, nonlocal_[order], width=1, color=COLORS[1], label="non-local")
        axis.bar(channels, local[order], width=1, bottom=nonlocal_[order], color=COLORS[0], label="local")
        axis.set(xlim=(-0.5, len(local) - 0.5), ylim=(0, 1), xlabel="channel, in order of weight")
        axis.set_title(
            f"block {i}: non-local {nonlocal_.mean():.0%} of weight,\n{share:.0%} of what is added", fontsize=10
        )
    axes[0].set_ylabel("weight in the fusion")
    axes[0].legend(loc="lower left", framealpha=1)


def draw_query(figure: "SubFigure", query: Query) -> None:
    """The patches that a query attends to: a column for each block, patch-wise above pixel-wise."""
    axes = figure.subplots(2, len(query.patch), squeeze=False)
    for row, found, name in zip(axes, (query.patch, query.pixel), ("patch-wise", "pixel-wise"), strict=True):
        for i, (axis, of_block) in enumerate(zip(row, found, strict=True), 1):
            draw_attended(axis, query, of_block, f"block {i}, {name}")


def draw_attended(axis: "Axes", query: Query, found: Attended, title: str) -> None:
    """The query patch in white and the key patches of greatest weight, coloured by it."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    itself, corners, weights = found.strongest()
    colors = ScalarMappable(Normalize(0, weights.max(initial=0)), "plasma")
    drawn = f"{weights.sum():.0%} to the {len(weights)} drawn" if len(weights) else f"no other over {LEAST:.1%}"
    head = f"{title}, {len(found.weights)} keys:\n{itself:.0%} to itself, {drawn}"
    show(axis, query.tile.mean(2, keepdims=True), head)
    side = np.full(2, found.patch_size * query.scale)
    for corner, weight in list(zip(corners, weights, strict=True))[::-1]:  # the strongest on top
        outline(axis, corner * query.scale, side, colors.to_rgba(weight))
    outline(axis, np.array(found.query) * query.scale, side, "white")
    (top, left), (bottom, right) = (reach * query.scale - 0.5 for reach in query.patch[0].reach)
    axis.set(xlim=(left, right), ylim=(bottom, top), facecolor="0.8")
    if len(weights):
        axis.figure.colorbar(colors, ax=axis, shrink=0.8, label="weight")
