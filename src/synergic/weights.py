"""Weights that describe themselves: one safetensors file with configuration, task, training, data and scores."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from synergic.card import Card, check_file, find_weights
from synergic.config import read_config
from synergic.errors import SynergicError
from synergic.files import whole_file
from synergic.network import SATNet, SATNetConfig

FORMAT = "synergic-1"
STATE_DICT_FORMAT = "synergic-state-dict-1"
CONFIG_KEY = "config"
"""The tensor that holds the configuration where a program reads nothing but tensors."""
MOST_CONFIG = 1 << 16
"""Bytes of it that are read: a hundred times what one has."""

_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}  # as safetensors names them


def save_weights(path: Path | str, network: SATNet, card: Card, *, half: bool = False) -> None:
    """Write a network and its card as one file; it appears whole or not at all. `half`: float16, half the size."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    if half:
        tensors = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    metadata = {"format": FORMAT, "config": json.dumps(asdict(network.config)), "card": json.dumps(asdict(card))}
    save_tensors(Path(path), tensors, metadata)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], *, overwrite: bool = True) -> None:
    """Write a safetensors file; it appears whole or not at all. Raises SynergicError."""
    with whole_file(path, overwrite=overwrite) as unfinished:
        unfinished.write_bytes(save(tensors, metadata))  # its save_file would put another file in the place of this one


def load_weights(name_or_path: str | Path) -> tuple[SATNet, Card]:
    """The network (evaluation mode, CPU) and the card of what `find_weights` finds. Strict: every tensor must be
    there, of the right type and shape, finite, and no other. No code in a file is run, whatever the file is.
    """
    path = find_weights(name_or_path)
    config, card = read_header(path)
    network = unfilled(config)
    with open_safetensors(path) as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        held = {key: f"{part.get_dtype()} {part.get_shape()}" for key, part in slices.items()}
        check_tensors(network, held, path)
        tensors = {key: file.get_tensor(key) for key in held}
    fill(network, tensors, path)
    return network, card


def read_header(path: Path) -> tuple[SATNetConfig, Card]:
    """Configuration and card of a weights file, without its tensors."""
    with open_safetensors(path) as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "none")
        raise SynergicError(
            f"{path}: expected weights of format {FORMAT}, got {found}; use a file written by `synergic train`"
        )
    try:
        config, card = json.loads(metadata["config"]), json.loads(metadata["card"])
        if not (isinstance(config, dict) and isinstance(card, dict)):
            raise ValueError
    except (KeyError, ValueError, RecursionError):  # ValueError: no JSON, or a number of thousands of digits
        raise SynergicError(
            f"{path}: expected a configuration and a card, got an incomplete header; the file is damaged"
        ) from None
    return read_config(SATNetConfig, config, path), read_config(Card, card, path)


def open_safetensors(path: Path) -> Any:
    """The open file: a context manager with `metadata()`, `keys()` and `get_tensor(key)`. Raises SynergicError."""
    check_file(path, "a safetensors file")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise SynergicError(f"{path}: expected a safetensors file, got one that does not open ({error})") from None


def save_state_dict(path: Path, network: SATNet, card: Card, *, overwrite: bool = False) -> None:
    """Write a network for programs that read the tensors of a file and nothing beside them: its configuration is one
    more tensor, `CONFIG_KEY`, the bytes of the JSON. Raises SynergicError."""
    described = json.dumps(asdict(network.config)).encode()
    tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    tensors[CONFIG_KEY] = torch.tensor(list(described), dtype=torch.uint8)
    save_tensors(path, tensors, {"format": STATE_DICT_FORMAT, "card": json.dumps(asdict(card))}, overwrite=overwrite)


def network_from_state_dict(state_dict: Mapping[str, Tensor]) -> tuple[SATNet, dict[str, Tensor]]:
    """The network (evaluation mode, CPU) that `save_state_dict` wrote, and its tensors. As strict as `load_weights`."""
    tensors = dict(state_dict)
    try:
        held = tensors.pop(CONFIG_KEY)
        if held.dtype != torch.uint8 or held.ndim != 1 or len(held) > MOST_CONFIG:
            raise ValueError
        config = json.loads(bytes(held.tolist()))
        if not isinstance(config, dict):
            raise ValueError
    except (KeyError, TypeError, ValueError, RecursionError):
        raise SynergicError(
            f"SAT-Net: expected its configuration in the tensor {CONFIG_KEY!r}, got none; "
            "write the file by `synergic export --for spandrel`"
        ) from None
    network = unfilled(read_config(SATNetConfig, config, CONFIG_KEY))
    shapes = {key: f"{_TYPES.get(tensor.dtype, tensor.dtype)} {list(tensor.shape)}" for key, tensor in tensors.items()}
    check_tensors(network, shapes, "SAT-Net")
    fill(network, tensors, "SAT-Net")
    return network, tensors


def unfilled(config: SATNetConfig) -> SATNet:
    """A network (evaluation mode) that takes no memory before a file has shown that it holds its tensors."""
    with torch.device("meta"):
        return SATNet(config).eval()


def check_tensors(network: SATNet, held: Mapping[str, str], source: object) -> None:
    """Every tensor of the network must be there, of its type and shape ("F32 [8, 3, 3, 3]"), and no other. Floats may
    have 16 bits."""
    expected = {key: f"{_TYPES[tensor.dtype]} {list(tensor.shape)}" for key, tensor in network.state_dict().items()}
    for key in sorted(expected.keys() | held.keys()):
        want, got = expected.get(key, "none"), held.get(key, "none")
        if want != got.replace("F16", "F32"):
            raise SynergicError(f"{source}: {key}: expected {want}, got {got}; the file is damaged")


def fill(network: SATNet, tensors: Mapping[str, Tensor], source: object) -> None:
    """Give an unfilled network its tensors, on the CPU; they must be finite."""
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise SynergicError(f"{source}: {key}: expected finite values, got NaN or infinity; the file is damaged")
    network.to_empty(device="cpu").load_state_dict(tensors)
