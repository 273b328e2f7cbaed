"""Noise in a step's gradient: `python training/gradients.py RECIPE WEIGHTS PICTURES [--teacher WEIGHTS]`.

The gradient of one batch is what all batches have in common, the signal, and what they differ in, the noise, whose
square falls with the number of crops (McCandlish et al., "An empirical model of large-batch training", 2018, arXiv
1812.06162). Where a run has ended there is no signal left of the loss that it had.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from synergic.cli import keep_freed_memory
from synergic.data import Crops
from synergic.network import SATNet
from synergic.train import Recipe, log_mse, read_recipe, teach, training_crops
from synergic.weights import load_weights


def main(recipe: Recipe, weights: str, teacher: str | None, batches: int) -> None:
    """Print both norms, with the loss `log_mse`, over the weights of the 3x3 convolutions in the blocks."""
    network = load_weights(weights)[0].requires_grad_()
    guide = None if teacher is None else load_weights(teacher)[0]
    crops = training_crops(recipe)
    gradients = torch.stack([gradient(network, guide, crops, step) for step in range(1, batches + 1)])
    mean = gradients.mean(0)
    noise = (gradients - mean).square().sum().div(batches - 1).sqrt()
    signal = (mean.square().sum() - noise.square() / batches).clamp(min=0).sqrt()  # the mean holds noise as well
    print(f"{weights}, {teacher or 'no teacher'}: signal {signal:.3f}, noise {noise:.3f}, {batches} batches")


def gradient(network: SATNet, teacher: SATNet | None, crops: Crops, step: int) -> Tensor:
    """Of all 3x3 convolutions in the blocks, in one row, computed in bfloat16."""
    degraded, clean, strength = crops[step]
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        restored = network(degraded, strength if network.config.conditioned else None).float()
        with torch.no_grad():
            taught = [] if teacher is None else [teach(teacher, degraded, strength, view=step % 8)]
    log_mse(restored, clean, *taught).backward()
    parameters = [p for p in network.blocks.parameters() if p.ndim == 4 and p.shape[2] == 3]
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("weights", help="Published weights by name, or a weights file.")
    parser.add_argument("pictures", type=Path, help="Those that the weights were trained on: others have a signal too.")
    parser.add_argument("--teacher")
    parser.add_argument("--batches", type=int, default=16, help="As many views does the teacher see, at most 8.")
    arguments = parser.parse_args()
    keep_freed_memory()
    changes = {"pictures": str(arguments.pictures)}
    main(read_recipe(arguments.recipe, changes), arguments.weights, arguments.teacher, arguments.batches)
