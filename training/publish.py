"""Measure a run's weights and put them into the package: `python training/publish.py RUN DATA [--limits TEXT]`.

DATA holds the benchmark folders (set12, bsd68, nam25/clean and nam25/degraded, ...). The scores and their protocol go
onto the card, and the reports to RUN/reports.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from synergic import Restorer
from synergic.evaluate import Protocol, evaluate
from synergic.weights import load_weights, save_weights

PUBLISHED = Path(__file__).parents[1] / "src" / "synergic" / "published"

GRAY_NOISE = [
    (f"{name}, sigma {s}", {"data": name.lower(), "sigma": s}) for name in ("Set12", "BSD68") for s in (15, 25, 50)
]
BENCHMARKS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "gray-denoise": [
        *GRAY_NOISE,
        *((f"{name}, level unknown", {**options, "blind": True}) for name, options in GRAY_NOISE[:3]),
    ],
    "photo": [("Nam, 25 crops", {"data": "nam25/clean", "pairs": "nam25/degraded"})],
}


def main(run: Path, data: Path, limits: str) -> None:
    """Evaluate on every benchmark of these weights, then save them with their scores."""
    network, card = load_weights(run / "weights.safetensors")
    restorer = Restorer.from_pretrained(run / "weights.safetensors", device="cpu")
    scores = {}
    for name, options in BENCHMARKS[card.name]:
        folders = {key: data / value for key, value in options.items() if key in ("data", "pairs")}
        report = evaluate(restorer, Protocol(**(options | folders)))
        figures = (
            f"degraded {report['degraded_psnr']:.3f} dB, restored {report['psnr']:.3f} dB, SSIM {report['ssim']:.4f}"
        )
        print(f"{name}: {figures}")
        scores[name] = round(report["psnr"], 3)
        (run / "reports").mkdir(exist_ok=True)
        (run / "reports" / f"{name}.json").write_text(json.dumps(report, indent=1))
    recipe = card.recipe | {key: Path(card.recipe[key]).name for key in ("pictures", "validation")}
    words = report["protocol"]
    protocol = f"{words['inference']}; output {words['output']}; PSNR in {words['psnr']}; noise of seed 0 per picture"
    measured = replace(card, scores=scores, protocol=protocol, limits=limits, recipe=recipe)
    save_weights(PUBLISHED / f"{card.name}.safetensors", network, measured)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--limits", default="")
    arguments = parser.parse_args()
    main(arguments.run, arguments.data, arguments.limits)
