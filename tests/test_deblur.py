"""The example of a plug-and-play method: it sharpens, and by more than filtering can."""

import numpy as np
import pytest
import torch
from skimage.data import camera
from torch import Generator, Tensor

from deblur import NOISE, blur, deblur, motion_kernel
from synergic import Restorer
from synergic.data import to_tensor, to_uint8
from synergic.metrics import psnr

CLEAN = np.ascontiguousarray(camera()[64:320, 128:384, None])


def score(picture: Tensor) -> float:
    return psnr(to_uint8(picture[0]), CLEAN)


def test_deblurring_by_the_denoiser_beats_the_best_linear_filter() -> None:
    clean = to_tensor(CLEAN)[None]
    transfer = torch.fft.fft2(motion_kernel(11, 256, 256))
    degraded = blur(clean, transfer) + NOISE / 255 * torch.randn(clean.shape, generator=Generator().manual_seed(0))
    assert score(degraded) == pytest.approx(21.57, abs=0.01)
    spectrum, power = torch.fft.fft2(degraded), transfer.abs() ** 2
    filtered = (torch.fft.ifft2(transfer.conj() * spectrum / (power + w)).real for w in (1e-4, 1e-3, 3e-3, 1e-2, 1e-1))
    assert max(score(picture) for picture in filtered) == pytest.approx(24.86, abs=0.01)
    with torch.inference_mode():
        restored = deblur(degraded, transfer, Restorer.from_pretrained("gray-denoise", device="cpu"))
    assert score(restored) > 30.5


def test_the_kernel_is_a_line_through_the_origin() -> None:
    kernel = motion_kernel(3, 4, 5)
    assert kernel.nonzero().tolist() == [[0, 0], [0, 1], [3, 4]]
    assert kernel.sum() == pytest.approx(1)
    torch.testing.assert_close(blur(torch.ones(1, 1, 4, 5), torch.fft.fft2(kernel)), torch.ones(1, 1, 4, 5))
