"""The paper's ablation: rows of one recipe, each trained for the same steps from several seeds, then evaluated.

A folder holds one run for each row and seed, in ROW/seed-N: what training leaves there, and scores.json. Whatever is
there already is not done again, so that an ablation goes on where it stopped, and several processes fill one folder,
each run by one of them.
"""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from itertools import combinations, cycle, product
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from filelock import FileLock, Timeout

from synergic.degradations import JPEG, GaussianNoise
from synergic.errors import SynergicError
from synergic.evaluate import Protocol, evaluate, markdown, seconds_per_megapixel
from synergic.figures import COLORS, STYLES, new_figure, save_figure
from synergic.files import write_text
from synergic.hardware import describe
from synergic.network import SATNetConfig, count_parameters
from synergic.restore import Restorer
from synergic.train import (
    PLACES,
    Recipe,
    check_recipe,
    differences,
    progress,
    read_log,
    read_recipe,
    recipe_of,
    train,
)
from synergic.weights import read_header

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS: dict[str, dict[str, str]] = {
    "baseline": {"nonlocal_attention": "pixel"},
    "without-local": {"local_attention": "false"},
    "without-nonlocal": {"nonlocal_attention": "none"},
    "satnet": {},
}
"""The paper's rows, as changes of the recipe's [network]. Any other row is written KEY=VALUE[,KEY=VALUE]."""
TITLES = {
    "baseline": "baseline (pixel-wise)",
    "without-local": "w/o LA",
    "without-nonlocal": "w/o NLA",
    "satnet": "SAT-Net",
}
LEVELS = {"sigma": (15, 25, 50, 70), "quality": (10, 20, 30, 40)}
"""Of the field's tables."""
TIMED_SIDES = (128, 256, 512)
"""Sides of the pictures that rows are timed on: the greatest whose half takes less than SLOW seconds."""
SLOW = 1.0
"""Global attention takes 16 times as long on twice the side: no call takes much more than 16 seconds."""


@dataclass(frozen=True)
class Run:
    """One row with one seed."""

    row: str
    recipe: Recipe
    folder: Path


def plan(path: Path, folder: Path, rows: Sequence[str], seeds: int, changes: Mapping[str, str]) -> list[Run]:
    """The runs, seed by seed, so that every row has its first before any has its second.

    path: the recipe; seeds count from its own. changes: of the recipe, as `read_recipe` takes them.
    """
    whole = read_recipe(path, changes)
    if whole.init is not None:
        raise SynergicError(f"{path}: init: expected none, got {whole.init!r}; rows start alike only from new weights")
    recipes = {row: row_recipe(path, changes, row) for row in rows}
    for one, other in combinations(recipes, 2):
        if recipes[one] == recipes[other]:
            raise SynergicError(f"--row: expected rows that differ, got {one!r} and {other!r}; leave one of them out")
    return [
        Run(row, replace(recipe, seed=seed), folder / row / f"seed-{seed}")
        for seed in range(whole.seed, whole.seed + seeds)
        for row, recipe in recipes.items()
    ]


def row_recipe(path: Path, changes: Mapping[str, str], row: str) -> Recipe:
    """The recipe of a row.

    A similarity is a sum over the numbers of a patch. Its scale is divided by how many more of them there are than in
    the recipe's own network, so that all rows start with similarities of the same range, unless the row sets the scale.
    """
    varied = varied_by(row)
    whole = read_recipe(path, changes)
    recipe = read_recipe(path, {**changes, **{f"network.{key}": value for key, value in varied.items()}})
    if "similarity_scale" in varied:
        return recipe
    scale = whole.network.similarity_scale * patch_length(whole.network) / patch_length(recipe.network)
    try:
        return replace(recipe, network=replace(recipe.network, similarity_scale=scale))
    except ValueError as error:
        raise SynergicError(f"row {row}, times its patches' size: {error}") from None


