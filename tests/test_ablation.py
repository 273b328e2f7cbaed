import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from conftest import save, tiny_card, tiny_network, tiny_recipe
from synergic import Restorer, SynergicError
from synergic.ablation import (
    ROWS,
    Run,
    ablate,
    collect,
    draw,
    plan,
    plus_minus,
    protocols,
    row_recipe,
    table,
    timing,
    write_results,
)
from synergic.evaluate import Protocol, evaluate
from synergic.images import read_pixels
from synergic.train import PLACES, check_recipe, read_recipe, validation_batches
from synergic.weights import load_weights, save_weights
from test_cli import Capture, call

RECIPES = Path(__file__).parents[1] / "recipes"
ALL = list(ROWS)


@pytest.fixture(scope="module", autouse=True)
def short_validation() -> Iterator[None]:
    """Two crops in place of 64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synergic.train.validation_batches", partial(validation_batches, batch_size=2, batches=1))
        yield


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny recipe on random blocks."""
    patches = {"nonlocal_attention": "patch", "similarity_scale": 0.02, "window": 8, "halo": 4}
    return tiny_recipe(tmp_path_factory.mktemp("ablation"), steps=4, network=patches)


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Run], dict[str, Protocol]]:
    """All rows from two seeds."""
    folder = tmp_path_factory.mktemp("finished")
    runs = plan(recipe, folder, ALL, 2, {})
    wanted = protocols(runs[0].recipe, [runs[0].recipe.validation])
    ablate(runs, wanted, "cpu")
    return folder, runs, wanted


def test_rows_are_the_papers(recipe: Path) -> None:
    networks = {row: row_recipe(recipe, {}, row).network for row in ALL}
    assert [networks[row].nonlocal_attention for row in ALL] == ["pixel", "patch", None, "patch"]
    assert [networks[row].local_attention for row in ALL] == [True, False, True, True]
    whole = networks["satnet"]
    assert whole == read_recipe(recipe).network
    assert replace(networks["without-nonlocal"], nonlocal_attention="patch") == whole, "nothing else differs"
    assert networks["baseline"].similarity_scale == pytest.approx(whole.similarity_scale * 49)


def test_other_rows_are_written_as_changes(recipe: Path) -> None:
    changed = row_recipe(recipe, {"network.embedding": "8"}, "patch_size=3,stride=2,key_stride=2").network
    assert (changed.patch_size, changed.stride, changed.key_stride, changed.embedding) == (3, 2, 2, 8)
    assert changed.similarity_scale == pytest.approx(0.02 * 49 / 9)
    assert row_recipe(recipe, {}, "embedding=8").network.similarity_scale == pytest.approx(0.02 / 2)
    assert row_recipe(recipe, {}, "similarity_scale=0.1,patch_size=5").network.similarity_scale == 0.1
    with pytest.raises(
        SynergicError, match="row baseline, .*: similarity_scale: expected at most 15 for pixels, got 49"
    ):
        row_recipe(recipe, {"network.similarity_scale": "1"}, "baseline")
    with pytest.raises(SynergicError, match="--row: expected one of baseline, .*got 'basline'"):
        row_recipe(recipe, {}, "basline")
    with pytest.raises(SynergicError, match="expected a known key, got 'patchsize'; did you mean 'patch_size'"):
        row_recipe(recipe, {}, "patchsize=3")


def test_runs_go_seed_by_seed(recipe: Path, tmp_path: Path) -> None:
    runs = plan(recipe, tmp_path, ["satnet", "baseline"], 2, {"seed": "7", "steps": "9"})
    assert [(run.row, run.recipe.seed) for run in runs] == [
        ("satnet", 7),
        ("baseline", 7),
        ("satnet", 8),
        ("baseline", 8),
    ]
    assert runs[2].folder == tmp_path / "satnet" / "seed-8"
    assert all(run.recipe.steps == 9 for run in runs)
    with pytest.raises(SynergicError, match="init: expected none, got 'gray-denoise'"):
        plan(recipe, tmp_path, ALL, 1, {"init": "gray-denoise"})
    with pytest.raises(SynergicError, match="rows that differ, got 'patch_size=5' and 'patch_size=5,stride=4'; leave"):
        plan(recipe, tmp_path, ["patch_size=5", "satnet", "patch_size=5,stride=4"], 1, {})


