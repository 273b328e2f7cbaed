"""Does noise change which patches are alike? `python training/similarity.py FOLDER... -o docs/similarity`.

The paper's argument for comparing patches: on a noisy picture a single pixel's similarity is swayed by its noise, a
patch's is not. Nothing is trained here. On raw gray pixels, for 100 random positions of every picture, the ten nearest
positions (squared distance between the patches around them) are sought on the noisy picture and on the clean one.

- Overlap at 10: the share of those ten found on the noisy picture that are among the ten on the clean one. Gray levels
  repeat, so that "the ten nearest pixels" of a clean picture are often any ten of hundreds: whatever is no farther, on
  the clean picture, than the tenth counts as found.
- Error: the root mean square difference, on the clean picture, between the position's own pixel and those of the ten
  found (0-255 scale): what non-local means would average over.

Keys are every second position along each axis, of the whole picture or of the 65 x 65 window around the query; never
the query itself.
Writes OUT.png (figure), OUT.json and OUT.md (table).
"""

import argparse
import json
from itertools import product
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from synergic.data import read_folder
from synergic.degradations import add_gaussian_noise
from synergic.evaluate import markdown
from synergic.figures import COLORS, new_figure, save_figure

SIGMAS = (0, 5, 10, 15, 25, 35, 50, 75)
PATCH_SIZES = (1, 3, 5, 7)
MARGIN = max(PATCH_SIZES) // 2
REACHES = {"window": 32, "global": 1 << 30}
"""How far from the query keys may lie, in pixels along each axis."""
QUERIES = 100
NEAREST = 10

Setting = tuple[str, int, int]
"""Reach, patch size, sigma."""


def main(folders: list[Path], out: Path) -> None:
    """Measure every folder; write table, figure and figures."""
    found = {folder.name: measure(folder) for folder in folders}
    rows = [
        [name, reach, f"{size}x{size}", *(f"{of[reach, size, sigma][0]:.2f}" for sigma in SIGMAS)]
        for name, of in found.items()
        for reach, size in product(REACHES, PATCH_SIZES)
    ]
    table = markdown(["pictures", "keys", "patch", *(f"{sigma}" for sigma in SIGMAS)], rows)
    print(table)
    out.with_suffix(".md").write_text(table + "\n")
    listed = [
        {"pictures": name, "keys": reach, "patch_size": size, "sigma": sigma, "overlap": overlap, "error": error}
        for name, of in found.items()
        for (reach, size, sigma), (overlap, error) in of.items()
    ]
    out.with_suffix(".json").write_text(json.dumps(listed, indent=1))
    draw(found, out.with_suffix(".png"))


def measure(folder: Path) -> dict[Setting, tuple[float, float]]:
    """Overlap at 10 and error for every setting, mean over the pictures of a folder."""
    scores: dict[Setting, list[tuple[float, float]]] = {}
    for number, (_, pixels) in enumerate(read_folder(folder, colors=1)):
        clean = torch.from_numpy(pixels).permute(2, 0, 1).float()  # 1 H W, 0-255
        queries, keys = draw_queries(clean, Generator().manual_seed(number)), key_positions(clean)
        offsets = (queries[:, None] - keys).abs().amax(2)  # Q K
        differences = values_at(clean, queries)[:, None] - values_at(clean, keys)  # Q K
        for size in PATCH_SIZES:
            truth = distances(clean, queries, keys, size)
            for sigma in SIGMAS:
                noisy = add_gaussian_noise(clean / 255, sigma, Generator().manual_seed(0)) * 255
                seen = distances(noisy, queries, keys, size)
                for reach, farthest in REACHES.items():
                    excluded = (offsets == 0) | (offsets > farthest)
                    nearest, overlap = stability(truth, seen, excluded)
                    error = differences.gather(1, nearest).square().mean().sqrt().item()
                    scores.setdefault((reach, size, sigma), []).append((overlap, error))
    return {key: (fmean(overlap for overlap, _ in of), fmean(error for _, error in of)) for key, of in scores.items()}


def stability(truth: Tensor, seen: Tensor, excluded: Tensor) -> tuple[Tensor, float]:
    """The keys nearest as seen, Q 10, and the share of them that are no farther in truth than the tenth. All Q K."""
    nearest = seen.masked_fill(excluded, float("inf")).topk(NEAREST, largest=False).indices
    tenth = truth.masked_fill(excluded, float("inf")).topk(NEAREST, largest=False).values[:, -1:]  # Q 1
    return nearest, (truth.gather(1, nearest) <= tenth).float().mean().item()


def draw_queries(picture: Tensor, generator: Generator) -> Tensor:
    """Random positions at which the largest patch fits, Q 2 (row, column). picture: 1 H W."""
    limits = torch.tensor(picture.shape[1:]) - 2 * MARGIN
    return (torch.rand(QUERIES, 2, generator=generator) * limits).long() + MARGIN


def key_positions(picture: Tensor) -> Tensor:
    """Every second position at which the largest patch fits, K 2."""
    return torch.cartesian_prod(*(torch.arange(MARGIN, length - MARGIN, 2) for length in picture.shape[1:]))


def values_at(picture: Tensor, positions: Tensor) -> Tensor:
    """The pixels at positions. 1 H W, K 2 -> K."""
    return picture[0, positions[:, 0], positions[:, 1]]


def distances(picture: Tensor, queries: Tensor, keys: Tensor, size: int) -> Tensor:
    """Squared distances between the patches around queries and keys, Q K. picture: 1 H W, 0-255.

    For a picture of integers they are exact in float32, ties among them: 7 * 7 * 255^2 < 2^24.
    """
    patches = F.unfold(picture[None], size, padding=size // 2)[0].T  # H*W D, the patch around each position
    of_queries, of_keys = (patches[at[:, 0] * picture.shape[2] + at[:, 1]] for at in (queries, keys))
    return of_queries.square().sum(1, keepdim=True) + of_keys.square().sum(1) - 2 * of_queries @ of_keys.T


def draw(found: dict[str, dict[Setting, tuple[float, float]]], path: Path) -> None:
    """Overlap and error against sigma: a column for each folder, keys in the window."""
    figure = new_figure(4.6 * len(found), 7.5)
    axes = figure.subplots(2, len(found), sharex=True, sharey="row", squeeze=False)
    for column, (name, of) in zip(axes.T, found.items(), strict=True):
        for (reach, style), (size, color) in product(
            (("window", "-"), ("global", ":")), zip(PATCH_SIZES, COLORS, strict=False)
        ):
            label = f"{size}x{size}" + (", all keys" if reach == "global" else "")
            for axis, which in zip(column, (0, 1), strict=True):
                values = [of[reach, size, sigma][which] for sigma in SIGMAS]
                axis.plot(SIGMAS, values, style, color=color, marker="o", markersize=3, label=label)
        column[0].set(title=name, ylim=(0, 1.02))
        column[1].set(xlabel="sigma of the noise", ylim=(0, None))
        for axis in column:
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("overlap at 10 with the clean picture's")
    axes[1, 0].set_ylabel("RMS difference of the pixels found,\nclean, gray levels (0-255)")
    axes[0, -1].legend(title="patch; keys in a window of 65x65 or all", ncols=2, fontsize=8)
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Stability of the similarity under noise.")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    main(arguments.folders, arguments.out)