def varied_by(row: str) -> dict[str, str]:
    """What a row changes of the recipe's [network]."""
    if row in ROWS:
        return ROWS[row]
    pairs = [part.partition("=") for part in row.split(",")]
    if not all(equals for _, equals, _ in pairs):
        raise SynergicError(f"--row: expected one of {', '.join(ROWS)}, or KEY=VALUE[,KEY=VALUE], got {row!r}")
    return {key: value for key, _, value in pairs}


def patch_length(network: SATNetConfig) -> int:
    """How many numbers a patch has."""
    return network.embedding * network.patches[0] ** 2


def protocols(recipe: Recipe, folders: Sequence[Path], **levels: Sequence[float]) -> dict[str, Protocol]:
    """What is evaluated, by name: every folder at every level.

    levels: sigma or quality; unless given, those of the field's tables that the recipe trains for. Weights for photos
    have none: only their validation is compared. Two folders of one name raise SynergicError.
    """
    names = {folder.resolve().name: folder for folder in folders}
    alike = [folder for folder in folders if names[folder.resolve().name] != folder]
    if alike:
        one, other = alike[0], names[alike[0].resolve().name]
        raise SynergicError(f"--data: expected names that differ, got {one} and {other}; rename one")
    kind = {GaussianNoise: "sigma", JPEG: "quality"}.get(type(recipe.degradation))
    wrong = [name for name, given in levels.items() if given and name != kind]
    if wrong:
        raise SynergicError(f"--{wrong[0]}: the recipe's task is {recipe.task}; leave it out")
    if kind is None:
        return {}
    low, high = (getattr(recipe.degradation, f"{kind}_{end}") for end in ("min", "max"))
    chosen = levels.get(kind) or [level for level in LEVELS[kind] if low <= level <= high] or [high]
    return {
        f"{folder.resolve().name}, {kind} {level:g}": Protocol(folder, **{kind: level})  # type: ignore[arg-type]
        for folder in folders
        for level in chosen
    }


def ablate(
    runs: Sequence[Run], wanted: Mapping[str, Protocol], accelerator: str, say: Callable[[str], None] = print
) -> None:
    """Train and evaluate whatever of the runs is not there yet; what another process is at is left to it. Pictures that
    cannot be evaluated are refused before the first run is trained."""
    pictures = dict[Path, int]()
    for protocol in wanted.values():
        if protocol.data not in pictures:
            pictures[protocol.data] = checksum(protocol.clean_pictures())
    for number, run in enumerate(runs, 1):
        if (weights := run.folder / "weights.safetensors").exists():
            check_recipe(run.recipe, read_header(weights)[1], run.folder, PLACES)
        head = f"[{number}/{len(runs)}] {TITLES.get(run.row, run.row)}, seed {run.recipe.seed}"
        run.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(run.folder / "lock", timeout=0):  # gone with its process, however that ends
                train_rest(run, accelerator, headed(head, say))
                measure(run.folder, wanted, pictures, accelerator, headed(head, say))
        except Timeout:
            say(f"{head}: another process is at it; left to that one")


def headed(head: str, say: Callable[[str], None]) -> Callable[[str], None]:
    """Says lines that begin with `head`."""
    return lambda text: say(f"{head}: {text}")


def train_rest(run: Run, accelerator: str, say: Callable[[str], None]) -> None:
    """Train what is not trained of one run."""
    last = (read_log(run.folder) or [{"step": "0", "seconds": "0"}])[-1]
    step, seconds = int(last["step"]), float(last["seconds"])
    if progress(run.recipe, step, seconds) < 1:
        end = run.recipe.steps if run.recipe.seconds is None else f"{run.recipe.seconds:g} s"
        say(f"training from step {step} to {end}")
        resume = (run.folder / "state.safetensors").exists()
        train(run.recipe, run.folder, resume=resume, accelerator=accelerator)


def validations(folder: Path) -> dict[int, float]:
    """Validation PSNR by step, from a run's log."""
    return {int(row["step"]): float(row["validation_psnr"]) for row in read_log(folder)}