def test_what_is_evaluated(recipe: Path) -> None:
    noise, folders = read_recipe(recipe), [Path("a/set12"), Path("b")]
    assert list(protocols(noise, folders)) == ["set12, sigma 25", "b, sigma 25"]
    assert list(protocols(noise, folders[:1], sigma=(22.5, 30), quality=())) == ["set12, sigma 22.5", "set12, sigma 30"]
    with pytest.raises(SynergicError, match="--quality: the recipe's task is denoise; leave it out"):
        protocols(noise, folders, quality=(10,))
    fixed = read_recipe(recipe, {"degradation.sigma_min": "40", "degradation.sigma_max": "40"})
    assert protocols(fixed, folders[1:]) == {"b, sigma 40": Protocol(Path("b"), sigma=40)}
    with pytest.raises(SynergicError, match=r"--data: expected names that differ, got a/b and b; rename one"):
        protocols(noise, [Path("a/b"), Path("b")])
    assert protocols(read_recipe(RECIPES / "photo.toml"), folders) == {}
    jpeg = read_recipe(recipe, {"task": "jpeg", "degradation": "{quality_max = 20}"})
    assert list(protocols(jpeg, folders[1:])) == ["b, quality 10", "b, quality 20"]


def test_the_scores_are_those_of_evaluate(finished: tuple[Path, list[Run], dict[str, Protocol]]) -> None:
    folder, runs, wanted = finished
    found = collect(folder)
    assert [row["row"] for row in found["rows"]] == ALL
    assert found["recipe"]["steps"] == 4
    for row in found["rows"]:
        assert row["seeds"] == [1, 2]
        assert all(sorted(curve) == [2, 4] for curve in row["curves"])
        assert row["scores"]["validation"] == [curve[4] for curve in row["curves"]]
        assert row["seconds_per_megapixel"] > 0
        assert row["scores"]["val, sigma 25"][0] != row["scores"]["val, sigma 25"][1], "seeds differ"
    run = runs[-1]
    weights = run.folder / "weights.safetensors"
    report = evaluate(Restorer.from_pretrained(weights, device="cpu"), wanted["val, sigma 25"])
    assert found["rows"][3]["scores"]["val, sigma 25"][1] == report["psnr"]
    assert found["rows"][3]["ssim"]["val, sigma 25"][1] == report["ssim"]
    assert found["rows"][3]["parameters"] == report["parameters"]
    assert found["rows"][0]["parameters"] == report["parameters"], "patches have no more parameters than pixels"
    assert found["rows"][1]["parameters"] < found["rows"][2]["parameters"] < report["parameters"]


def test_tables_and_figure(finished: tuple[Path, list[Run], dict[str, Protocol]]) -> None:
    folder, _, _ = finished
    text = write_results(folder)
    values = collect(folder)["rows"][0]["scores"]["val, sigma 25"]
    mean, spread = fmean(values), stdev(values)
    lines = text.splitlines()
    assert (folder / "table.md").read_text() == text + "\n"
    assert [cell.strip() for cell in lines[0].split("|")[-3:-1]] == ["validation", "val, sigma 25"]
    titles = [line.split(" | ")[0].strip("| ") for line in lines]
    assert titles[2:6] == ["baseline (pixel-wise)", "w/o LA", "w/o NLA", "SAT-Net"]
    assert titles[6:] == ["", "SAT-Net above", "-" * 21, *titles[2:5]]
    above = [b - a for a, b in zip(values, collect(folder)["rows"][3]["scores"]["val, sigma 25"], strict=True)]
    assert f"{fmean(above):z.2f} ± {stdev(above):.2f}" in lines[9]
    assert f"{mean:.2f} ± {spread:.2f}" in lines[2]
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ALL
    assert float(rows[0]["val, sigma 25, mean"]) == pytest.approx(mean)
    assert float(rows[0]["val, sigma 25, deviation"]) == pytest.approx(spread)
    ssim = collect(folder)["rows"][0]["ssim"]["val, sigma 25"]
    assert float(rows[0]["val, sigma 25, SSIM, mean"]) == pytest.approx(fmean(ssim))
    assert "validation, SSIM, mean" not in rows[0]
    assert json.loads((folder / "results.json").read_text())["rows"][0]["scores"]["val, sigma 25"] == values
    height, width = read_pixels(folder / "curves.png").shape[:2]
    assert width > 2 * height


