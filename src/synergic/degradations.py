"""Degradations: clean -> degraded, with an explicit generator.

Pictures are float32 tensors C H W in [0, 1]. `sigma` is on the 0-255 scale, `quality` is 1-100; `strength` is what
a conditioned network is told: sigma/255 or quality/100.
"""

from dataclasses import dataclass
from math import exp, log
from typing import Annotated, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from synergic.card import UNKNOWN_STRENGTH
from synergic.config import Amount, Positive, Share
from synergic.images import compress_jpeg

Quality = Annotated[int, Field(ge=1, le=100)]


class Degradation(Protocol):
    """Draws a strength and degrades one picture: C H W -> (degraded C H W, strength)."""

    def __call__(self, clean: Tensor, generator: Generator) -> tuple[Tensor, float]: ...


def add_gaussian_noise(clean: Tensor, sigma: float, generator: Generator) -> Tensor:
    """White Gaussian noise in float32, neither clipped nor rounded."""
    return clean + torch.randn(clean.shape, generator=generator) * (sigma / 255)


def add_jpeg_artifacts(clean: Tensor, quality: int, subsampling: bool = False) -> Tensor:
    """JPEG at `quality` and back, in 8 bit; a gray picture as a gray JPEG."""
    pixels = clean.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
    return torch.from_numpy(compress_jpeg(pixels, quality, subsampling=subsampling)).permute(2, 0, 1) / 255


def in_8_bits(picture: Tensor) -> Tensor:
    """As a file keeps it: clipped to [0, 1], rounded to 255 steps."""
    return picture.clamp(0, 1).mul(255).round() / 255


def uniform(low: float, high: float, generator: Generator, skew: float = 1.0) -> float:
    """One draw from [low, high); a skew over 1 draws low numbers more often, by the power of a uniform share."""
    return low + (high - low) * torch.rand((), generator=generator).item() ** skew


def drawn(share: float, generator: Generator) -> bool:
    """True with probability `share`. No number is drawn for none, so that a seed gives the same without."""
    return share > 0 and uniform(0, 1, generator) < share


def check_range(name: str, least: float, greatest: float) -> None:
    """Refuse a range upside down: what is drawn from it would lie outside, and be skewed the other way."""
    if least > greatest:
        raise ValueError(f"{name}_min: expected at most {name}_max = {greatest:g}, got {least:g}")


def hidden(strength: float, blind: float, generator: Generator) -> float:
    """The strength, or with probability `blind` UNKNOWN_STRENGTH."""
    return UNKNOWN_STRENGTH if uniform(0, 1, generator) < blind else strength


@dataclass(frozen=True)
class GaussianNoise:
    """White Gaussian noise of a random sigma."""

    sigma_min: Amount = 0.0
    """Least standard deviation, 0-255 scale."""
    sigma_max: Amount = 75.0
    """Greatest standard deviation, 0-255 scale."""
    skew: Positive = 1.0
    """1 draws sigma uniformly; more draws low levels more often (the power of a uniform number)."""
    clipped: Share = 0.0
    """Share of pictures whose noise ends at black and white, as in a file of 8 bits; else it goes beyond, as in the
    field's tables."""
    blind: Share = 0.25
    """Share of pictures whose strength is hidden from the network."""

    def __post_init__(self) -> None:
        check_range("sigma", self.sigma_min, self.sigma_max)

    def __call__(self, clean: Tensor, generator: Generator) -> tuple[Tensor, float]:
        sigma = uniform(self.sigma_min, self.sigma_max, generator, self.skew)
        degraded = add_gaussian_noise(clean, sigma, generator)
        strength = hidden(sigma / 255, self.blind, generator)
        if uniform(0, 1, generator) < self.clipped:
            degraded = in_8_bits(degraded)
        return degraded, strength


