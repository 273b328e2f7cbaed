"""The network beside the classical methods that users have: the same degraded pictures, a table, a contact sheet.

The methods' parameters are factors on sigma. They were chosen on eight crops of val-open for the greatest mean PSNR at
sigma 15, 25 and 50 (BM3D has none to choose), as users would tune them, and not on what they are compared on.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from synergic.data import to_tensor
from synergic.errors import SynergicError
from synergic.evaluate import Protocol, markdown, psnr_of
from synergic.figures import COLORS, new_figure, outline, save_figure, show
from synergic.images import find_pictures, from_float, read_pixels, to_float
from synergic.metrics import psnr, ssim
from synergic.network import count_parameters
from synergic.restore import Restorer
from synergic.tiling import Progress, is_gray

PLACES = 6
"""Rows of the contact sheet."""
CROP_SIZE = 64
"""Side of a crop on the contact sheet, in pixels."""
LEAST_DIFFERENCE = 1 / 3
"""Of a picture's greatest: places where the methods differ less are flat or nearly black, and show nothing."""

Denoise = Callable[[np.ndarray, float], np.ndarray]
"""Degraded float32 H W C in about [0, 1] and its sigma on that scale -> restored H W C, not clipped."""


def classical_methods() -> dict[str, Denoise]:
    """The methods whose packages are installed, by name. scikit-image's are always among them."""
    if find_spec("skimage") is None or find_spec("pywt") is None:
        raise SynergicError(
            "compare: expected scikit-image and PyWavelets, got no such packages; pip install 'synergic[compare]'"
        )
    methods: dict[str, Denoise] = {
        "total variation (scikit-image)": total_variation,
        "wavelets (scikit-image)": wavelets,
        "non-local means (scikit-image)": nonlocal_means,
    }
    if find_spec("cv2") is not None:
        methods["non-local means (OpenCV)"] = opencv_nonlocal_means
    if find_spec("bm3d") is not None:
        methods["BM3D (bm3d)"] = bm3d
    return methods


def total_variation(degraded: np.ndarray, sigma: float) -> np.ndarray:
    """A. Chambolle, "An algorithm for total variation minimization and applications", JMIV 2004."""
    from skimage.restoration import denoise_tv_chambolle

    picture, axis = for_skimage(degraded)
    return denoise_tv_chambolle(picture, weight=0.8 * sigma, channel_axis=axis).reshape(degraded.shape)


def wavelets(degraded: np.ndarray, sigma: float) -> np.ndarray:
    """BayesShrink: S. Chang, B. Yu, M. Vetterli, "Adaptive wavelet thresholding", IEEE TIP 2000."""
    from pywt import dwtn_max_level
    from skimage.restoration import denoise_wavelet

    levels = max(1, min(4, dwtn_max_level(degraded.shape[:2], "sym4")))  # its default leaves coarse noise
    picture, axis = for_skimage(degraded)
    restored = denoise_wavelet(picture, sigma=sigma, wavelet="sym4", wavelet_levels=levels, channel_axis=axis)
    return restored.reshape(degraded.shape)


def nonlocal_means(degraded: np.ndarray, sigma: float) -> np.ndarray:
    """A. Buades, B. Coll, J.-M. Morel, "A non-local algorithm for image denoising", CVPR 2005."""
    from skimage.restoration import denoise_nl_means

    picture, axis = for_skimage(degraded)
    sizes = {"patch_size": 5, "patch_distance": 11}
    restored = denoise_nl_means(picture, h=0.6 * sigma, sigma=sigma, fast_mode=True, channel_axis=axis, **sizes)
    return restored.reshape(degraded.shape)


def for_skimage(picture: np.ndarray) -> tuple[np.ndarray, int | None]:
    """The picture and its channel axis: scikit-image wants gray as H W."""
    return (picture, 2) if picture.shape[2] == 3 else (picture[..., 0], None)


def opencv_nonlocal_means(degraded: np.ndarray, sigma: float) -> np.ndarray:
    """The same as OpenCV has it, for 8-bit pictures: what it gets is clipped and rounded."""
    import cv2

    pixels = from_float(degraded, np.uint8)[..., ::-1]  # its colours begin with blue
    if pixels.shape[2] == 3:
        h = 0.7 * sigma * 255
        restored = cv2.fastNlMeansDenoisingColored(pixels, None, h, h, templateWindowSize=3, searchWindowSize=21)
    else:
        h = 1.1 * sigma * 255
        restored = cv2.fastNlMeansDenoising(pixels, None, h, templateWindowSize=3, searchWindowSize=21)
    return to_float(np.asarray(restored).reshape(degraded.shape)[..., ::-1])


