"""A shaken, noisy picture becomes sharp by plug-and-play half-quadratic splitting: `python examples/deblur.py FOLDER`.

degraded = kernel * clean + noise. Two steps, each easy, take turns, until what fits the degraded picture is what the
denoiser takes for clean (Zhang et al., "Plug-and-play image restoration with deep denoiser prior", IEEE TPAMI 2022):

    x = argmin |kernel * x - degraded|^2 / noise^2 + |x - z|^2 / level^2     closed, in the Fourier domain
    z = denoiser(x, level)                                                    `Restorer.tensor`

and the level falls from step to step, down to that of the noise.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from skimage.data import camera
from torch import Generator, Tensor

from synergic import Restorer
from synergic.data import to_tensor, to_uint8
from synergic.images import Picture, write_picture
from synergic.metrics import psnr

NOISE = 2.55
"""Standard deviation of the noise, 0-255 scale."""
FIRST_LEVEL = 49.0
STEPS = 8
TRUST = 1.0
"""Weight of what the denoiser says. The paper's 0.23, for another denoiser, leaves streaks in the face, and 0.6 dB."""


def main(folder: Path) -> None:
    """Shake, add noise, deblur, compare."""
    clean = to_tensor(np.ascontiguousarray(camera())[..., None])[None]
    transfer = torch.fft.fft2(motion_kernel(11, *clean.shape[2:]))
    degraded = blur(clean, transfer) + NOISE / 255 * torch.randn(clean.shape, generator=Generator().manual_seed(0))
    restored = deblur(degraded, transfer, Restorer.from_pretrained("gray-denoise"))
    pictures = [to_uint8(picture[0]) for picture in (degraded, restored, clean)]
    write_picture(folder / "deblurred.png", Picture(np.concatenate(pictures, axis=1), None, {}, None), overwrite=True)
    before, after = (psnr(picture, pictures[2]) for picture in pictures[:2])
    print(f"shaken {before:.2f} dB, deblurred {after:.2f} dB: {folder / 'deblurred.png'}")


def deblur(degraded: Tensor, transfer: Tensor, restorer: Restorer) -> Tensor:
    """degraded N 1 H W in about [0, 1], transfer H W: the kernel's Fourier transform -> N 1 H W. All on one device."""
    spectrum, power = torch.fft.fft2(degraded), transfer.abs() ** 2
    z = degraded
    for level in np.geomspace(FIRST_LEVEL, NOISE, STEPS):
        weight = TRUST * (NOISE / level) ** 2
        x = torch.fft.ifft2((transfer.conj() * spectrum + weight * torch.fft.fft2(z)) / (power + weight)).real
        z = restorer.tensor(x, sigma=level)
    return z


def blur(clean: Tensor, transfer: Tensor) -> Tensor:
    """Convolution with a kernel, around the borders. N C H W -> N C H W."""
    return torch.fft.ifft2(torch.fft.fft2(clean) * transfer).real


def motion_kernel(length: int, height: int, width: int) -> Tensor:
    """A hand's shake: a line of `length` pixels that falls by half a pixel each, about the origin of a map. H W."""
    steps = torch.arange(length) - length // 2
    kernel = torch.zeros(height, width)
    kernel[steps // 2 % height, steps % width] = 1 / length
    return kernel


if __name__ == "__main__":
    with torch.inference_mode():
        main(Path(sys.argv[1]))