@dataclass(frozen=True)
class JPEG:
    """JPEG compression of a random quality."""

    quality_min: Quality = 5
    """Least quality, 1-100."""
    quality_max: Quality = 95
    """Greatest quality, 1-100."""
    skew: Positive = 1.0
    """1 draws the quality uniformly; more draws low ones more often (the power of a uniform number)."""
    subsampled: Share = 0.5
    """Share of colour pictures compressed with chroma subsampling (4:2:0)."""
    blind: Share = 0.25
    """Share of pictures whose strength is hidden from the network."""

    def __post_init__(self) -> None:
        check_range("quality", self.quality_min, self.quality_max)

    def __call__(self, clean: Tensor, generator: Generator) -> tuple[Tensor, float]:
        quality = int(uniform(self.quality_min, self.quality_max + 1, generator, self.skew))
        subsampling = uniform(0, 1, generator) < self.subsampled
        degraded = add_jpeg_artifacts(clean, quality, subsampling)
        return degraded, hidden(quality / 100, self.blind, generator)


@dataclass(frozen=True)
class CameraNoise:
    """Noise of a camera in a finished photograph: signal-dependent, correlated over neighbours, then JPEG.

    The picture is taken back to linear sensor values, shot and read noise are added to its Bayer mosaic, and the
    noise is carried through demosaicing, white balance, colour matrix, tone curve, filters, sharpening and JPEG. Only
    the noise passes through them: the picture keeps its sharpness, so the network learns to remove noise, not to
    sharpen. Away from black and white the noise's mean is zero, so it does not learn to brighten either.

    After T. Brooks et al., "Unprocessing images for learned raw denoising", CVPR 2019 (gains, matrices, tone curve,
    noise levels), and S. Guo et al., "Toward convolutional blind denoising of real photographs" (CBDNet), CVPR 2019
    (in-camera pipeline with demosaicing and JPEG).
    """

    shot_min: Positive = 3e-5
    """Least shot noise: variance for a linear signal of 1. Brooks et al. measured 1e-4 to 1.2e-2 on a phone."""
    shot_max: Positive = 2e-2
    """Greatest shot noise."""
    skew: Positive = 0.6
    """1 draws the shot noise's logarithm uniformly; less draws strong noise more often (the power of the share)."""
    reduced: Share = 0.25
    """Share of pictures made smaller after the camera: their noise is not correlated by demosaicing."""
    filtered: Share = 0.75
    """Share of pictures whose noise in-camera filters have changed; the rest comes from a raw converter without any."""
    directed: Share = 0.0
    """Share of the filtered ones whose noise was smoothed along lines, once to three times, as demosaicing and noise
    reduction that follow edges do."""
    cored: Share = 0.0
    """Share of the filtered ones of whose noise filters took what is weak and left what is strong."""
    fine_max: Amount = 1.6
    """Greatest sigma, in pixels, of the blur that in-camera filters and resizing leave on the noise."""
    coarse_max: Amount = 2.0
    """Greatest weight of the noise's coarse part (blurred with sigma 1-3), which in-camera filters let through."""
    chroma_min: Share = 0.0
    """Least share of the noise's colour that in-camera filters leave."""
    chroma_blur_max: Amount = 0.0
    """Greatest sigma, in pixels, of the blur that in-camera filters leave on the noise's colour alone."""
    sharpened: Share = 0.0
    """Share of pictures that were sharpened after all that, which raises the noise from pixel to pixel."""
    sharpen_max: Amount = 2.0
    """Greatest weight of what sharpening adds."""
    jpeg: Share = 0.7
    """Share of pictures that end as a JPEG."""
    quality_min: Quality = 75
    """Least JPEG quality."""
    clean: Share = 0.05
    """Share of pictures without sensor noise: what is clean is to be left alone."""
    blind: Share = 0.75
    """Share of pictures whose strength (root mean square of the noise) is hidden from the network."""

    def __post_init__(self) -> None:
        check_range("shot", self.shot_min, self.shot_max)

    def __call__(self, clean: Tensor, generator: Generator) -> tuple[Tensor, float]:
        degraded = clean
        if uniform(0, 1, generator) >= self.clean:
            degraded = self.add_sensor_noise(clean, generator)
        degraded = in_8_bits(degraded)
        if uniform(0, 1, generator) < self.jpeg:
            quality = int(uniform(self.quality_min, 101, generator))
            degraded = add_jpeg_artifacts(degraded, quality, subsampling=uniform(0, 1, generator) < 0.5)
        strength = (degraded - clean).square().mean().sqrt().item()
        return degraded, hidden(strength, self.blind, generator)

    def add_sensor_noise(self, clean: Tensor, generator: Generator) -> Tensor:
        """Noise of one random camera and exposure, at the picture's own sharpness. C H W -> C H W, not clipped. A gray
        picture, C = 1, gets the mean of what it would get as a colour picture."""
        if len(clean) == 1:
            return self.add_sensor_noise(clean.expand(3, -1, -1), generator).mean(0, keepdim=True)
        camera = Camera.draw(generator)
        shot = exp(uniform(log(self.shot_min), log(self.shot_max), generator, self.skew))
        read = exp(2.18 * log(shot) + 1.20 + 0.26 * torch.randn((), generator=generator).item())
        raw = camera.to_raw(clean)
        deviation = (raw * shot + read).sqrt()
        noise = torch.randn(raw.shape, generator=generator) * deviation  # one colour of each is kept by the mosaic
        if uniform(0, 1, generator) >= self.reduced:
            noise = demosaic(noise * bayer_mask(raw.shape[1], raw.shape[2], offset=int(uniform(0, 4, generator))))
        finished = (camera.to_picture(raw + noise) - camera.to_picture(raw - noise)) / 2  # odd: no shift of the mean
        if uniform(0, 1, generator) < self.filtered:
            finished = self.filter_in_camera(finished, generator)
        if drawn(self.sharpened, generator):
            finished = sharpen(finished, self.sharpen_max, generator)
        return clean + finished

    def filter_in_camera(self, noise: Tensor, generator: Generator) -> Tensor:
        """What noise reduction inside a camera leaves: smoother, coarser and less colourful noise. C H W -> C H W."""
        if drawn(self.directed, generator):
            for _ in range(int(uniform(1, 4, generator))):
                noise = smooth_along_lines(noise)
        if drawn(self.cored, generator):
            noise = core(noise, uniform(0.7, 2, generator), uniform(0, 1.5, generator))
        fine = blur(noise, uniform(0, self.fine_max, generator))
        coarse = blur(noise, uniform(1, 3, generator)) * uniform(0, self.coarse_max, generator)
        noise = fine + coarse
        luma = noise.mean(0, keepdim=True)
        chroma = (noise - luma) * uniform(self.chroma_min, 1, generator)
        if self.chroma_blur_max:  # a seed gives the same without
            chroma = blur(chroma, uniform(0, self.chroma_blur_max, generator))
        return luma + chroma