def test_lines_are_told_apart_and_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list[Any]()
    monkeypatch.setattr("synergic.ablation.save_figure", lambda figure, _: drawn.append(figure))
    names = ["satnet", *(f"embedding={width}" for width in range(9))]
    rows = [{"row": name, "title": name, "seeds": [1], "curves": [{1: 30.0, 2: 31.0}]} for name in names]
    rows[0] |= {"seeds": [1, 2], "curves": [{1: 30.0, 2: 31.0}, {1: 30.5, 2: 31.5}]}
    draw({"rows": rows}, Path("curves.png"))
    (figure,) = drawn
    figure.draw_without_rendering()
    for axis in figure.axes:
        assert len({(line.get_color(), line.get_linestyle()) for line in axis.lines}) == len(names)
        assert all(float(step).is_integer() for step in axis.get_xticks())
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "mean; band: 1 deviation"
    assert [text.get_text() for text in legend.get_texts()][:2] == ["satnet, 2 seeds", "embedding=0, 1 seed"]
    right = max(axis.get_window_extent().x1 for axis in figure.axes)
    assert legend.get_window_extent().x0 >= right, "beside the curves"


def test_nothing_is_done_twice(
    finished: tuple[Path, list[Run], dict[str, Protocol]], tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, said = tmp_path / "copy", list[str]()
    shutil.copytree(finished[0], folder)
    runs = plan(recipe, folder, ALL, 2, {})
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    ablate(runs, finished[2], "cpu", said.append)
    assert said == []
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    more = finished[2] | protocols(runs[0].recipe, [runs[0].recipe.validation], sigma=(30,))
    ablate(runs[:1], more, "cpu", said.append)
    assert len(said) == 1
    assert said[0].startswith("[1/1] baseline (pixel-wise), seed 1: val, sigma 30: ")
    assert collect(folder)["rows"][0]["scores"].keys() == {"validation", "val, sigma 25"}, "as far as all seeds have it"
    with pytest.raises(SynergicError, match="batch_size: expected 2 as it began, got 3; pass another -o"):
        ablate(plan(recipe, folder, ["satnet"], 1, {"batch_size": "3"}), {}, "cpu")


def test_another_folder_of_the_same_name_is_evaluated_anew(
    finished: tuple[Path, list[Run], dict[str, Protocol]], tmp_path: Path, recipe: Path
) -> None:
    folder, said = tmp_path / "copy", list[str]()
    for row in ("satnet", "baseline"):
        shutil.copytree(finished[0] / row, folder / row)
    before = collect(folder)["rows"][1]["scores"]["val, sigma 25"]
    shutil.copytree(recipe.parent / "val", tmp_path / "same" / "val")
    shutil.copytree(recipe.parent / "train", tmp_path / "other" / "val")
    runs = plan(recipe, folder, ["satnet"], 2, {})
    ablate(runs, protocols(runs[0].recipe, [tmp_path / "same" / "val"]), "cpu", said.append)
    assert said == [], "the same pictures elsewhere"
    ablate(runs, protocols(runs[0].recipe, [tmp_path / "other" / "val"]), "cpu", said.append)
    assert len(said) == 2
    with pytest.raises(SynergicError, match=r"val, sigma 25: expected the pictures of .*seed-1, got others, of"):
        collect(folder)
    shutil.rmtree(folder / "baseline")
    assert collect(folder)["rows"][0]["scores"]["val, sigma 25"] != before


@pytest.mark.parametrize(("seconds", "side"), [(0.001, 512), (0.1, 256), (5.0, 128)])
def test_slow_networks_are_timed_on_small_pictures(seconds: float, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for global attention: `seconds` for 128 x 128 pixels, and with the square of the area."""
    clock, called = [0.0], list[int]()

    class Slow(Restorer):
        def __call__(self, image: np.ndarray, **_: Any) -> np.ndarray:
            called.append(len(image))
            clock[0] += seconds * (len(image) / 128) ** 4
            return image

    monkeypatch.setattr("synergic.evaluate.time.perf_counter", lambda: clock[0])
    found = timing(Slow(tiny_network(), tiny_card(), torch.device("cpu"), torch.float32))
    assert found["timed_side"] == side
    assert called[-3:] == [side] * 3
    assert found["seconds_per_megapixel"] == pytest.approx(seconds * (side / 128) ** 4 * 1e6 / side**2)
    assert clock[0] < 100


def test_a_small_picture_is_named_in_the_table(finished: tuple[Path, list[Run], dict[str, Protocol]]) -> None:
    found = collect(finished[0])
    assert " x " not in table(found)
    found["rows"][0]["timed_side"] = 128
    assert "(128 x 128)" in table(found).splitlines()[2]


def test_nothing_is_printed_as_less_than_nothing() -> None:
    assert plus_minus([-0.004, -0.002]) == "0.00 ± 0.00"
    assert plus_minus([-0.006]) == "-0.01"


def test_an_interrupted_run_goes_on(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import synergic.train as module

    whole, halved = (plan(recipe, tmp_path / name, ["satnet"], 1, {}) for name in ("whole", "halved"))
    log, said = module.State.log, list[str]()
    ablate(whole, {}, "cpu")

    def stops(state: module.State, **values: float) -> None:
        if state.step == 4:
            raise KeyboardInterrupt
        log(state, **values)

    monkeypatch.setattr(module.State, "log", stops)
    with pytest.raises(KeyboardInterrupt):
        ablate(halved, {}, "cpu", said.append)
    with pytest.raises(SynergicError, match="expected finished runs, found none"):
        collect(tmp_path / "halved")
    monkeypatch.setattr(module.State, "log", log)
    ablate(halved, {}, "cpu", said.append)
    assert said == [f"[1/1] SAT-Net, seed 1: training from step {step} to 4" for step in (0, 2)]
    one, other = (load_weights(runs[0].folder / "weights.safetensors")[0].state_dict() for runs in (whole, halved))
    assert [key for key in one if not one[key].equal(other[key])] == []


def test_a_run_as_long_as_a_time_is_finished_once(recipe: Path, tmp_path: Path) -> None:
    runs, said = plan(recipe, tmp_path, ["satnet"], 1, {"steps": "1000000", "seconds": "1.5"}), list[str]()
    for _ in range(2):
        ablate(runs, {}, "cpu", said.append)
    assert said == ["[1/1] SAT-Net, seed 1: training from step 0 to 1.5 s"]


def test_processes_fill_one_folder(recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "synergic", "ablate", str(recipe), "-o", str(tmp_path), "--seeds=1"]
    command += ["--set", "steps=2", "--accelerator=cpu", "--row", "satnet", "--row", "without-local"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sorted(line for text in said for line in text.splitlines() if "training from" in line) == [
        "[1/2] SAT-Net, seed 1: training from step 0 to 2",
        "[2/2] w/o LA, seed 1: training from step 0 to 2",
    ], "each by one of them"
    found = json.loads((tmp_path / "results.json").read_text())
    assert [row["row"] for row in found["rows"]] == ["without-local", "satnet"]
    titles = [line.split(" | ")[0].strip("| ") for line in (tmp_path / "table.md").read_text().splitlines()]
    assert titles[2:4] == ["w/o LA", "SAT-Net"]


def test_what_another_process_is_at_is_left_to_it(recipe: Path, tmp_path: Path) -> None:
    runs = plan(recipe, tmp_path, ["satnet", "without-nonlocal"], 1, {"steps": "2"})
    runs[0].folder.mkdir(parents=True)
    said = list[str]()
    with FileLock(runs[0].folder / "lock"):
        ablate(runs, {}, "cpu", said.append)
    assert said == [
        "[1/2] SAT-Net, seed 1: another process is at it; left to that one",
        "[2/2] w/o NLA, seed 1: training from step 0 to 2",
    ]
    assert [row["row"] for row in collect(tmp_path)["rows"]] == ["without-nonlocal"]
    ablate(runs, {}, "cpu", said.append)
    assert said[2:] == ["[1/2] SAT-Net, seed 1: training from step 0 to 2"], "nobody is at it any more"


def test_a_run_that_is_finished_meanwhile_is_in_the_table(
    finished: tuple[Path, list[Run], dict[str, Protocol]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished[0] / "satnet", tmp_path / "satnet")
    drawn = list[int]()

    def slowly(found: dict[str, Any], _: Path) -> None:
        drawn.append(len(found["rows"]))
        shutil.copytree(finished[0] / "baseline", tmp_path / "baseline", dirs_exist_ok=True)

    monkeypatch.setattr("synergic.ablation.draw", slowly)
    assert "| baseline (pixel-wise) |" in write_results(tmp_path)
    assert drawn == [1, 2]


def test_runs_of_two_recipes_are_not_put_in_one_table(
    finished: tuple[Path, list[Run], dict[str, Protocol]], recipe: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished[0] / "satnet", tmp_path / "satnet")
    ablate(plan(recipe, tmp_path, ["without-local"], 1, {"steps": "2"}), {}, "cpu")
    with pytest.raises(SynergicError, match="seed-1: steps: expected the same in every run, got [24]"):
        collect(tmp_path)


@pytest.mark.parametrize(("row", "seed"), [("satnet", 3), ("without-local", 1)])
def test_networks_of_two_recipes_are_not_put_in_one_table(
    finished: tuple[Path, list[Run], dict[str, Protocol]], recipe: Path, tmp_path: Path, row: str, seed: int
) -> None:
    """Neither in one row nor in two, but for what the rows vary."""
    shutil.copytree(finished[0] / "satnet", tmp_path / "satnet")
    collect(tmp_path)
    ablate(plan(recipe, tmp_path, [row], 1, {"network.depth": "2", "seed": str(seed)}), {}, "cpu")
    with pytest.raises(SynergicError, match=r"seed-\d: network.depth: expected the same in every run, got [12]"):
        collect(tmp_path)


def test_what_cannot_be_evaluated_is_refused_before_the_first_run(recipe: Path, tmp_path: Path) -> None:
    save(tmp_path / "deep" / "a.png", np.zeros((40, 40, 1), np.uint16))
    for folder, line in (("missing", "expected a picture or a folder"), ("deep", "expected an 8-bit picture")):
        runs = plan(recipe, tmp_path / "out", ["satnet"], 1, {})
        with pytest.raises(SynergicError, match=line):
            ablate(runs, protocols(runs[0].recipe, [tmp_path / folder]), "cpu")
    assert not (tmp_path / "out").exists()


def test_other_pictures_in_the_same_folder_are_evaluated_anew(
    finished: tuple[Path, list[Run], dict[str, Protocol]], tmp_path: Path, recipe: Path
) -> None:
    folder, said = tmp_path / "copy", list[str]()
    shutil.copytree(finished[0] / "satnet", folder / "satnet")
    shutil.copytree(recipe.parent / "val", tmp_path / "val")
    runs = plan(recipe, folder, ["satnet"], 1, {})
    wanted = protocols(runs[0].recipe, [tmp_path / "val"])
    ablate(runs, wanted, "cpu", said.append)
    assert said == []
    for path in list((tmp_path / "val").iterdir()):
        pixels = read_pixels(path)
        path.unlink()
        save(path, 255 - pixels)
    ablate(runs, wanted, "cpu", said.append)
    assert len(said) == 1
    assert said[0].startswith("[1/1] SAT-Net, seed 1: val, sigma 25: ")


def test_a_run_that_was_killed_before_its_weights_goes_on(recipe: Path, tmp_path: Path) -> None:
    runs, said = plan(recipe, tmp_path, ["satnet"], 1, {}), list[str]()
    runs[0].folder.mkdir(parents=True)
    whole = tmp_path / "whole" / "satnet" / "seed-1"
    ablate(plan(recipe, tmp_path / "whole", ["satnet"], 1, {}), {}, "cpu")
    shutil.copyfile(whole / "state.safetensors", runs[0].folder / "state.safetensors")
    ablate(runs, {}, "cpu", said.append)
    assert said == ["[1/1] SAT-Net, seed 1: training from step 0 to 4"]
    assert load_weights(runs[0].folder / "weights.safetensors")[1] == load_weights(whole / "weights.safetensors")[1]


def test_runs_from_before_a_key_was_there_still_count(
    finished: tuple[Path, list[Run], dict[str, Protocol]], tmp_path: Path
) -> None:
    folder = tmp_path / "satnet" / "seed-1"
    shutil.copytree(finished[0] / "satnet" / "seed-1", folder)
    network, card = load_weights(folder / "weights.safetensors")
    older = {key: value for key, value in card.recipe.items() if key != "patterns"}
    card = replace(card, recipe=older)
    save_weights(folder / "weights.safetensors", network, card)
    shutil.copytree(finished[0] / "baseline", tmp_path / "baseline")
    assert [row["row"] for row in collect(tmp_path)["rows"]] == ["baseline", "satnet"]
    run = next(run for run in finished[1] if run.row == "satnet")
    check_recipe(run.recipe, card, folder, PLACES)
    with pytest.raises(SynergicError, match=r"patterns: expected 0.0 as it began, got 0.5"):
        check_recipe(replace(run.recipe, patterns=0.5), card, folder, PLACES)


def test_the_command(recipe: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("ablate", recipe, "-o", tmp_path / "out", "--seeds", 1, "--accelerator", "cpu", "--set", "steps=2")
    code, out, err = call(capsys, monkeypatch, *command, "--row", "satnet", "--sigma", 20)
    assert (code, err) == (0, "")
    assert "[1/1] SAT-Net, seed 1: training from step 0 to 2" in out
    assert "| SAT-Net |     1 |" in out
    code, out, _ = call(capsys, monkeypatch, *command, "--row", "patch_size=5")
    assert code == 0
    assert "| patch_size=5 |" in out
    assert "| SAT-Net      |" in out, "the table holds whatever is finished"
    with FileLock(tmp_path / "out" / "satnet" / "seed-1" / "lock"):
        code, out, err = call(capsys, monkeypatch, *command, "--row", "satnet", "--sigma", 20)
    assert (code, err) == (0, "")
    assert "| SAT-Net      |" in out, "what is finished already"
    elsewhere = ("ablate", recipe, "-o", tmp_path / "elsewhere", "--seeds", 1, "--row", "satnet", "--set", "steps=2")
    (tmp_path / "elsewhere" / "satnet" / "seed-1").mkdir(parents=True)
    with FileLock(tmp_path / "elsewhere" / "satnet" / "seed-1" / "lock"):
        said = call(capsys, monkeypatch, *elsewhere)
    assert said == (0, "[1/1] SAT-Net, seed 1: another process is at it; left to that one\n", "")
    photo = (
        "ablate",
        RECIPES / "photo.toml",
        "--set",
        "init=none",
        "--row",
        "satnet",
        "-o",
        tmp_path / "photo",
        "--data",
        tmp_path / "nowhere",
    )
    code, _, err = call(capsys, monkeypatch, *photo, "--data", tmp_path / "nowhere")
    assert (code, err) == (2, "synergic: --data: the recipe's task is photo, judged by validation; leave it out\n")
    code, _, err = call(capsys, monkeypatch, *command, "--quality", 10)
    assert (code, err) == (2, "synergic: --quality: the recipe's task is denoise; leave it out\n")
