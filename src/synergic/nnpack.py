"""3x3 convolutions by NNPACK: a fifth of the multiplications, for processors that are short of them.

Under a transform a convolution is a product: Winograd's takes 8x8 products for 6x6 results in place of 6x6x9, Fourier's
is for larger tiles, and NNPACK takes the cheaper one (A. Lavin, S. Gray, "Fast algorithms for convolutional neural
networks", CVPR 2016). PyTorch contains it, and by itself prefers oneDNN, which multiplies directly.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NNPACKConv2d(nn.Module):
    """A 3x3 convolution in float32 on a CPU, padded by 1, with the parameters of another.

    Maps lie in memory as N C H W, which is the one layout that NNPACK knows; others are copied. Where it has been
    brought to a machine without NNPACK, it convolves as ever.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, x: Tensor) -> Tensor:  # N C H W -> N C' H W
        if not torch.backends.nnpack.is_available():  # to ask is also what starts NNPACK, once in every process
            return F.conv2d(x, self.weight, self.bias, padding=1)
        return torch._nnpack_spatial_convolution(x, self.weight, self.bias, padding=1)


def use_nnpack(network: nn.Module) -> None:
    """Let NNPACK compute all 3x3 convolutions of a network, in place. Where it pays, and is there at all:
    `gains_from_nnpack` in hardware.py."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
                setattr(module, name, NNPACKConv2d(child))
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
