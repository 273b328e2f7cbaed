"""Write docs/results.md from training/results (what publish.py measured) and training/literature.json."""

import json
from pathlib import Path
from typing import Any

from synergic.card import Card, published_weights
from synergic.hardware import PRECISIONS
from synergic.network import SATNet, count_parameters
from synergic.weights import read_header

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results.md"

INTRODUCTION = """# Results

Written by `python training/results.py` from what `training/publish.py` measured; every picture's own figures are in
`training/results`. Each of our rows is one file of weights for all its levels.

Our protocol: {protocol}.
SSIM: {ssim}.
Seconds per megapixel are of 1000 x 1000 pixels through tiles, a fifth of which are computed twice, on the machine that
measured the scores; some machines are twice as fast as others of that name.
The columns of the literature are as their authors printed them, mostly one network per level; {literature}

| weights | parameters | non-local attention | seconds per megapixel | training |
|---|---|---|---|---|
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


def page() -> str:
    """The page as Markdown."""
    literature = json.loads((HERE / "literature.json").read_text())
    results = {path.stem: json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*.json"))}
    words = next(iter(results["gray-denoise"]["reports"].values()))["protocol"]
    config, card = read_header(published_weights()["gray-denoise"])
    protocol = card.protocol.replace(f"attention windows {config.window}", "attention windows as below")
    parts = [INTRODUCTION.format(protocol=protocol, ssim=words["ssim"], literature=literature["note"])]
    parts += [machine_row(name, results[name]) for name in results]
    for table in literature["tables"]:
        ours = {name: results[name]["reports"] for name in table["weights"] if name in results}
        if ours:
            parts.append(f"\n## {table['title']}\n\n{table['note']}\n\n")
            parts.append(comparison(ours, table["methods"]))
    return "".join(parts)


def machine_row(name: str, result: dict[str, Any]) -> str:
    """One row of the first table."""
    config, card = read_header(published_weights()[name])
    taught = f", taught by {card.recipe['teacher']}" if card.recipe.get("teacher") else ""
    training = f"{card.steps:,} steps, {card.seconds / 3600:.1f} h on {card.hardware}{taught}"
    speed = f"{result['seconds_per_megapixel']:.1f} ({result['hardware']}, {precision(card)})"
    compared = f"patches of {config.patch_size}" if config.nonlocal_attention == "patch" else "pixels"
    attention = f"{compared}, windows of {config.window}"
    return f"| `{name}` | {count_parameters(SATNet(config)):,} | {attention} | {speed} | {training} |\n"


def precision(card: Card) -> str:
    """What the scores on a card were computed in."""
    return next(name for name in PRECISIONS if f", {name};" in card.protocol)


def comparison(ours: dict[str, Any], literature: dict[str, dict[str, str]]) -> str:
    """A benchmark per row; the degraded picture, our weights and the literature side by side, PSNR/SSIM."""
    header = ["", "degraded", *(f"**`{weights}`**" for weights in ours), *literature]
    rows = ["| " + " | ".join(header) + " |\n", "|---" * len(header) + "|\n"]
    for name, report in next(iter(ours.values())).items():
        own = [f"**{reports[name]['psnr']:.2f}**/{reports[name]['ssim']:.4f}" for reports in ours.values()]
        theirs = [method.get(name, "") for method in literature.values()]
        rows.append("| " + " | ".join([name, f"{report['degraded_psnr']:.2f}", *own, *theirs]) + " |\n")
    return "".join(rows)


if __name__ == "__main__":
    main()