@dataclass(frozen=True)
class Camera:
    """White balance, colour matrix and brightness between linear sensor values and a finished picture."""

    matrix: Tensor
    """Linear sensor RGB (white-balanced) to linear picture RGB, 3 x 3; its rows sum to 1, so that gray stays gray."""
    gains: Tensor
    """White-balance gains of red, green, blue times the digital gain, 3 x 1 x 1."""
    contrast: float
    """Share of the smooth-step tone curve, 0 to 1."""

    @staticmethod
    def draw(generator: Generator) -> "Camera":
        """A random camera: crosstalk between the colours as colour matrices have it; gains about Brooks et al.'s,
        from wider ranges."""
        crosstalk = torch.rand(3, 3, generator=generator) * 0.6 * (1 - torch.eye(3))
        matrix = torch.eye(3) + torch.diag(crosstalk.sum(1)) - crosstalk
        digital = 1 / max(0.5, 0.8 + 0.1 * torch.randn((), generator=generator).item())
        red, blue = uniform(1.5, 2.4, generator), uniform(1.4, 2.0, generator)
        gains = digital * torch.tensor([red, 1.0, blue]).view(3, 1, 1)
        return Camera(matrix, gains, contrast=uniform(0, 1, generator))

    def to_raw(self, picture: Tensor) -> Tensor:
        """sRGB picture in [0, 1] -> linear sensor values, at least 0."""
        toned = torch.lerp(picture, inverse_smooth_step(picture), self.contrast)
        balanced = torch.einsum("ij,jhw->ihw", torch.linalg.inv(self.matrix), from_srgb(toned))
        return (balanced / self.gains).clamp(min=0)

    def to_picture(self, raw: Tensor) -> Tensor:
        """Linear sensor values -> sRGB picture in [0, 1], clipped."""
        linear = torch.einsum("ij,jhw->ihw", self.matrix, raw * self.gains).clamp(0, 1)
        picture = to_srgb(linear)
        return torch.lerp(picture, smooth_step(picture), self.contrast)


