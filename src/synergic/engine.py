"""ONNX Runtime in place of PyTorch: an exported model as the network of a `Restorer`.

Tiles, strength, ensemble and files are the restorer's own; PyTorch is left with the tensors between them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from synergic.config import read_config
from synergic.errors import SynergicError
from synergic.network import UNKNOWN_STRENGTH, SATNetConfig
from synergic.restore import SMALLEST_TILE, TILE_SIZE, Restorer
from synergic.weights import Card

FORMAT = "synergic-onnx-1"


def restorer_from_onnx(
    name: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    tile_size: int = TILE_SIZE,
    ensemble: bool = False,
) -> Restorer:
    """A restorer that runs a model written by `synergic export`, on the CPU in float32; it gives no gradients."""
    if device not in ("auto", "cpu"):
        raise SynergicError(f"device: expected auto or cpu with the onnx engine, got {device!r}")
    if precision not in ("auto", "float32"):
        raise SynergicError(f"precision: expected auto or float32 with the onnx engine, got {precision!r}")
    if tile_size < SMALLEST_TILE:
        raise SynergicError(f"tile size: expected at least {SMALLEST_TILE}, got {tile_size}")
    path = Path(name)
    try:
        model = path.read_bytes()
    except OSError as error:
        raise SynergicError(f"{path}: expected a model written by `synergic export`, got {error.strerror}") from None
    network = OnnxNetwork.from_bytes(model, path)
    called_alike: Any = network  # a restorer calls its network and reads its configuration, no more
    return Restorer(called_alike, network.card, torch.device("cpu"), torch.float32, tile_size, ensemble)


@dataclass(frozen=True)
class OnnxNetwork:
    """An exported model, called as the network is that it was exported from."""

    session: Any
    config: SATNetConfig
    card: Card
    plane: str | None
    """Name of the input for the strength; None for a model that works without."""

    @classmethod
    def from_bytes(cls, model: bytes, source: Path) -> Self:
        """A model in one file; anything else raises SynergicError, which names `source`."""
        onnx, runtime = require("onnx", "onnxruntime")
        try:
            parsed = onnx.load_model_from_string(model)
        except Exception:  # of protobuf, which is not imported here
            raise SynergicError(f"{source}: expected an ONNX model, got a file that does not open as one") from None
        metadata = {entry.key: entry.value for entry in parsed.metadata_props}
        if metadata.get("format") != FORMAT:
            raise SynergicError(
                f"{source}: expected a model of format {FORMAT}, got {metadata.get('format', 'none')}; "
                "use one written by `synergic export`"
            )
        if any(isinstance(part, onnx.TensorProto) and part.external_data for part in _parts(parsed)):
            raise SynergicError(f"{source}: expected a model in one file, got one that reads others; export it again")
        try:
            config, card = json.loads(metadata["config"]), json.loads(metadata["card"])
        except (KeyError, json.JSONDecodeError):
            raise SynergicError(f"{source}: expected a configuration and a card, got none; export it again") from None
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors only
        try:
            session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's have no common class
            raise SynergicError(f"{source}: expected a model that ONNX Runtime loads, got: {error}") from None
        names = [entry.name for entry in session.get_inputs()]
        if names not in (["input"], ["input", "sigma"], ["input", "quality"]):
            raise SynergicError(f"{source}: expected inputs named input and sigma or quality, got {', '.join(names)}")
        plane = names[1] if len(names) == 2 else None
        read = replace(read_config(SATNetConfig, config, source), conditioned=plane is not None)
        return cls(session, read, read_config(Card, card, source), plane)

    def __call__(self, degraded: Tensor, strength: Tensor | None = None) -> Tensor:
        """As `SATNet.forward`: N C H W and N strengths, which must be alike, -> N C H W. A gray model sees the batch as
        channels, each for itself; a colour model one picture after the other."""
        if self.config.colors == 1:
            return self._run(degraded.transpose(0, 1), strength).transpose(0, 1)
        return torch.cat([self._run(picture, strength) for picture in degraded.split(1)])

    def _run(self, degraded: Tensor, strength: Tensor | None) -> Tensor:  # 1 C H W -> 1 C H W
        inputs = {"input": degraded.contiguous().numpy()}
        if self.plane is not None:
            told = UNKNOWN_STRENGTH if strength is None else float(strength[0])
            inputs[self.plane] = torch.full((1, 1, *degraded.shape[2:]), told).numpy()
        try:
            return torch.from_numpy(self.session.run(["output"], inputs)[0])
        except Exception as error:
            if "Failed to allocate memory" in str(error):
                raise torch.OutOfMemoryError("ONNX Runtime: can't allocate memory") from error  # the tile is halved
            raise


def _parts(message: Any) -> Iterator[Any]:
    """A protobuf message and all messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _parts(part)


def require(*names: str) -> list[Any]:
    """Packages of the extra `onnx`, or SynergicError."""
    try:
        return [import_module(name) for name in names]
    except ModuleNotFoundError as error:
        raise SynergicError(f"engine onnx: expected {error.name}, got none; run pip install 'synergic[onnx]'") from None