def measure(
    folder: Path, wanted: Mapping[str, Protocol], pictures: Mapping[Path, int], device: str, say: Callable[[str], None]
) -> None:
    """Evaluate a trained run where it is not yet, or was on other pictures of that name, and time it once; scores.json
    holds what is found. pictures: the checksum of each folder's."""
    path = folder / "scores.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    scores = found.get("scores", {})
    missing = {
        name: protocol
        for name, protocol in wanted.items()
        if scores.get(name, {}).get("pictures") != pictures[protocol.data]
    }
    if found and not missing:
        return
    restorer = Restorer.from_pretrained(folder / "weights.safetensors", device=device)
    found = found or {
        "parameters": count_parameters(restorer.network),
        **timing(restorer),
        "hardware": describe(restorer.device),
        "training_seconds": restorer.card.seconds,
        "scores": {},
    }
    for name, protocol in missing.items():
        report = evaluate(restorer, protocol)
        found["scores"][name] = {key: report[key] for key in ("psnr", "ssim", "degraded_psnr", "protocol")}
        found["scores"][name]["pictures"] = pictures[protocol.data]
        say(f"{name}: {report['psnr']:.3f} dB")
    write_text(path, json.dumps(found, indent=1), overwrite=True)


def timing(restorer: Restorer) -> dict[str, float]:
    """Seconds per megapixel, and the side of the picture that was timed: per pixel, global attention takes longer on a
    larger one."""
    side = TIMED_SIDES[0]
    for larger in TIMED_SIDES[1:]:
        if seconds_per_megapixel(restorer, side, rounds=1) * side**2 / 1e6 >= SLOW:
            break
        side = larger
    return {"seconds_per_megapixel": seconds_per_megapixel(restorer, side), "timed_side": side}


def checksum(pictures: Mapping[str, np.ndarray]) -> int:
    """Of all pixels: a folder may lie elsewhere by now, or hold others."""
    total = 0
    for pixels in pictures.values():
        total = crc32(np.ascontiguousarray(pixels).data, total)
    return total


def finished_runs(folder: Path) -> list[Path]:
    """The folders of a folder's runs that are trained and evaluated."""
    return sorted(path.parent for path in folder.glob("*/seed-*/scores.json"))


def collect(folder: Path) -> dict[str, Any]:
    """All finished runs of a folder: {"recipe": .., "rows": [..]}, the paper's rows first.

    A row has its name, title, seeds, parameters, seconds per megapixel (mean) and the side of what was timed, training
    seconds (mean), the validation curve of every seed, "scores": PSNR by name, one for each seed, the last validation
    among them, and "ssim" likewise.
    Runs of different recipes, or evaluated on different pictures, raise SynergicError.
    """
    finished = finished_runs(folder)
    if not finished:
        raise SynergicError(f"{folder}: expected finished runs, found none; train some first")
    recipes = [recipe_of(read_header(run / "weights.safetensors")[1]) for run in finished]
    first_row, first_of = finished[0].parent.name, dict[str, dict[str, Any]]()
    for run, recipe in zip(finished, recipes, strict=True):
        row = run.parent.name
        check_alike(run, recipe, recipes[0], {*varied_by(row), *varied_by(first_row), "similarity_scale"})
        check_alike(run, recipe, first_of.setdefault(row, recipe), set())
    check_pictures(finished)
    names = {run.parent.name for run in finished}
    ordered = [name for name in ROWS if name in names] + sorted(names - ROWS.keys())
    rows = [collect_row([run for run in finished if run.parent.name == name]) for name in ordered]
    return {"recipe": {key: value for key, value in recipes[0].items() if key not in ("seed", "network")}, "rows": rows}


def check_alike(run: Path, recipe: dict[str, Any], first: dict[str, Any], varied: set[str]) -> None:
    """Refuse a run of another recipe than the first; of the network, what is `varied` may differ."""
    for key, got, _ in differences(recipe, first, (*PLACES, "seed", *(f"network.{key}" for key in varied))):
        raise SynergicError(f"{run}: {key}: expected the same in every run, got {got!r}")


