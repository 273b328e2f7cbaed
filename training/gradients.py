"""How much of a step's gradient is signal: `python training/gradients.py RECIPE WEIGHTS PICTURES [--teacher WEIGHTS]`.

The gradient of one batch is what all pictures have in common plus the noise of its own. Between two batches only the
former agrees: the mean cosine between their gradients, over the weights of the 3x3 convolutions in the blocks, is its
share of a gradient's square. With a share s, 1/s - 1 batches' gradients are as much signal as noise in their mean
(McCandlish et al., "An empirical model of large-batch training", 2018, arXiv 1812.06162).
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from synergic.cli import keep_freed_memory
from synergic.data import Crops
from synergic.network import SATNet
from synergic.train import Recipe, log_mse, read_pictures, read_recipe, teach
from synergic.weights import load_weights


def main(recipe: Recipe, weights: str, teacher: str | None, batches: int) -> None:
    """Print the mean cosine and the gradients' mean norm, with the loss `log_mse`, as the network restores."""
    network = load_weights(weights)[0].requires_grad_()
    guide = None if teacher is None else load_weights(teacher)[0]
    crops = Crops(
        read_pictures(recipe.pictures, recipe),
        recipe.degradation,
        crop_size=recipe.crop_size,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        patterns=recipe.patterns,
    )
    gradients = torch.stack([gradient(network, guide, crops, step) for step in range(1, batches + 1)])
    norms = gradients.norm(dim=1)
    directions = gradients / norms[:, None]
    cosines = directions @ directions.T
    mean = (cosines.sum() - batches) / (batches * (batches - 1))
    print(f"{weights}, {teacher or 'no teacher'}: cosine {mean:.3f}, norm {norms.mean():.3f}, {batches} batches")


def gradient(network: SATNet, teacher: SATNet | None, crops: Crops, step: int) -> Tensor:
    """Of all 3x3 convolutions in the blocks, in one row, in bfloat16's autocast."""
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
    parser.add_argument("--batches", type=int, default=14, help="A multiple of 7: the eighth view is the crop itself.")
    arguments = parser.parse_args()
    keep_freed_memory()
    changes = {"pictures": str(arguments.pictures)}
    main(read_recipe(arguments.recipe, changes), arguments.weights, arguments.teacher, arguments.batches)
