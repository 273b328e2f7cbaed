"""What the tests need of spandrel 0.4, whose torchvision fits no PyTorch without CUDA: registry, descriptor, loader."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

StateDict = dict[str, Any]


class Architecture:
    """A kind of network."""

    def __class_getitem__(cls, _: object) -> type:
        return cls

    def __init__(self, *, id: str, detect: Callable[[StateDict], bool], name: str) -> None:
        self.id, self.detect, self.name = id, detect, name


@dataclass
class ImageModelDescriptor:
    """A network in the terms that programs know."""

    model: nn.Module
    state_dict: Mapping[str, Tensor]
    architecture: Architecture
    purpose: str
    tags: list[str]
    supports_half: bool
    supports_bfloat16: bool
    scale: int
    input_channels: int
    output_channels: int
    call_fn: Callable[[Any, Tensor], Tensor]

    def __class_getitem__(cls, _: object) -> type:
        return cls

    def __post_init__(self) -> None:
        self.model.load_state_dict(self.state_dict)

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Tensor:
        return self.call_fn(self.model.eval(), image).clamp(0, 1)

    def bfloat16(self) -> "ImageModelDescriptor":
        self.model.bfloat16()
        return self


class ArchSupport:
    """An entry of the registry."""

    def __init__(self, architecture: Any) -> None:
        self.architecture = architecture

    @staticmethod
    def from_architecture(architecture: Any) -> "ArchSupport":
        return ArchSupport(architecture)


class ArchRegistry:
    """The networks that are known, by name."""

    def __init__(self) -> None:
        self.known: dict[str, ArchSupport] = {}

    def add(self, support: ArchSupport, ignore_duplicates: bool = False) -> None:
        assert ignore_duplicates or support.architecture.id not in self.known
        self.known.setdefault(support.architecture.id, support)


MAIN_REGISTRY = ArchRegistry()


class ModelLoader:
    """A file's tensors to the first network that knows them."""

    def load_from_file(self, path: Path) -> Any:
        tensors = load_file(path)
        kinds = [support.architecture for support in MAIN_REGISTRY.known.values()]
        return next(kind for kind in kinds if kind.detect(tensors)).load(tensors)
