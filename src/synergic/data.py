"""Pictures for training and for evaluation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.data import Dataset

from synergic.card import UNKNOWN_STRENGTH
from synergic.degradations import Degradation, sharpen
from synergic.errors import SynergicError
from synergic.images import find_pictures, from_float, read_pixels, to_float
from synergic.patterns import add_pattern
from synergic.tiling import checked

Batch = tuple[Tensor, Tensor, Tensor]
"""Degraded N C H W, clean N C H W, strength N."""
SHARPEST = 1.5
"""Greatest weight of the sharpening of a training crop: as scans and web sites have it."""
STRONGEST_TONE = 0.4
"""The most that toning takes off a colour."""


def to_colors(pixels: np.ndarray, colors: int) -> np.ndarray:
    """H W 1 or H W 3 -> H W `colors`, same dtype. Gray is ITU-R 601 luma, rounded as Pillow's mode L."""
    if pixels.shape[2] == colors:
        return pixels
    if colors == 3:
        return np.repeat(pixels, 3, axis=2)
    weights = np.array([19595, 38470, 7471], np.int64)  # 0.299, 0.587, 0.114 in 16 bits of fraction
    if pixels.dtype == np.float32:
        return (pixels @ (weights / 65536).astype(np.float32))[..., None]
    return ((pixels @ weights + 0x8000) >> 16).astype(pixels.dtype)[..., None]


def to_tensor(pixels: np.ndarray) -> Tensor:
    """H W C, uint8, uint16 or float32 -> float32 C H W; integers are divided by their greatest value."""
    return torch.from_numpy(to_float(pixels)).permute(2, 0, 1)


def to_uint8(picture: Tensor) -> np.ndarray:
    """float C H W -> uint8 H W C, clipped to [0, 1] and rounded."""
    return from_float(picture.detach().permute(1, 2, 0).float().cpu().numpy(), np.uint8)


def matlab_luma(pixels: np.ndarray) -> np.ndarray:
    """uint8 H W 3 -> uint8 H W 1: the Y of MATLAB's rgb2ycbcr, 16-235 (ITU-R BT.601)."""
    weights = np.array([65.481, 128.553, 24.966]) * (1 / 255)  # in MATLAB's order, which decides the halves
    red, green, blue = (pixels[..., i] * weights[i] for i in range(3))
    return np.floor(red + green + blue + 16 + 0.5).astype(np.uint8)[..., None]


def read_folder(
    folder: Path, colors: int | None = None, *, eight_bit: bool = True, limit: int | None = None
) -> list[tuple[str, np.ndarray]]:
    """Every picture of a folder (recursive, sorted), or the first `limit`, as (name without suffix, H W C); C as the
    file has it, or `colors`. Other depths than uint8 raise SynergicError if `eight_bit`; floats that are not about 0 to
    1 do in any case."""
    pictures = []
    for path, relative in find_pictures([folder])[:limit]:
        pixels = read_pixels(path)
        if eight_bit and pixels.dtype != np.uint8:
            raise SynergicError(f"{path}: expected an 8-bit picture, got {pixels.dtype}; convert it to 8 bit")
        try:
            checked(pixels)
        except SynergicError as error:  # of a picture without a name
            raise SynergicError(f"{path}: {error}") from error
        pictures.append((str(relative.with_suffix("")), pixels if colors is None else to_colors(pixels, colors)))
    if not pictures:
        raise SynergicError(f"{folder}: expected a folder with pictures, found none; check the path")
    return pictures


def read_by_name(
    folder: Path, colors: int | None = None, *, eight_bit: bool = True, limit: int | None = None
) -> dict[str, np.ndarray]:
    """`read_folder` by name. Raises SynergicError for two of one name: pairs are matched and restored pictures saved by
    it."""
    pictures: dict[str, np.ndarray] = {}
    for name, pixels in read_folder(folder, colors, eight_bit=eight_bit, limit=limit):
        if name in pictures:
            raise SynergicError(f"{folder}: {name}: expected one picture of this name, got two suffixes; rename one")
        pictures[name] = pixels
    return pictures


