"""The camera-noise model: `python training/camera_noise.py PICTURES PAIRS -o FIGURE [--photos DIR]`.

PICTURES: clean pictures for the model. PAIRS: a folder with `clean` and `degraded` pictures of a real camera. Draws
noise spectra, and level against intensity; with --photos, real noisy ones, also samples of both to look at.
"""

import argparse
from pathlib import Path

import numpy as np
from torch import Generator

from synergic.data import read_folder, to_tensor, to_uint8
from synergic.degradations import CameraNoise
from synergic.figures import COLORS, new_figure, save_figure, show

BLOCK = 64
"""Side of the blocks whose spectra are averaged, in pixels."""
Noise = tuple[np.ndarray, np.ndarray]
"""Clean luma and the noise's luma, H W each, 0-255."""


def main(pictures: Path, pairs: Path, out: Path, photos: Path | None) -> None:
    """Draw the figure."""
    real = dict(read_folder(pairs / "degraded", 3))
    measured = [luma_of(clean, real[name]) for name, clean in read_folder(pairs / "clean", 3)]
    samples = [(clean, degraded(clean, seed)) for seed, (_, clean) in enumerate(read_folder(pictures, 3))]
    model = [luma_of(clean, noisy) for clean, noisy in samples]
    model = [noise for noise in model if noise[1].std() > 0.5]  # some of the model's pictures are clean
    figure = new_figure(12, 4 if photos is None else 9)
    *above, below = figure.subfigures(1 if photos is None else 3, 1, squeeze=False)[:, 0]
    if photos is not None:
        show_row(above[0], [picture for _, picture in read_folder(photos, 3)], "real")
        show_row(above[1], [noisy for _, noisy in samples], "model")
    left, right = below.subplots(1, 2)
    curves(left, measured, model, spectrum, "cycles per pixel", "power of the noise (white: 1)")
    curves(right, measured, model, levels, "clean intensity", "noise there / noise overall")
    save_figure(figure, out)


def show_row(figure, pictures: list[np.ndarray], title: str) -> None:  # type: ignore[no-untyped-def]
    """The middles of the first six."""
    for axis, picture in zip(figure.subplots(1, 6), pictures, strict=False):
        show(axis, middle(picture), title)


def degraded(clean: np.ndarray, seed: int) -> np.ndarray:
    """A picture of the model. uint8 H W 3."""
    return to_uint8(CameraNoise()(to_tensor(clean), Generator().manual_seed(seed))[0])


def luma_of(clean: np.ndarray, noisy: np.ndarray) -> Noise:
    """What is measured of a pair."""
    return clean.astype(float).mean(2), (noisy.astype(float) - clean).mean(2)


def middle(picture: np.ndarray, size: int = 128) -> np.ndarray:
    """The middle of a picture."""
    top, left = (max(0, length - size) // 2 for length in picture.shape[:2])
    return picture[top : top + size, left : left + size]


def spectrum(noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    """Frequency in cycles per pixel, and the mean power at it; the powers of white noise would all be 1."""
    _, residual = noise
    height, width = (length // BLOCK * BLOCK for length in residual.shape)
    blocks = residual[:height, :width].reshape(height // BLOCK, BLOCK, -1, BLOCK).swapaxes(1, 2)
    power = (np.abs(np.fft.fft2(blocks - blocks.mean((2, 3), keepdims=True))) ** 2).mean((0, 1))
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(BLOCK)] * 2))
    return binned(frequency, power / power.mean(), np.linspace(0.01, 0.5, 17))


def levels(noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    """Clean intensity 0-255, and the noise's deviation there relative to the whole picture's."""
    clean, residual = noise
    intensity, variance = binned(clean, (residual - residual.mean()) ** 2, np.linspace(0, 256, 17))
    return intensity, np.sqrt(variance) / residual.std()


def binned(x: np.ndarray, y: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of y in bins of x, nan where fewer than 200 (or a hundredth of all) fall."""
    places = np.digitize(x.ravel(), edges) - 1
    inside = (places >= 0) & (places < len(edges) - 1)
    counts = np.bincount(places[inside], minlength=len(edges) - 1)
    sums = np.bincount(places[inside], y.ravel()[inside], minlength=len(edges) - 1)
    enough = counts >= min(200, x.size / 100)
    return (edges[:-1] + edges[1:]) / 2, np.where(enough, sums / np.maximum(counts, 1), np.nan)


def curves(axis, measured, model, function, xlabel: str, ylabel: str) -> None:  # type: ignore[no-untyped-def]
    """Median and the range from the 10th to the 90th percentile, of the camera and of the model."""
    for name, color, noises in (("real camera", COLORS[0], measured), ("model", COLORS[1], model)):
        x, values = function(noises[0])[0], np.array([function(noise)[1] for noise in noises])
        few = np.isfinite(values).sum(0) < len(noises) / 4
        low, mid, high = np.where(few, np.nan, np.nanpercentile(np.where(few, 0, values), (10, 50, 90), axis=0))
        axis.plot(x, mid, color=color, label=f"{name}, {len(noises)} pictures")
        axis.fill_between(x, low, high, color=color, alpha=0.25, linewidth=0)
    axis.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    axis.legend()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--photos", type=Path)
    main(**vars(parser.parse_args()))
