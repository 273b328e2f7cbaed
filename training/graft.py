"""Weights with the non-local branches of others: `python training/graft.py WEIGHTS DONOR RUN`.

A branch that begins anew in a trained network costs thousands of steps; that of a network for another task is at home
sooner. RUN gets weights.safetensors: WEIGHTS with their card, without its scores, the branches and how they compare
those of DONOR. It is where a run begins (`--set init=RUN/weights.safetensors`), not what restores pictures.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from synergic.network import SATNet
from synergic.weights import load_weights, save_weights


def main(weights: str, donor: str, run: Path) -> None:
    """Every tensor of WEIGHTS, but those of non-local attention, which are DONOR's. Other shapes are an error."""
    network, card = load_weights(weights)
    giver, _ = load_weights(donor)
    branches = {name: tensor for name, tensor in giver.state_dict().items() if ".nonlocal_attention." in name}
    own = {key: getattr(network.config, key) for key in ("colors", "conditioned", "gate_window")}
    config = replace(giver.config, **own)
    grafted = SATNet(config).eval()
    grafted.load_state_dict(network.state_dict() | branches)
    save_weights(run / "weights.safetensors", grafted, card.unmeasured())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="Published weights by name, or a weights file.")
    parser.add_argument("donor")
    parser.add_argument("run", type=Path)
    arguments = parser.parse_args()
    main(arguments.weights, arguments.donor, arguments.run)