def check_pictures(runs: Sequence[Path]) -> None:
    """Refuse scores of one name that were measured on other pictures in one run than in another."""
    first: dict[str, tuple[Path, int]] = {}
    for run in runs:
        for name, of in json.loads((run / "scores.json").read_text())["scores"].items():
            other, pictures = first.setdefault(name, (run, of["pictures"]))
            if of["pictures"] != pictures:
                raise SynergicError(
                    f"{run}: {name}: expected the pictures of {other}, got others, of {of['protocol']['data']}; "
                    "evaluate all rows on one folder"
                )


def collect_row(runs: Sequence[Path]) -> dict[str, Any]:
    """One row of `collect`, from its finished runs."""
    found = [json.loads((run / "scores.json").read_text()) for run in runs]
    curves = [validations(run) for run in runs]
    common = [name for name in found[0]["scores"] if all(name in of["scores"] for of in found)]
    scores = {"validation": [curve[max(curve)] for curve in curves]}
    scores |= {name: [of["scores"][name]["psnr"] for of in found] for name in common}
    row = runs[0].parent.name
    return {
        "row": row,
        "title": TITLES.get(row, row),
        "seeds": [int(run.name.removeprefix("seed-")) for run in runs],
        "parameters": found[0]["parameters"],
        "seconds_per_megapixel": fmean(of["seconds_per_megapixel"] for of in found),
        "timed_side": found[0]["timed_side"],
        "training_seconds": fmean(of["training_seconds"] for of in found),
        "hardware": found[0]["hardware"],
        "scores": scores,
        "ssim": {name: [of["scores"][name]["ssim"] for of in found] for name in common},
        "protocols": {name: found[0]["scores"][name]["protocol"] for name in common},
        "curves": curves,
    }


def table(found: dict[str, Any]) -> str:
    """Markdown: mean ± deviation over the seeds, PSNR in dB. Rows timed on small pictures say so."""
    names, rows = score_names(found), []
    for row in found["rows"]:
        side = row["timed_side"]
        of_side = "" if side == TIMED_SIDES[-1] else f" ({side} x {side})"
        seconds = f"{row['seconds_per_megapixel']:.2f}{of_side}", f"{row['training_seconds']:.0f}"
        scores = [plus_minus(row["scores"].get(name, [])) for name in names]
        rows.append([row["title"], str(len(row["seeds"])), f"{row['parameters']:,}", *seconds, *scores])
    return markdown(["row", "seeds", "parameters", "s/Mpx", "training, s", *names], rows)


def gaps(found: dict[str, Any]) -> str:
    """Markdown: by how much SAT-Net is above each other row, mean ± deviation of the differences seed by seed."""
    whole = whole_network(found)
    if whole is None or len(found["rows"]) == 1:
        return ""
    names, rows = score_names(found), []
    for row in found["rows"]:
        pairs, both = shared_seeds(whole, row), row["scores"].keys() & whole["scores"].keys()
        above = {name: [whole["scores"][name][i] - row["scores"][name][j] for i, j in pairs] for name in both}
        if row is not whole:
            rows.append([row["title"], *(plus_minus(above.get(name, [])) for name in names)])
    return markdown(["SAT-Net above", *names], rows)


def whole_network(found: dict[str, Any]) -> dict[str, Any] | None:
    """SAT-Net's row, if there is one."""
    return next((row for row in found["rows"] if row["row"] == "satnet"), None)


def shared_seeds(row: dict[str, Any], other: dict[str, Any]) -> list[tuple[int, int]]:
    """Where the seeds of both rows stand in each."""
    return [(i, other["seeds"].index(seed)) for i, seed in enumerate(row["seeds"]) if seed in other["seeds"]]


def plus_minus(values: Sequence[float]) -> str:
    """Mean ± sample deviation with two decimals, as far as there are values."""
    mean, spread = mean_and_deviation(values)
    return ("" if mean is None else f"{mean:z.2f}") + ("" if spread is None else f" ± {spread:.2f}")


