"""Colour JPEGs three ways: `python training/color_jpeg.py FOLDER [--weights color-jpeg] [--limit N]`.

PSNR in dB over red, green and blue, mean over the clean pictures of FOLDER: of the JPEG as it is, of its luma restored
by gray-jpeg with the chroma left, of each channel restored by gray-jpeg, and of the colour weights, told the quality.
Prints a table in Markdown, with and without chroma subsampling.
"""

import argparse
from pathlib import Path

import numpy as np

from synergic import Restorer
from synergic.data import read_folder
from synergic.images import compress_jpeg
from synergic.metrics import psnr

TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
"""JFIF's luma and chroma, the latter about zero."""
QUALITIES = 10, 20, 30, 40
WAYS = "JPEG", "`gray-jpeg` on luma alone", "`gray-jpeg` channel by channel", "colour weights"


def main(folder: Path, weights: str, limit: int | None) -> None:
    """Print the table."""
    gray, color = (Restorer.from_pretrained(name, device="cpu") for name in ("gray-jpeg", weights))
    pictures = [pixels for _, pixels in read_folder(folder, colors=3)[:limit]]
    print(f"| {folder.name} | {' | '.join(WAYS)} |\n|---|---|---|---|---|")
    for subsampling in (False, True):
        for quality in QUALITIES:
            scores = np.mean([ways(clean, quality, subsampling, gray, color) for clean in pictures], 0)
            row = " | ".join(f"{score:.2f}" for score in scores)
            print(f"| {'4:2:0' if subsampling else '4:4:4'}, quality {quality} | {row} |", flush=True)


def ways(clean: np.ndarray, quality: int, subsampling: bool, gray: Restorer, color: Restorer) -> list[float]:
    """The PSNR of a picture, uint8 H W 3, in each of `WAYS`."""
    degraded = compress_jpeg(clean, quality, subsampling=subsampling)
    restored = [gray(degraded, quality=quality), color(degraded, quality=quality)]
    shown = [degraded, on_luma(degraded, quality, gray), *restored]
    return [psnr(picture, clean) for picture in shown]


def on_luma(degraded: np.ndarray, quality: int, gray: Restorer) -> np.ndarray:
    """A picture, uint8 H W 3, whose luma is restored and whose chroma stays."""
    ycc = degraded / np.float32(255) @ TO_YCC.T
    ycc[..., 0] = gray(ycc[..., 0], quality=quality)
    return np.rint((ycc @ np.linalg.inv(TO_YCC).T).clip(0, 1) * 255).astype(np.uint8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default="color-jpeg")
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    main(arguments.folder, arguments.weights, arguments.limit)
