"""Average two weights of one network: `python training/average.py BEGINNING END RUN [--share 0.75]`.

Where a run goes on from published weights, the mean of where it began and where it ended can be better than both
(Wortsman et al., "Model soups", ICML 2022). RUN gets weights.safetensors with the card of END, without its scores. The
share of END is to be chosen on validation pictures.
"""

import argparse
from pathlib import Path

from synergic.weights import load_weights, save_weights


def main(beginning: str, end: str, run: Path, share: float) -> None:
    """Every tensor: (1 - share) of the beginning's, share of the end's."""
    network, card = load_weights(end)
    before = load_weights(beginning)[0].state_dict()
    mean = {
        name: before[name].lerp(tensor, share) if tensor.is_floating_point() else tensor  # or a count of batches
        for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(mean)
    save_weights(run / "weights.safetensors", network, card.unmeasured())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("beginning", help="Published weights by name, or a weights file.")
    parser.add_argument("end")
    parser.add_argument("run", type=Path)
    parser.add_argument("--share", type=float, default=0.75)
    arguments = parser.parse_args()
    main(arguments.beginning, arguments.end, arguments.run, arguments.share)
