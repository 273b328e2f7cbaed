"""Measure a run's weights, put them into the package: `python training/publish.py RUN DATA [--half] [--limits TEXT]`.

DATA holds the benchmark folders (set12, bsd68, nam25/clean and nam25/degraded, ...). All is computed in float32. The
scores and their protocol go onto the card, the whole reports into training/results, from which training/results.py
writes docs/results.md. --half measures and writes weights of float16, at half the size.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from synergic import Restorer
from synergic.cli import keep_freed_memory
from synergic.evaluate import Protocol, evaluate, seconds_per_megapixel
from synergic.hardware import describe
from synergic.weights import load_weights, save_weights

PUBLISHED = Path(__file__).parents[1] / "src" / "synergic" / "published"
RESULTS = Path(__file__).parent / "results"


def noise(*names: str) -> dict[str, dict[str, Any]]:
    """White Gaussian noise at the usual levels."""
    return {f"{name}, sigma {s}": {"data": name.lower(), "sigma": s} for name in names for s in (15, 25, 50)}


def jpeg(**folders: str) -> dict[str, dict[str, Any]]:
    """JPEG at the usual qualities."""
    return {
        f"{name}, quality {q}": {"data": folder, "quality": q}
        for name, folder in folders.items()
        for q in (10, 20, 30, 40)
    }


def blind(benchmarks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same with the strength hidden from the network."""
    return {f"{name}, level unknown": options | {"blind": True} for name, options in benchmarks.items()}


GRAY_NOISE = noise("Set12", "BSD68") | blind(noise("Set12"))
BENCHMARKS = {
    **{f"gray-denoise{edition}": GRAY_NOISE for edition in ("", "-fast", "-basic", "-enhanced")},
    "color-denoise": noise("CBSD68"),
    "gray-jpeg": jpeg(Classic5="classic5", LIVE1="live1_luma") | blind(jpeg(Classic5="classic5")),
    "color-jpeg": jpeg(LIVE1="live1"),
    "photo": {"Nam, 25 crops": {"data": "nam25/clean", "pairs": "nam25/degraded"}},
}


def main(run: Path, data: Path, half: bool, limits: str | None) -> None:
    """Evaluate on every benchmark of these weights, then save them with their scores."""
    weights = run / "weights.safetensors"
    network, card = load_weights(weights)
    if half:
        weights = run / "half.safetensors"
        save_weights(weights, network, card, half=True)
        network, card = load_weights(weights)
    restorer = Restorer.from_pretrained(weights, device="cpu", precision="float32")  # as every machine can
    reports = {}
    for name, options in BENCHMARKS[card.name].items():
        folders = {key: data / value for key, value in options.items() if key in ("data", "pairs")}
        report = reports[name] = evaluate(restorer, Protocol(**(options | folders)))
        for key in ("data", "degradation"):  # benchmarks are known by name, not by where they lie
            report["protocol"][key] = report["protocol"][key].replace(f"{data}/", "")
        print(
            f"{name}: {report['degraded_psnr']:.3f} -> {report['psnr']:.3f} dB, SSIM {report['ssim']:.4f}", flush=True
        )
    words, seed = report["protocol"], ["noise of seed 0"] if "sigma" in options else []
    measured = replace(
        card,
        scores={name: report["psnr"] for name, report in reports.items()},
        protocol="; ".join([words["inference"], f"output {words['output']}", f"PSNR in {words['psnr']}", *seed]),
        limits=card.limits if limits is None else limits,
        recipe=card.recipe | {key: Path(card.recipe[key]).name for key in ("pictures", "validation")},
    )
    save_weights(PUBLISHED / f"{card.name}.safetensors", network, measured, half=half)
    seconds = round(seconds_per_megapixel(restorer, side=1000, rounds=2), 2)
    results = {"seconds_per_megapixel": seconds, "hardware": describe(restorer.device), "reports": reports}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{card.name}.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--limits", help="for the card, in place of what it says")
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command does: whole pictures in float32 take a third of the time
    main(arguments.run, arguments.data, arguments.half, arguments.limits)