def mean_and_deviation(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and sample standard deviation; None where there are too few values."""
    return fmean(values) if values else None, stdev(values) if len(values) > 1 else None


def score_names(found: dict[str, Any], kind: str = "scores") -> list[str]:
    """The names of all scores, or of all "ssim", in the order in which rows have them."""
    return list(dict.fromkeys(name for row in found["rows"] for name in row[kind]))


def as_csv(found: dict[str, Any]) -> str:
    """All rows with mean and deviation over the seeds of every PSNR, in dB, and every SSIM."""
    plain = ("row", "parameters", "seconds_per_megapixel", "training_seconds")
    kinds = [(kind, name) for kind in ("scores", "ssim") for name in score_names(found, kind)]
    titles = [name if kind == "scores" else f"{name}, SSIM" for kind, name in kinds]
    with StringIO(newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*plain, "seeds", *(f"{title}, {of}" for title in titles for of in ("mean", "deviation"))])
        for row in found["rows"]:
            values = [value for kind, name in kinds for value in mean_and_deviation(row[kind].get(name, []))]
            writer.writerow([*(row[key] for key in plain), len(row["seeds"]), *values])
        return file.getvalue()


def write_results(folder: Path) -> str:
    """Write table.md, table.csv, results.json and curves.png from all finished runs; returns the tables. Written again
    if another process has finished a run meanwhile: whichever writes last, the table is of all."""
    found, written = collect(folder), None
    while found != written:
        text = f"{table(found)}\n\n{gaps(found)}".strip()
        write_text(folder / "table.md", text + "\n", overwrite=True)
        write_text(folder / "results.json", json.dumps(found, indent=1), overwrite=True)
        write_text(folder / "table.csv", as_csv(found), overwrite=True)
        draw(found, folder / "curves.png")
        found, written = collect(folder), found
    return text


Curve = dict[int, float]
"""PSNR by step."""


def draw(found: dict[str, Any], path: Path) -> None:
    """Validation PSNR against steps; beside it each row's difference to SAT-Net, seed by seed. Lines are means over
    seeds, bands their deviation."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(14, 4.8)
    left, right = figure.subplots(1, 2)
    whole = whole_network(found)
    for row, (style, color) in zip(found["rows"], cycle(product(STYLES, COLORS))):
        draw_band(left, row["curves"], color, style, f"{row['title']}, {seeds_in_words(row['seeds'])}")
        if whole is not None:
            pairs = [(row["curves"][i], whole["curves"][j]) for i, j in shared_seeds(row, whole)]
            draw_band(right, [difference(*pair) for pair in pairs], color, style, row["title"])
    left.set(xlabel="steps", ylabel="validation PSNR, dB")
    right.set(xlabel="steps", ylabel="PSNR beyond SAT-Net of the same seed, dB")
    settled = [
        psnr
        for row in found["rows"]
        for curve in row["curves"]
        for step, psnr in curve.items()
        if step > max(curve) / 5
    ]
    left.set_ylim(min(settled) - 0.05, max(settled) + 0.05)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", title="mean; band: 1 deviation")
    save_figure(figure, path)


def seeds_in_words(seeds: Sequence[int]) -> str:
    """How many runs a line is the mean of."""
    return f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"


def difference(curve: Curve, other: Curve) -> Curve:
    """One curve less the other, at the steps of both."""
    return {step: curve[step] - other[step] for step in curve if step in other}


def draw_band(axis: "Axes", curves: Sequence[Curve], color: str, style: str, label: str) -> None:
    """The mean of several curves at the steps of all, and a band of their deviation."""
    if not curves:
        return
    steps = sorted(set(curves[0]).intersection(*curves[1:]))
    values = np.array([[curve[step] for step in steps] for curve in curves])
    mean, spread = values.mean(0), values.std(0, ddof=min(1, len(curves) - 1))
    axis.plot(steps, mean, style, color=color, label=label, marker="o", markersize=3)
    axis.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.2, linewidth=0)
