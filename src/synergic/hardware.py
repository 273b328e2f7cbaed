"""Which device computes, and in which precision."""

import os
import platform
from pathlib import Path

import torch

from synergic.errors import SynergicError
from synergic.processor import cpu_flags, cpu_information

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(name: str = "auto") -> torch.device:
    """`auto` takes CUDA, then Apple's, then the CPU. A device that is not there raises SynergicError."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" has none
    except (RuntimeError, AssertionError, ImportError):
        raise SynergicError(f"device: expected one that this machine has, got {name!r}; try auto or cpu") from None
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto` takes bfloat16 only where the hardware computes in it, and fast; float32 elsewhere."""
    if name == "auto":
        return torch.bfloat16 if gains_from_bfloat16(device) else torch.float32
    if name not in PRECISIONS:
        raise SynergicError(f"precision: expected auto, float32 or bfloat16, got {name!r}")
    return PRECISIONS[name]


def gains_from_bfloat16(device: torch.device) -> bool:
    """Is bfloat16 faster than float32? With AMX, AMD's AVX512-BF16 or Arm's BF16 on a CPU, from Ampere on with CUDA.
    Intel's AVX512-BF16 without AMX, as virtual machines have it, multiplies half as fast as float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    by_intel = cpu_information("vendor_id") == "GenuineIntel"
    return bool(cpu_flags() & {"amx_bf16" if by_intel else "avx512_bf16", "bf16"})  # the last is Arm's


def gains_from_nnpack(device: torch.device, precision: torch.dtype) -> bool:
    """Are 3x3 convolutions faster by NNPACK than by oneDNN? In float32, on a processor with AVX2 and no more: up to
    twice as fast there (two threads of a Zen 3 hardly gain). With AVX-512 oneDNN has not been beaten."""
    return _multiplies_by_avx2(device, precision) and torch.backends.nnpack.is_available()


def training_layout(device: torch.device, precision: torch.dtype) -> torch.memory_format:
    """How maps best lie in memory: channels-last, but not in float32 on a processor with AVX2 and no more, where a
    convolution's weights then get their gradients in up to twice the time, and a step takes a sixth more; nor on
    Apple's GPUs, where those take up to thirty times as long (PyTorch's issue 193349)."""
    plain = device.type == "mps" or _multiplies_by_avx2(device, precision)
    return torch.contiguous_format if plain else torch.channels_last


def _multiplies_by_avx2(device: torch.device, precision: torch.dtype) -> bool:
    """In float32 on a processor with AVX2 and no AVX-512."""
    if device.type != "cpu" or precision != torch.float32:
        return False
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def total_memory(device: torch.device) -> int:
    """Bytes of memory that the device has in all, used or not; of a processor, what its container may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows
        installed = 4 << 30
    try:
        return min(installed, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return installed


def describe(device: torch.device) -> str:
    """A few words for a weights card: which processor, how many threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = cpu_information("model name") or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads" if device.type == "cpu" else f"{name} {device.type}"