def from_srgb(picture: Tensor) -> Tensor:
    """The sRGB curve (IEC 61966-2-1) undone: [0, 1] -> linear [0, 1]."""
    return torch.where(picture <= 0.04045, picture / 12.92, ((picture + 0.055) / 1.055).clamp(min=0) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    """The sRGB curve (IEC 61966-2-1): linear [0, 1] -> [0, 1]."""
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055)


def smooth_step(x: Tensor) -> Tensor:
    """The tone curve 3x^2 - 2x^3."""
    return x * x * (3 - 2 * x)


def inverse_smooth_step(y: Tensor) -> Tensor:
    """The x in [0, 1] with smooth_step(x) = y."""
    return 0.5 - torch.sin(torch.asin((1 - 2 * y).clamp(-1, 1)) / 3)


def bayer_mask(height: int, width: int, offset: int) -> Tensor:
    """Which colour each sensor pixel sees, 3 H W of 0 and 1; `offset` 0-3 shifts the RGGB pattern."""
    row = (torch.arange(height) + offset // 2) % 2
    column = (torch.arange(width) + offset % 2) % 2
    red = (1 - row)[:, None] * (1 - column)
    blue = row[:, None] * column
    return torch.stack([red, 1 - red - blue, blue]).float()


def demosaic(mosaic: Tensor) -> Tensor:
    """Bilinear interpolation of a Bayer mosaic, 3 H W with zeros where a colour was not measured."""
    cross = torch.tensor([[0.0, 0.25, 0.0], [0.25, 1.0, 0.25], [0.0, 0.25, 0.0]])
    full = torch.tensor([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]])
    kernels = torch.stack([full, cross, full])[:, None]
    goes_on = "reflect" if min(mosaic.shape[1:]) > 1 else "replicate"  # beyond the edge; of 1 pixel nothing is known
    padded = F.pad(mosaic[None], (1, 1, 1, 1), mode=goes_on)
    return F.conv2d(padded, kernels, groups=3)[0]


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of C H W, separable over 13 pixels; sigma in pixels, 0 leaves it."""
    offsets = torch.arange(-6.0, 7.0)
    window = torch.exp(-(offsets**2) / (2 * max(sigma, 0.05) ** 2))
    window = window / window.sum()
    across = F.conv2d(F.pad(x[:, None], (6, 6, 6, 6), mode="replicate"), window.view(1, 1, 1, 13))  # C 1 H+12 W
    return F.conv2d(across, window.view(1, 1, 13, 1))[:, 0]


def smooth_along_lines(x: Tensor) -> Tensor:
    """C H W with each pixel smoothed across or down, whichever changes its luma less: noise turns into short lines."""
    padded = F.pad(x[None], (1, 1, 1, 1), mode="replicate")[0]
    left, right = padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
    above, below = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]

    def change(one: Tensor, other: Tensor) -> Tensor:  # 1 H W
        return (one - x).mean(0, keepdim=True).abs() + (other - x).mean(0, keepdim=True).abs()

    across = change(left, right) < change(above, below)
    return x / 2 + torch.where(across, left + right, above + below) / 4


def core(x: Tensor, sigma: float, threshold: float) -> Tensor:
    """C H W whose difference from a blur of `sigma` pixels fades where it is weaker than `threshold` times its standard
    deviation, as noise reduction by thresholds leaves it: what stays is rarer and stands out."""
    soft = blur(x, sigma)
    detail = x - soft
    power = detail.square()
    return soft + detail * power / (power + threshold**2 * power.mean() + 1e-12)


def sharpen(x: Tensor, most: float, generator: Generator) -> Tensor:
    """C H W plus 0 to `most` times its difference from a blur of sigma 0.6-2 (an unsharp mask)."""
    soft = blur(x, uniform(0.6, 2, generator))
    return x + (x - soft) * uniform(0, most, generator)