def scaled(pixels: np.ndarray, scale: float) -> np.ndarray:
    """H W C at `scale` times its height and width, same dtype, by bicubic interpolation that does not alias."""
    if scale == 1:
        return pixels
    size = [max(1, round(length * scale)) for length in pixels.shape[:2]]
    smaller = F.interpolate(to_tensor(pixels)[None], size, mode="bicubic", antialias=True)[0]
    return from_float(smaller.permute(1, 2, 0).numpy(), pixels.dtype)


def read_pairs(clean: Path, degraded: Path, colors: int) -> dict[str, np.ndarray]:
    """Pictures of two folders that have one name, by it: H W 2C, the clean channels first. Every degraded picture has
    its clean one, of its size and depth."""
    named, pairs = read_by_name(clean, colors, eight_bit=False), {}
    for name, pixels in read_by_name(degraded, colors, eight_bit=False).items():
        own = named.get(name)
        if own is None or (own.shape, own.dtype) != (pixels.shape, pixels.dtype):
            got = "none" if own is None else f"{own.shape} {own.dtype}"
            raise SynergicError(f"{clean}: {name}: expected a clean picture {pixels.shape} {pixels.dtype}, got {got}")
        pairs[name] = np.concatenate([own, pixels], 2)
    return pairs


def toning(colors: int, generator: Generator) -> Tensor:
    """What a gray picture, 1 H W, is multiplied by: every second time 1, else a colour such as sepia. C 1 1."""
    if torch.rand((), generator=generator) < 0.5:
        return torch.ones(colors, 1, 1)
    tone = 1 - STRONGEST_TONE * torch.rand(colors, 1, 1, generator=generator)
    return tone / tone.max()


class Crops(Dataset[Batch]):
    """Batches of degraded crops. Batch number `step` is a pure function of (seed, step), on any number of processes."""

    def __init__(
        self,
        pictures: Sequence[np.ndarray],
        degradation: Degradation,
        *,
        crop_size: int,
        batch_size: int,
        seed: int,
        patterns: float = 0.0,
        sharpened: float = 0.0,
        gray: float = 0.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """pictures: clean H W C; or H W 2C, a clean one and its own degraded one, whose strength is unknown.
        `patterns`, `sharpened`, `gray`: shares of the other crops that a made-up pattern is laid over, that are
        sharpened, and whose colours are their mean, before they are degraded; half of the gray ones are then toned.
        `rank` of `world_size` processes gets every world_size-th crop of a batch. No picture is smaller than a crop."""
        self.pictures, self.degradation, self.crop_size = pictures, degradation, crop_size
        self.seed, self.patterns, self.sharpened, self.gray = seed, patterns, sharpened, gray
        self.indices = range(rank, batch_size, world_size)

    def __getitem__(self, step: int) -> Batch:
        samples = [self.sample(step, index) for index in self.indices]
        degraded, clean, strength = zip(*samples, strict=True)
        return torch.stack(degraded), torch.stack(clean), torch.tensor(strength)

    def sample(self, step: int, index: int) -> tuple[Tensor, Tensor, float]:
        """Crop number `index` of a batch: degraded and clean C H W, strength."""
        draw = np.random.default_rng((self.seed, step, index))
        picture = self.pictures[int(draw.integers(len(self.pictures)))]
        top, left = (int(draw.integers(length - self.crop_size + 1)) for length in picture.shape[:2])
        crop = picture[top : top + self.crop_size, left : left + self.crop_size]
        crop = np.rot90(crop, int(draw.integers(4)))
        crop = crop[:, ::-1] if draw.integers(2) else crop
        if crop.shape[2] in (2, 6):
            clean, degraded = to_tensor(crop).chunk(2)
            return degraded, clean, UNKNOWN_STRENGTH
        generator = Generator().manual_seed(int(draw.integers(2**63)))
        clean = to_tensor(crop)
        if draw.random() < self.patterns:
            clean = add_pattern(clean, generator)
        if draw.random() < self.sharpened:
            clean = sharpen(clean, SHARPEST, generator).clamp(0, 1)
        colors = len(clean)
        if draw.random() < self.gray:
            clean = clean.mean(0, keepdim=True)
        degraded, strength = self.degradation(clean, generator)
        if len(clean) < colors:
            tone = toning(colors, generator)
            degraded, clean = degraded * tone, clean * tone
        return degraded, clean, strength
