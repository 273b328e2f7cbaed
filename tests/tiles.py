"""What tiles change: `python tests/tiles.py FOLDER`.

The first pictures of a folder are degraded, and each is restored whole and in tiles, with all published weights and
default settings, this machine's tiles among them. Pictures that one tile holds are widened first. Printed: PSNR between
the two, and the seams, as the detector below finds them.
"""

import argparse
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import Generator

from synergic import Restorer
from synergic.card import published_weights
from synergic.data import read_folder, to_colors, to_tensor
from synergic.degradations import CameraNoise, add_gaussian_noise
from synergic.images import compress_jpeg, to_float
from synergic.metrics import decibels
from synergic.tiling import TILE_SIZE, axis_spans, overlap_of

NOISE = CameraNoise(shot_min=3e-3, shot_max=3e-3, clean=0)
QUALITY = 20


def main(folder: Path, limit: int, tile_size: int | None) -> None:
    """Print a line for each picture and weights, and the worst of all."""
    worst, strongest = float("inf"), 0.0
    for name in published_weights():
        restorer = Restorer.from_pretrained(name, device="cpu", tile_size=tile_size)
        size = restorer.tile_size
        for picture, clean in read_folder(folder)[:limit]:
            whole, tiled = restore(restorer, degrade(widened(clean, size), name), size)
            agreement = psnr(whole, tiled)
            found = seams(whole, tiled, size, restorer.align)
            print(f"{name} {picture}: {agreement:.2f} dB; seams {' '.join(f'{s:+.2%}' for s in found)}", flush=True)
            worst, strongest = min(worst, agreement), max([strongest, *map(abs, found)])
    print(f"tiles of {size}: at least {worst:.2f} dB; no seam stronger than {strongest:.2%}")


def widened(clean: np.ndarray, tile_size: int = TILE_SIZE) -> np.ndarray:
    """H W C, at least one and a half tiles wide by its mirror image on both sides: tiles meet at its middle."""
    missing = max(0, tile_size * 3 // 2 - clean.shape[1])
    return np.pad(clean, ((0, 0), (missing // 2, missing - missing // 2), (0, 0)), "reflect")


def degrade(clean: np.ndarray, weights: str) -> np.ndarray:
    """uint8 H W C -> float32 H W C of the network's colours, with what it removes: noise of seed 0, for photo a
    camera's, else of sigma 25; or JPEG's blocks."""
    colored, generator = to_colors(clean, 1 if weights.startswith("gray") else 3), Generator().manual_seed(0)
    if weights.endswith("jpeg"):
        return to_float(compress_jpeg(colored, QUALITY))
    if weights == "photo":
        return NOISE(to_tensor(colored), generator)[0].permute(1, 2, 0).numpy()
    return add_gaussian_noise(to_tensor(colored), 25, generator).permute(1, 2, 0).numpy()


def restore(restorer: Restorer, degraded: np.ndarray, tile_size: int = TILE_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Whole, and in tiles; the quality of a JPEG is told, as a file tells it."""
    told = QUALITY if restorer.card.task == "jpeg" else None
    whole = replace(restorer, tile_size=max(degraded.shape))(degraded, quality=told)
    return whole, replace(restorer, tile_size=tile_size)(degraded, quality=told)


def psnr(whole: np.ndarray, tiled: np.ndarray) -> float:
    """dB between float pictures in about [0, 1]."""
    return decibels(float(np.mean((whole - tiled).astype(np.float64) ** 2)) * 255**2)


def seams(whole: np.ndarray, tiled: np.ndarray, tile_size: int, align: int) -> list[float]:
    """How much the gradients' energy in each strip where tiles meet differs from that in the strips on both sides, as a
    share, less what it differs by in the picture restored whole; 0 is no seam. H W C, float."""
    return [
        share(tiled, axis, start, stop) / share(whole, axis, start, stop) - 1
        for axis in (0, 1)
        for start, stop in strips(tiled.shape[axis], tile_size, align)
    ]


def strips(length: int, tile_size: int, align: int) -> list[tuple[int, int]]:
    """Where neighbouring tiles meet along an axis."""
    spans = axis_spans(length, tile_size, overlap_of(tile_size), align)
    return [(after.start, before.stop) for before, after in pairwise(spans)]


def share(picture: np.ndarray, axis: int, start: int, stop: int) -> float:
    """Energy of the gradient across `start` to `stop`, over that of as wide a neighbourhood on each side."""
    energy = (np.diff(picture.astype(np.float64), axis=axis) ** 2).mean(axis=(1 - axis, 2))
    width = stop - start
    beside = np.concatenate([energy[max(0, start - width) : start], energy[stop : stop + width]])
    return float(energy[start:stop].mean() / beside.mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--tile-size", type=int, help="[default: by memory]")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.limit, arguments.tile_size)
