"""Weights that describe themselves: one safetensors file with configuration, task, training, data and scores."""

import json
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from synergic.config import read_config
from synergic.errors import SynergicError
from synergic.files import whole_file
from synergic.network import SATNet, SATNetConfig

Task = Literal["denoise", "photo", "jpeg"]

FORMAT = "synergic-1"
MAX_BYTES = 1 << 30
"""The largest file that is opened as weights: two hundred times the published ones."""

_TYPES = {torch.float32: "F32", torch.int64: "I64"}  # as safetensors writes the types that a network holds


@dataclass(frozen=True)
class Card:
    """What a weights file says of itself."""

    name: str
    """Name under which it is published, such as gray-denoise."""
    task: Task
    """The degradation it removes."""
    data: str
    """Pictures it was trained on."""
    licence: str
    """Licence of that data."""
    steps: int
    """Training steps behind these weights, those of the weights they started from included."""
    seconds: float
    """Wall-clock seconds of these steps."""
    hardware: str
    """What it was trained on."""
    recipe: dict[str, Any]
    """The complete training recipe: seed, crop and batch size, learning rate and the rest."""
    scores: dict[str, float] = field(default_factory=dict)
    """Measured PSNR in dB by protocol, such as {"Set12, sigma 25": 30.44}."""
    protocol: str = ""
    """How the scores were measured."""
    limits: str = ""
    """Known limits."""


def save_weights(path: Path, network: SATNet, card: Card) -> None:
    """Write a network and its card as one file; it appears whole or not at all."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    metadata = {"format": FORMAT, "config": json.dumps(asdict(network.config)), "card": json.dumps(asdict(card))}
    save_tensors(path, tensors, metadata)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, replacing an older one; it appears whole or not at all. Raises SynergicError."""
    with whole_file(path, overwrite=True) as unfinished:
        try:
            save_file(tensors, unfinished, metadata)
        except SafetensorError as error:
            raise SynergicError(f"{path}: cannot be written: {error}; check the free space") from error


def load_weights(name_or_path: str | Path) -> tuple[SATNet, Card]:
    """The network (evaluation mode, CPU) and the card of published weights or of a file. Strict: every tensor must be
    there, of the right type and shape, finite, and no other. No code in a file is run, whatever the file is.
    """
    path = find_weights(name_or_path)
    config, card = read_header(path)
    with torch.device("meta"):  # no memory before the file has shown that it holds such a network
        network = SATNet(config).eval()
    expected = {key: f"{_TYPES[tensor.dtype]} {list(tensor.shape)}" for key, tensor in network.state_dict().items()}
    with open_safetensors(path) as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        held = {key: f"{part.get_dtype()} {part.get_shape()}" for key, part in slices.items()}
        for key in sorted(expected.keys() | held.keys()):
            want, got = expected.get(key, "none"), held.get(key, "none")
            if want != got:
                raise SynergicError(f"{path}: {key}: expected {want}, got {got}; the file is damaged")
        tensors = {key: file.get_tensor(key) for key in expected}
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise SynergicError(f"{path}: {key}: expected finite values, got NaN or infinity; the file is damaged")
    network.to_empty(device="cpu").load_state_dict(tensors)
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


def published_weights() -> dict[str, Path]:
    """Weights inside the package, by name."""
    folder = Path(str(files("synergic") / "published"))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def weights_for(task: Task, colors: int) -> str:
    """The published weights that serve a task on gray (1) or colour (3) pictures best."""
    own, other = ("gray", "color") if colors == 1 else ("color", "gray")
    candidates = [task, f"{own}-{task}", f"{other}-{task}"]
    published = published_weights()
    for name in candidates:
        if name in published:
            return name
    raise SynergicError(
        f"task {task}: expected published weights for it, got only {', '.join(published)}; pass --weights"
    )


def find_weights(name_or_path: str | Path) -> Path:
    """The file of published weights, or the file itself."""
    published = published_weights()
    if str(name_or_path) in published:
        return published[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        names = ", ".join(published) or "none yet"
        raise SynergicError(
            f"{name_or_path}: expected a weights file or a published name, got neither; published: {names}"
        )
    return path


def open_safetensors(path: Path) -> Any:
    """The open file: a context manager with `metadata()`, `keys()` and `get_tensor(key)`. Raises SynergicError."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise SynergicError(f"{path}: expected a safetensors file of at most {MAX_BYTES:,} bytes, got {size:,}")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise SynergicError(f"{path}: expected a safetensors file, got one that does not open ({error})") from None
