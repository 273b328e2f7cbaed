"""Restoring pictures in memory: any size, bounded memory, the shape and dtype that came in."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from synergic.errors import SynergicError
from synergic.hardware import pick_device, pick_precision
from synergic.network import UNKNOWN_STRENGTH, SATNet, fold_batch_norm
from synergic.tiling import Progress, map_tiles
from synergic.weights import Card, load_weights

TILE_SIZE = 768
"""Default side of a tile, in pixels."""
SMALLEST_TILE = 128
OVERLAP = 48
"""Pixels that neighbouring tiles share and blend over: over ten photographs the gradients' energy where tiles meet was
at most 0.8 % off its neighbourhood's; with 32 pixels, 2 %."""


@dataclass(frozen=True)
class Restorer:
    """A trained network, ready to restore. Make one with `from_pretrained`."""

    network: SATNet
    card: Card
    device: torch.device
    precision: torch.dtype
    tile_size: int = TILE_SIZE
    ensemble: bool = False

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        tile_size: int = TILE_SIZE,
        ensemble: bool = False,
    ) -> Self:
        """A restorer with published weights ("photo") or a weights file.

        device: auto, cpu, cuda, mps. precision: auto, float32, bfloat16. tile_size: side of a tile in pixels, at
        least 128; memory grows with its square. ensemble: average over the 8 flips and turns of every tile.
        """
        if tile_size < SMALLEST_TILE:
            raise SynergicError(f"tile size: expected at least {SMALLEST_TILE}, got {tile_size}")
        network, card = load_weights(name_or_path)
        chosen = pick_device(device)
        network = fold_batch_norm(network).to(chosen)
        return cls(network, card, chosen, pick_precision(precision, chosen), tile_size, ensemble)

    def __call__(
        self,
        image: np.ndarray,
        *,
        sigma: float | None = None,
        quality: int | None = None,
        strength: float = 1.0,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Restore one picture.

        image: H W or H W C with C = 1 (gray) or 3 (RGB); uint8, uint16, or float in [0, 1].
        Returns the restored picture, same shape and dtype; floats are not clipped. Gray stays gray.
        sigma: standard deviation of the noise on the 0-255 scale, for weights that take it; unknown unless given.
        quality: JPEG quality, 1-100, likewise. strength: blend with the input, 0 (input) to 1 (restored).
        """
        pixels = checked(image)
        if not 0 <= strength <= 1:
            raise SynergicError(f"strength: expected 0 to 1, got {strength}")
        gray_as_rgb = pixels.shape[2] == 3 and bool((pixels == pixels[..., :1]).all())
        restore_tile = partial(self._restore_tile, told=self.told_strength(sigma, quality))
        restored = self._map_tiles(restore_tile, pixels[..., :1] if gray_as_rgb else pixels, progress, strength)
        return np.broadcast_to(restored, pixels.shape).reshape(image.shape)

    def tensor(self, degraded: Tensor, *, sigma: float | None = None, quality: int | None = None) -> Tensor:
        """Restore a batch on its device, whole, with gradients if asked for: N C H W in about [0, 1] -> N C H W
        float32, not clipped. C is the picture's, 1 or 3, whatever the network's."""
        return self._apply(degraded, self.told_strength(sigma, quality))

    def _apply(self, degraded: Tensor, told: float) -> Tensor:
        """A gray network restores colour channel by channel; a colour network sees gray three times and its answers
        are averaged. N C H W -> N C H W float32."""
        n, channels, height, width = degraded.shape
        if channels not in (1, 3):
            raise SynergicError(f"picture: expected 1 or 3 channels, got {channels}")
        gray_network = self.network.config.colors == 1
        x = degraded.reshape(-1, 1, height, width) if gray_network else degraded.expand(-1, 3, -1, -1)
        strength = x.new_full((len(x),), told) if self.network.config.conditioned else None
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            y: Tensor = self.network(x, strength)
        return y.float().reshape(n, -1, height, width) if gray_network or channels == 3 else y.float().mean(1, True)

    def told_strength(self, sigma: float | None, quality: int | None) -> float:
        """What the network is told: sigma/255, quality/100 or UNKNOWN_STRENGTH. Refuses what the weights cannot use."""
        if sigma is not None and quality is not None:
            raise SynergicError("sigma and quality: expected one of them, got both")
        for name, value, top, unit in (("sigma", sigma, 255, 255), ("quality", quality, 100, 100)):
            if value is None:
                continue
            if not self.network.config.conditioned or (name == "quality") != (self.card.task == "jpeg"):
                raise SynergicError(f"{name}: {self.card.name} ({self.card.task}) works without; leave it out")
            if not 0 <= value <= top:
                raise SynergicError(f"{name}: expected 0 to {top}, got {value}")
            return value / unit
        return UNKNOWN_STRENGTH

    @torch.inference_mode()
    def _restore_tile(self, tile: np.ndarray, told: float) -> np.ndarray:
        """One tile, H W C float32 -> H W C float32."""
        x = torch.from_numpy(tile).permute(2, 0, 1)[None].to(self.device)
        if self.ensemble:
            restored = torch.stack([turned_back(self._apply(turned(x, k), told), k) for k in range(8)]).mean(0)
        else:
            restored = self._apply(x, told)
        if not restored.isfinite().all():
            raise SynergicError(
                "picture: expected values in about [0, 1], got some too large to compute with; scale it"
            )
        return restored[0].permute(1, 2, 0).cpu().numpy()

    def _map_tiles(
        self, function: partial[np.ndarray], pixels: np.ndarray, progress: Progress | None, strength: float
    ) -> np.ndarray:
        """`map_tiles`, with smaller tiles if memory runs out."""
        config, tile_size = self.network.config, self.tile_size
        align = config.downscale * (config.window or config.stride)  # windows fall as in the whole picture
        while True:
            try:
                return map_tiles(function, pixels, tile_size, OVERLAP, progress, strength, align)
            except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
                if not is_out_of_memory(error):
                    raise
                if tile_size // 2 < SMALLEST_TILE:
                    raise SynergicError(f"memory: expected enough for tiles of {tile_size} pixels, got less") from error
            tile_size //= 2


def checked(image: np.ndarray) -> np.ndarray:
    """The picture as H W C, or SynergicError."""
    pixels = image[..., None] if image.ndim == 2 else image
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise SynergicError(f"picture: expected H W, H W 1 or H W 3, got {image.shape}; give alpha separately")
    if pixels.dtype not in (np.uint8, np.uint16, np.float16, np.float32, np.float64):
        raise SynergicError(f"picture: expected uint8, uint16 or float in [0, 1], got {pixels.dtype}; convert it")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise SynergicError("picture: expected finite values, got NaN or infinity; replace them first")
    return pixels


def turned(x: Tensor, k: int) -> Tensor:
    """View number `k` of the 8 flips and quarter turns. N C H W -> N C H W or N C W H."""
    return torch.rot90(x.flip(3) if k >= 4 else x, k % 4, (2, 3))


def turned_back(x: Tensor, k: int) -> Tensor:
    """The inverse of `turned`."""
    back = torch.rot90(x, -(k % 4), (2, 3))
    return back.flip(3) if k >= 4 else back


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """PyTorch's or Python's own exception, or the message of PyTorch's CPU allocator, a driver (CUDA, Apple's), one of
    CUDA's libraries, C++, or oneDNN, which says no more when it cannot get its workspace."""
    told = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "bad_alloc", "could not create a primitive")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in told)
