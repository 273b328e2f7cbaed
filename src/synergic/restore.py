"""A trained network that restores pictures in memory, and batches of tensors."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from synergic.card import Card, told_strength
from synergic.errors import SynergicError
from synergic.hardware import gains_from_nnpack, pick_device, pick_precision, total_memory
from synergic.network import SATNet, fold_batch_norm
from synergic.nnpack import use_nnpack
from synergic.tiling import TILE_SIZE, Progress, check_tile_size, restore_picture, tile_size_for
from synergic.weights import load_weights


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
        tile_size: int | None = None,
        ensemble: bool = False,
    ) -> Self:
        """A restorer with published weights ("photo"), a weights file, or weights on the Hub ("hub:owner/name").

        device: auto, cpu, cuda, mps. precision: auto, float32, bfloat16. tile_size: side of a tile in pixels, at
        least 128; memory grows with its square, and unless given it is chosen by the device's. ensemble: average over
        the 8 flips and turns of every tile.
        """
        network, card = load_weights(name_or_path)
        chosen = pick_device(device)
        picked = pick_precision(precision, chosen)
        network = fold_batch_norm(network).requires_grad_(False).to(chosen)  # or `tensor` would keep every graph
        if gains_from_nnpack(chosen, picked):
            use_nnpack(network)
        tile_size = tile_size_for(total_memory(chosen), picked.itemsize) if tile_size is None else tile_size
        check_tile_size(tile_size)
        return cls(network, card, chosen, picked, tile_size, ensemble)

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
        Floats up to 16 are let pass, and a little below 0: -0.25, and what noise adds to it.
        Returns the restored picture, same shape and dtype; floats are not clipped. Gray stays gray.
        sigma: standard deviation of the noise on the 0-255 scale, for weights that take it; unknown unless given.
        quality: JPEG quality, 1-100, likewise. strength: blend with the input, 0 (input) to 1 (restored).
        """
        restore_tile = partial(self._restore_tile, told=self.told_strength(sigma, quality))
        return restore_picture(restore_tile, image, self.tile_size, self.align, self.ensemble, strength, progress)

    @property
    def align(self) -> int:
        """Tiles start at multiples of so many pixels: windows of attention then fall as in the whole picture."""
        config = self.network.config
        return config.downscale * (config.window or config.stride)

    @property
    def conditioned(self) -> bool:
        """Does the network take a strength?"""
        return self.network.config.conditioned

    def tensor(self, degraded: Tensor, *, sigma: float | None = None, quality: int | None = None) -> Tensor:
        """Restore a batch on its device, whole, with a gradient if the batch has one: N C H W of floats in about [0, 1]
        -> N C H W float32, not clipped. C is the picture's, 1 or 3, whatever the network's."""
        if degraded.ndim != 4 or 0 in degraded.shape or not degraded.is_floating_point():
            got = f"{str(degraded.dtype).removeprefix('torch.')} {tuple(degraded.shape)}"
            raise SynergicError(f"picture: expected floats N C H W, got {got}; convert it")
        degraded = degraded.float()
        told, views = self.told_strength(sigma, quality), range(8 if self.ensemble else 1)
        restored = [turned_back(self._apply(turned(degraded, k), told), k) for k in views]
        return torch.stack(restored).mean(0)

    def _apply(self, degraded: Tensor, told: float) -> Tensor:
        """A gray network restores colour channel by channel; a colour network sees gray three times and its answers
        are averaged. N C H W -> N C H W float32."""
        n, channels, height, width = degraded.shape
        if channels not in (1, 3):
            raise SynergicError(f"picture: expected 1 or 3 channels, got {channels}")
        gray_network = self.network.config.colors == 1
        x = degraded.reshape(-1, 1, height, width) if gray_network else degraded.expand(-1, 3, -1, -1)
        strength = x.new_full((len(x),), told) if self.conditioned else None
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            y: Tensor = self.network(x, strength)
        return y.float().reshape(n, -1, height, width) if gray_network or channels == 3 else y.float().mean(1, True)

    def told_strength(self, sigma: float | None, quality: int | None) -> float:
        """What the network is told, as `card.told_strength` says."""
        return told_strength(self.card, self.conditioned, sigma, quality)

    @torch.inference_mode()
    def _restore_tile(self, tile: np.ndarray, told: float) -> np.ndarray:
        """One tile, H W C float32 -> H W C float32."""
        x = torch.from_numpy(tile).permute(2, 0, 1)[None].to(self.device)
        return self._apply(x, told)[0].permute(1, 2, 0).cpu().numpy()


def turned(x: Tensor, k: int) -> Tensor:
    """View number `k` of the 8 flips and quarter turns, as `tiling.turned`. N C H W -> N C H W or N C W H."""
    return torch.rot90(x.flip(-1) if k >= 4 else x, k % 4, (-2, -1))


def turned_back(x: Tensor, k: int) -> Tensor:
    """The inverse of `turned`."""
    back = torch.rot90(x, -(k % 4), (-2, -1))
    return back.flip(-1) if k >= 4 else back
