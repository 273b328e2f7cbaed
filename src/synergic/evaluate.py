"""Benchmark figures with their exact protocol."""

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import isinf
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Generator, Tensor

from synergic.card import share_of_range
from synergic.data import matlab_luma, read_by_name, to_colors, to_tensor, to_uint8
from synergic.degradations import add_gaussian_noise, add_jpeg_artifacts, in_8_bits
from synergic.errors import SynergicError
from synergic.files import check_free, write_text
from synergic.images import Picture, find_pictures, write_picture
from synergic.metrics import SSIM_SIDE, decibels, psnr, psnr_b, ssim
from synergic.network import count_parameters
from synergic.restore import Restorer
from synergic.stores import check_apart, identity


@dataclass(frozen=True)
class Protocol:
    """How the degraded pictures come about. Exactly one of sigma, quality, pairs is given."""

    data: Path
    """Folder of clean pictures."""
    sigma: float | None = None
    """White Gaussian noise, 0-255 scale; float32, neither clipped nor rounded before the network."""
    clipped: bool = False
    """But this noise is, as in a file: clipped to [0, 1] and rounded to 8 bit."""
    quality: int | None = None
    """JPEG quality, 1-100."""
    pairs: Path | None = None
    """Folder of degraded pictures with the names of the clean ones."""
    seed: int = 0
    """Seed of the noise: a fresh generator with it for each picture."""
    limit: int | None = None
    """Only the first pictures."""
    blind: bool = False
    """Do not tell the network the strength."""

    def __post_init__(self) -> None:
        given = [name for name in ("sigma", "quality", "pairs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise SynergicError(f"evaluate: expected one of sigma, quality, pairs, got {' and '.join(given) or 'none'}")
        if not -(2**63) <= self.seed < 2**64:
            raise SynergicError(f"seed: expected 64 bits, got {self.seed}")
        if self.pairs is None:
            share_of_range(given[0], getattr(self, given[0]))
        if self.clipped and self.sigma is None:
            raise SynergicError(f"clipped: expected it with sigma, got it with {given[0]}; leave it out")

    def identities(self) -> set[object]:
        """Of every picture that is read, see `stores.identity`."""
        folders = [folder for folder in (self.data, self.pairs) if folder is not None]
        return {identity(path) for path, _ in find_pictures(folders)}

    def samples(self, colors: int) -> Iterator[tuple[str, Tensor, np.ndarray]]:
        """(name, degraded float32 C H W, clean uint8 H W C); gray if `colors` is 1, else as the files are."""
        degraded = {} if self.pairs is None else read_by_name(self.pairs)
        for name, pixels in self.clean_pictures().items():
            clean = self.in_colors(pixels, colors)
            if self.pairs is None:
                yield name, self.degrade(to_tensor(clean)), clean
            elif name in degraded and degraded[name].shape == pixels.shape:
                yield name, to_tensor(self.in_colors(degraded[name], colors)), clean
            else:
                got = degraded[name].shape if name in degraded else "none"
                raise SynergicError(f"{self.pairs}: {name}: expected a degraded picture of {pixels.shape}, got {got}")

    def clean_pictures(self) -> dict[str, np.ndarray]:
        """The clean pictures by name, uint8 H W C. Raises SynergicError for one that cannot be measured on."""
        pictures = read_by_name(self.data, limit=self.limit)
        for name, pixels in pictures.items():
            if min(pixels.shape[:2]) < SSIM_SIDE:
                size = " x ".join(map(str, pixels.shape[:2]))
                raise SynergicError(
                    f"{self.data}: {name}: expected at least {SSIM_SIDE} x {SSIM_SIDE} pixels for SSIM, got {size}"
                )
        return pictures

    def in_colors(self, pixels: np.ndarray, colors: int) -> np.ndarray:
        """As the file is for a colour network; for a gray one Pillow's gray, or for JPEG MATLAB's luma."""
        if colors == 3 or pixels.shape[2] == 1:
            return pixels
        return to_colors(pixels, 1) if self.quality is None else matlab_luma(pixels)

    def told(self, restorer: Restorer) -> dict[str, Any]:
        """The sigma or quality that the network is told; nothing if `blind`, or if it takes none. Raises SynergicError
        for a sigma where it takes a quality, and the other way round."""
        if self.blind or not restorer.conditioned:
            return {}
        takes, other = ("quality", "sigma") if restorer.card.task == "jpeg" else ("sigma", "quality")
        if getattr(self, other) is not None:
            raise SynergicError(
                f"{restorer.card.name}: expected a {takes} to be told, got a {other}; pass --blind, or other weights"
            )
        value = getattr(self, takes)
        return {} if value is None else {takes: value}

    def degrade(self, clean: Tensor) -> Tensor:
        """The synthetic degradation. C H W -> C H W."""
        if self.sigma is not None:
            noisy = add_gaussian_noise(clean, self.sigma, Generator().manual_seed(self.seed))
            return in_8_bits(noisy) if self.clipped else noisy
        assert self.quality is not None
        return add_jpeg_artifacts(clean, self.quality)

    def describe(self, restorer: Restorer) -> dict[str, Any]:
        """The protocol in words, to stand beside every figure."""
        held = "clipped to [0, 1], rounded to 8 bit" if self.clipped else "float32, not clipped"
        kinds = {"sigma": f"white Gaussian noise, sigma {self.sigma}, {held}, seed {self.seed} per picture"}
        gray = restorer.network.config.colors == 1
        kinds["quality"] = f"JPEG quality {self.quality}{'' if gray else ', colour whole (4:4:4)'}"
        as_gray = "Pillow's gray (L)" if self.quality is None else "luma as MATLAB's rgb2ycbcr (16-235)"
        kinds["pairs"] = f"degraded pictures from {self.pairs}"
        given = next(name for name in kinds if getattr(self, name) is not None)
        window, precision = restorer.network.config.window, str(restorer.precision).removeprefix("torch.")
        return {
            "data": str(self.data) if self.limit is None else f"{self.data}, the first {self.limit}",
            "pictures": f"gray ones as they are, colour ones as {as_gray if gray else 'they are'}",
            "degradation": kinds[given],
            "strength": "known to the network" if self.told(restorer) else "unknown to the network",
            "inference": f"whole picture, no tiles, attention windows {window}, {precision}",
            "ensemble": restorer.ensemble,
            "output": "clipped to [0, 1], rounded to 8 bit",
            "psnr": "dB, whole picture, no border, mean over pictures",
            "ssim": "Wang et al. 2004, 11x11 Gaussian of sigma 1.5, valid region, data range 255, mean over channels",
        }


def evaluate(
    restorer: Restorer, protocol: Protocol, save: Path | None = None, *, overwrite: bool = False
) -> dict[str, Any]:
    """PSNR and SSIM of every picture and their means; PSNR-B for gray JPEGs.

    `save`: folder for the restored pictures and for index.html, a page that shows them beside degraded and clean, which
    lie in index_files. What such a page shows of an earlier run is replaced; other files that exist raise SynergicError
    unless `overwrite`.
    """
    images, shapes = [], []
    earlier = set[str]() if save is None else check_save(save, protocol, overwrite)
    told = protocol.told(restorer)
    for name, degraded, clean in protocol.samples(restorer.network.config.colors):
        with torch.inference_mode():
            restored = to_uint8(restorer.tensor(degraded[None].to(restorer.device), **told)[0])
        scores = {
            "psnr": psnr(restored, clean),
            "ssim": ssim(restored, clean),
            "degraded_psnr": psnr_of(degraded, clean),
        }
        if protocol.quality is not None and clean.shape[2] == 1:
            scores["psnr_b"] = psnr_b(restored, clean)
        images.append((name, scores))
        if save is not None:
            replaced = overwrite or name in earlier
            kinds = {"degraded": to_uint8(degraded), "restored": restored, "clean": clean}
            for kind, path in shown(name).items():
                write_picture(save / path, Picture(kinds[kind], None, {}, None), overwrite=replaced)
            shapes.append(clean.shape)
    shared = [key for key in images[0][1] if all(key in scores for _, scores in images)]  # PSNR-B is of gray alone
    means = {key: fmean(scores[key] for _, scores in images) for key in shared}
    report = {
        **means,
        "images": [{"name": name, **scores} for name, scores in images],
        "protocol": protocol.describe(restorer),
        "weights": restorer.card.name,
        "parameters": count_parameters(restorer.network),
    }
    if save is not None:
        write_page(save / "index.html", report, shapes, earlier)
    return report


def shown(name: str) -> dict[str, str]:
    """The files of one picture in the folder of a page, by what they show."""
    return {"restored": f"{name}.png"} | {kind: f"index_files/{kind}/{name}.png" for kind in ("degraded", "clean")}


def check_save(save: Path, protocol: Protocol, overwrite: bool) -> set[str]:
    """Refuse a folder in which a picture of the protocol would be lost, or unless `overwrite` a file that no earlier
    run wrote: before the first picture is restored. Returns the names that an earlier run's page shows."""
    for folder in (protocol.data, protocol.pairs):
        if folder is not None and related(save.resolve(), folder.resolve()):
            raise SynergicError(
                f"{save}: expected a folder apart from {folder}, got one that shares pictures with it; choose another"
            )
    earlier, read = shown_in(save / "index.html"), protocol.identities()
    for _, relative in find_pictures([protocol.data])[: protocol.limit]:
        name = str(relative.with_suffix(""))
        for path in shown(name).values():
            check_apart(save / path, read)
            check_free(save / path, overwrite or name in earlier)
    check_free(save / "index.html", overwrite or bool(earlier))
    return earlier


def related(one: Path, other: Path) -> bool:
    """Are two resolved folders the same, or is one of them in the other?"""
    return one == other or one in other.parents or other in one.parents


def shown_in(page: Path) -> set[str]:
    """Names of the pictures on a page of an earlier run, and of those before; none if it is another page or none."""
    try:
        text = page.read_text(encoding="utf-8")
        held = re.search(r'<script type="application/json" id="report">(.*?)</script>', text, re.DOTALL)
        report = json.loads(held[1]) if held else {"images": []}
        return {image["name"] for image in report["images"]} | set(report.get("earlier", []))
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def check_report(path: Path, protocol: Protocol, weights: Path, page: Path | None, overwrite: bool) -> None:
    """Refuse a name for the report that a picture of the protocol has, or the weights or the page, or unless
    `overwrite` anything but a report."""
    check_apart(path, protocol.identities() | {identity(weights)})
    if page is not None and path.resolve() == page.resolve():
        raise SynergicError(f"{path}: expected a report apart from the page, got its name; choose another name")
    check_free(path, overwrite or is_report(path))


def is_report(path: Path) -> bool:
    """Is it a report in JSON that `evaluate` wrote?"""
    try:
        report = json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(report, dict) and {"images", "protocol", "weights"} <= report.keys()


def seconds_per_megapixel(restorer: Restorer, side: int = 512, rounds: int = 3) -> float:
    """The best of `rounds` times for side x side pixels, in seconds per million."""
    picture = np.random.default_rng(0).random((side, side, restorer.network.config.colors), np.float32)
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        restorer(picture)
        seconds.append(time.perf_counter() - started)
    return min(seconds) * 1e6 / side**2


def write_page(path: Path, report: dict[str, Any], shapes: Sequence[tuple[int, ...]], earlier: set[str]) -> None:
    """The page: the report, and where beside it every picture lies, whose shapes are H W C; it remembers the names of
    `earlier` pictures, which the next run may replace."""
    images = []
    for image, (height, width, _) in zip(report["images"], shapes, strict=True):
        places = {kind: quote(os.fsencode(place)) for kind, place in shown(image["name"]).items()}
        images.append(image | {"pictures": places, "width": width, "height": height})
    title = f"{report['weights']} on {Path(report['protocol']['data']).resolve().name}"
    others = sorted(earlier - {image["name"] for image in images})
    text = as_json(report | {"images": images, "title": title, "earlier": others})
    page = files("synergic").joinpath("report.html").read_text(encoding="utf-8")
    write_text(path, page.replace("{{report}}", text.replace("<", "\\u003c")), overwrite=True)


def as_json(report: dict[str, Any]) -> str:
    """A report as JSON, which knows no infinite numbers: null stands for the PSNR of what is equal."""
    return json.dumps(finite(report), indent=1)


def finite(value: Any) -> Any:
    """The same with None for infinite numbers, which JSON does not know."""
    if isinstance(value, dict):
        return {key: finite(of) for key, of in value.items()}
    if isinstance(value, list):
        return [finite(of) for of in value]
    return None if isinstance(value, float) and isinf(value) else value


def psnr_of(degraded: Tensor, clean: np.ndarray) -> float:
    """PSNR in dB of a degraded picture as the network gets it: float, neither clipped nor rounded."""
    pixels = degraded.permute(1, 2, 0).double().numpy() * 255
    if np.allclose(pixels, np.rint(pixels), rtol=0, atol=1e-4):
        pixels = np.rint(pixels)  # 8 bits, which float32 holds but nearly
    return decibels(float(np.mean((pixels - clean) ** 2)))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that reads well as plain text too: columns padded, all but the first to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in (header, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