def bm3d(degraded: np.ndarray, sigma: float) -> np.ndarray:
    """K. Dabov, A. Foi, V. Katkovnik, K. Egiazarian, "Image denoising by sparse 3-D transform-domain collaborative
    filtering", IEEE TIP 2007; its authors' package, which is free for non-commercial use only."""
    import bm3d

    if degraded.shape[2] == 3:
        return bm3d.bm3d_rgb(degraded, sigma)
    return bm3d.bm3d(degraded[..., 0], sigma)[..., None]


@dataclass(frozen=True)
class Place:
    """A crop of one picture, as every method restored it."""

    name: str
    """name of the picture"""
    picture: np.ndarray
    """uint8 H W C: the whole of it, clean"""
    corner: tuple[int, int]
    """row and column of the crop"""
    difference: float
    """variance between the methods, mean over the crop"""
    crops: dict[str, np.ndarray]
    """P P C: clean, degraded, and every method's; uint8, but for degraded, which is float32 and not clipped"""


def compare(
    restorer: Restorer, protocol: Protocol, progress: Progress | None = None
) -> tuple[dict[str, Any], list[Place]]:
    """The report, and the places where the methods differ most, that of the greatest difference first.

    Every method gets the same degraded pictures and is told sigma. For JPEG the classical ones, which remove noise, are
    told the root mean square of the true error, which no user knows. The network is told what the protocol says.
    """
    told = protocol.told(restorer)
    methods = {name: unless_clean(denoise) for name, denoise in classical_methods().items()}
    methods[f"SAT-Net ({restorer.card.name})"] = lambda degraded, _: restore_whole(restorer, degraded, **told)
    count = len(find_pictures([protocol.data])[: protocol.limit])
    images: dict[str, list[dict[str, Any]]] = {method: [] for method in ("degraded", *methods)}
    places: list[Place] = []
    for done, (name, tensor, clean) in enumerate(protocol.samples(restorer.network.config.colors)):
        degraded = np.ascontiguousarray(tensor.permute(1, 2, 0).numpy())  # H W C
        error = float(np.sqrt(np.mean((degraded - clean / 255) ** 2)))
        sigma = error if protocol.sigma is None else protocol.sigma / 255
        shown = {"clean": clean, "degraded": degraded}
        before = {"psnr": psnr_of(tensor, clean), "ssim": ssim(from_float(degraded, np.uint8), clean)}
        images["degraded"].append({"name": name, **before})
        for i, (method, denoise) in enumerate(methods.items()):
            if done == 0:  # the first call imports and sets up
                denoise(degraded[:CROP_SIZE, :CROP_SIZE], sigma or 1 / 255)  # at 0 it would not be called
            started = time.perf_counter()
            restored = denoise(degraded, sigma)
            seconds = time.perf_counter() - started
            shown[method] = from_float(restored, np.uint8)
            after = {"psnr": psnr(shown[method], clean), "ssim": ssim(shown[method], clean)}
            images[method].append({"name": name, **after, "seconds": seconds})
            if progress is not None:
                progress(done * len(methods) + i + 1, count * len(methods))
        places += differing_places(name, shown, max(1, PLACES // count))
    report = {
        "methods": [{"method": method, **means(of), "images": of} for method, of in images.items()],
        "protocol": describe(restorer, protocol),
        "weights": restorer.card.name,
        "parameters": count_parameters(restorer.network),
    }
    return report, sorted(places, key=lambda place: -place.difference)[:PLACES]


def unless_clean(denoise: Denoise) -> Denoise:
    """The method where there is noise, for some divide by sigma; what has none, as it is."""
    return lambda degraded, sigma: denoise(degraded, sigma) if sigma > 0 else degraded


def colors_of(files: Sequence[Path]) -> int:
    """1 if all pictures are gray, gray stored as RGB too; 3 if none is. Raises SynergicError for some of both: no one
    weights are the best for all."""
    gray, colour = list[Path](), list[Path]()
    for path in files:
        (gray if is_gray(read_pixels(path)) else colour).append(path)
    if gray and colour:
        raise SynergicError(
            f"{gray[0].parent}: expected gray or colour pictures, got both, {gray[0].name} and {colour[0].name}; "
            "compare them in two folders"
        )
    return 3 if colour else 1


def restore_whole(restorer: Restorer, degraded: np.ndarray, **told: Any) -> np.ndarray:
    """The network's answer without tiles, told a sigma, a quality or nothing. H W C float32 -> the same."""
    with torch.inference_mode():
        restored = restorer.tensor(to_tensor(degraded)[None].to(restorer.device), **told)
    return restored[0].permute(1, 2, 0).cpu().numpy()


def means(images: list[dict[str, Any]]) -> dict[str, float]:
    """The means over pictures of every figure."""
    return {key: fmean(image[key] for image in images) for key in images[0] if key != "name"}


def describe(restorer: Restorer, protocol: Protocol) -> dict[str, Any]:
    """The protocol in words."""
    told = f"sigma {protocol.sigma}" if protocol.sigma is not None else "the root mean square of the true error"
    return protocol.describe(restorer) | {
        "degraded": "PSNR as the methods get it; SSIM and what is shown, 8 bit",
        "classical methods": f"told {told}; their other parameters chosen on other pictures",
        "seconds": f"wall clock, mean over pictures, after a call that does not count; network on {restorer.device}",
    }


def differing_places(name: str, shown: dict[str, np.ndarray], count: int) -> list[Place]:
    """The crops, at most `count` and apart from each other, in which the restored pictures differ most; the first, and
    those that differ `LEAST_DIFFERENCE` times as much."""
    from scipy.ndimage import uniform_filter

    restored = [picture for column, picture in shown.items() if column not in ("clean", "degraded")]
    variance = np.var(np.stack(restored).astype(np.float32), axis=0).mean(2)  # H W
    size = min(CROP_SIZE, *variance.shape)
    mean = uniform_filter(variance, size)[size // 2 :, size // 2 :]
    mean = mean[: variance.shape[0] - size + 1, : variance.shape[1] - size + 1].copy()  # of the crop from each corner
    places, least = list[Place](), mean.max() * LEAST_DIFFERENCE
    for _ in range(count):
        top, left = np.unravel_index(mean.argmax(), mean.shape)
        if mean[top, left] < least:
            break
        crops = {column: picture[top : top + size, left : left + size] for column, picture in shown.items()}
        places.append(Place(name, shown["clean"], (int(top), int(left)), float(mean[top, left]), crops))
        mean[max(0, top - size + 1) : top + size, max(0, left - size + 1) : left + size] = -1
    return places


def table(report: dict[str, Any]) -> str:
    """The report's means in Markdown, a row for each method."""
    header = ("method", "PSNR (dB)", "SSIM", "seconds")
    rows = [
        (of["method"], f"{of['psnr']:.2f}", f"{of['ssim']:.4f}", f"{of['seconds']:.2f}" if "seconds" in of else "")
        for of in report["methods"]
    ]
    return markdown(header, rows)


def draw_sheet(report: dict[str, Any], places: Sequence[Place], path: Path, *, overwrite: bool = False) -> None:
    """The contact sheet, a row for each place: the whole picture with its frame, then the crops with their PSNR."""
    columns = list(places[0].crops)
    figure = new_figure(2.1 * (len(columns) + 1), 2.3 * len(places) + 1)
    protocol = report["protocol"]
    figure.suptitle(f"{protocol['degradation']}; strength {protocol['strength']}; dB: PSNR of the crop")
    axes = figure.subplots(len(places), len(columns) + 1, squeeze=False)
    for i, (row, place) in enumerate(zip(axes, places, strict=True)):
        size = np.array(place.crops["clean"].shape[:2])
        show(row[0], place.picture, place.name)
        outline(row[0], np.array(place.corner), size, COLORS[1])
        for axis, column in zip(row[1:], columns, strict=True):
            head = column.replace(" (", "\n(") + "\n" if i == 0 else ""
            show(axis, place.crops[column], head + decibels(place, column))
    save_figure(figure, path, overwrite=overwrite)


def decibels(place: Place, column: str) -> str:
    """PSNR of a crop by the definition of the table; nothing for the clean one."""
    crop, clean = place.crops[column], place.crops["clean"]
    if column == "clean":
        return ""
    return f"{psnr_of(to_tensor(crop), clean) if column == 'degraded' else psnr(crop, clean):.2f} dB"
