"""ONNX Runtime in place of PyTorch, which is not imported: models written by `synergic export` restore pictures."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np

from synergic.card import Card, check_file, told_strength
from synergic.config import read_config
from synergic.errors import SynergicError, needs
from synergic.tiling import TILE_SIZE, Progress, check_tile_size, restore_picture

FORMAT = "synergic-onnx-1"


@dataclass(frozen=True)
class OnnxRestorer:
    """A `Restorer` of an exported model, for pictures. Make one with `from_file`."""

    model: "OnnxModel"
    card: Card
    tile_size: int = TILE_SIZE
    ensemble: bool = False

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        tile_size: int | None = None,
        ensemble: bool = False,
    ) -> Self:
        """A restorer that runs a model on the CPU in float32. The options are those of `Restorer.from_pretrained`."""
        if device not in ("auto", "cpu"):
            raise SynergicError(f"device: expected auto or cpu with the onnx engine, got {device!r}")
        if precision not in ("auto", "float32"):
            raise SynergicError(f"precision: expected auto or float32 with the onnx engine, got {precision!r}")
        tile_size = TILE_SIZE if tile_size is None else tile_size
        check_tile_size(tile_size)
        kind = "a model written by `synergic export`"
        check_file(Path(path), kind)
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            raise SynergicError(f"{path}: expected {kind}, got {error.strerror}; check its rights") from None
        read = OnnxModel.from_bytes(model, path)
        return cls(read, read.card, tile_size, ensemble)

    def __call__(
        self,
        image: np.ndarray,
        *,
        sigma: float | None = None,
        quality: int | None = None,
        strength: float = 1.0,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Restore one picture, as `Restorer` does."""
        restore_tile = partial(self._restore_tile, told=self.told_strength(sigma, quality))
        return restore_picture(restore_tile, image, self.tile_size, self.model.align, self.ensemble, strength, progress)

    def told_strength(self, sigma: float | None, quality: int | None) -> float:
        """What the model is told, as `card.told_strength` says."""
        return told_strength(self.card, self.conditioned, sigma, quality)

    @property
    def conditioned(self) -> bool:
        """Does the model take a strength?"""
        return self.model.plane is not None

    def _restore_tile(self, tile: np.ndarray, told: float) -> np.ndarray:
        """H W C float32 -> H W C float32. A colour model sees gray three times, and its answers are averaged."""
        planes = tile.transpose(2, 0, 1)[None]  # 1 C H W
        repeated = len(planes[0]) < self.model.colors
        restored = self.model(np.repeat(planes, 3, axis=1) if repeated else planes, told)
        restored = restored.mean(1, keepdims=True) if repeated else restored
        return restored[0].transpose(1, 2, 0)


@dataclass(frozen=True)
class OnnxModel:
    """An exported model in ONNX Runtime."""

    session: Any
    card: Card
    colors: int
    """3, or 1 for a gray model, which takes any number of channels, each for itself."""
    align: int
    """Where its windows begin: at multiples of so many pixels."""
    plane: str | None
    """Name of the input for the strength; None for a model that works without."""

    @classmethod
    def from_bytes(cls, model: bytes, source: str | Path, side: int | None = None) -> Self:
        """A model in one file; anything else raises SynergicError, which names `source`.

        side: the only height and width that it will see, told to ONNX Runtime beforehand, as darktable does.
        """
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
            config, card = json.loads(metadata["config"]), dict(json.loads(metadata["card"]))
            sizes = config["colors"], config["downscale"], config["window"] or config["stride"]
            if not all(type(size) is int for size in sizes):
                raise TypeError
            colors, align = sizes[0], sizes[1] * sizes[2]
            if colors not in (1, 3) or align not in range(1, 1 << 16):
                raise ValueError
        except (KeyError, TypeError, ValueError, RecursionError):
            raise SynergicError(f"{source}: expected a configuration and a card, got none; export it again") from None
        options = runtime.SessionOptions()
        threads = os.environ.get("OMP_NUM_THREADS", "")  # as PyTorch reads it; 0: as many as there are cores
        options.intra_op_num_threads = int(threads) if threads.isdecimal() else 0
        options.log_severity_level = 4  # what ends it alone: errors are raised as well
        for name in ("height", "width") if side is not None else ():
            options.add_free_dimension_override_by_name(name, side)
        try:
            session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's have no common class
            raise SynergicError(f"{source}: expected a model that ONNX Runtime loads, got: {error}") from None
        names = [entry.name for entry in session.get_inputs()]
        if names not in (["input"], ["input", "sigma"], ["input", "quality"]):
            raise SynergicError(f"{source}: expected inputs named input and sigma or quality, got {', '.join(names)}")
        return cls(session, read_config(Card, card, source), colors, align, names[1] if len(names) == 2 else None)

    def __call__(self, degraded: np.ndarray, told: float) -> np.ndarray:
        """1 C H W float32 -> 1 C H W float32. told: sigma/255, quality/100 or UNKNOWN_STRENGTH, if there is a plane."""
        inputs = {"input": np.ascontiguousarray(degraded)}
        if self.plane is not None:
            inputs[self.plane] = np.full((1, 1, *degraded.shape[2:]), told, np.float32)
        try:
            return self.session.run(["output"], inputs)[0]
        except Exception as error:
            if "Failed to allocate memory" in str(error):
                raise MemoryError("ONNX Runtime") from error  # the tile is halved
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
    with needs("onnx", "engine onnx"):
        return [import_module(name) for name in names]
