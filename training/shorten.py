"""Weights of fewer blocks, where a faster network begins: `python training/shorten.py WEIGHTS RUN BLOCK BLOCK ...`.

A BLOCK is the number of the block whose attention it keeps, and the residual blocks before it, as block.layer:
0:0.0,0.2 is block 0 without its second residual block. All have equally many. RUN gets weights.safetensors with the
card of WEIGHTS, without its scores. What is gone is missed at first: the recipe of the faster network trains the rest
to do without.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from synergic.network import SATNet
from synergic.weights import load_weights, save_weights


def main(weights: str, run: Path, blocks: Sequence[str]) -> None:
    """Copy the tensors of the layers that are kept; an unequal number of layers is a ValueError."""
    network, card = load_weights(weights)
    kept = [block.split(":") for block in blocks]
    layers = [[layer.split(".") for layer in text.split(",")] for _, text in kept]
    depth = len(layers[0])
    if any(len(of_block) != depth for of_block in layers):
        raise ValueError(f"expected as many layers in every block, got {[len(of_block) for of_block in layers]}")
    sources = {f"blocks.{i}.": f"blocks.{attention}." for i, (attention, _) in enumerate(kept)} | {
        f"blocks.{i}.extraction.{j}.": f"blocks.{block}.extraction.{layer}."
        for i, of_block in enumerate(layers)
        for j, (block, layer) in enumerate(of_block)
    }
    shorter = SATNet(replace(network.config, blocks=len(kept), depth=depth)).eval()
    tensors = network.state_dict()
    shorter.load_state_dict({name: tensors[source(name, sources)] for name in shorter.state_dict()})
    save_weights(run / "weights.safetensors", shorter, card.unmeasured())


def source(name: str, sources: dict[str, str]) -> str:
    """What a tensor of the shorter network is called in the longer one."""
    ours = max((prefix for prefix in sources if name.startswith(prefix)), key=len, default="")
    return sources.get(ours, "") + name.removeprefix(ours)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="Published weights by name, or a weights file.")
    parser.add_argument("run", type=Path)
    parser.add_argument("blocks", nargs="+", metavar="BLOCK")
    arguments = parser.parse_args()
    main(arguments.weights, arguments.run, arguments.blocks)
