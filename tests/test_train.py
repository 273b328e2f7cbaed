import csv
import math
import re
import runpy
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import synergic.train as module
from conftest import save, tiny_card, tiny_network, tiny_recipe
from synergic import Restorer, SynergicError
from synergic.data import Crops
from synergic.degradations import JPEG, CameraNoise, GaussianNoise
from synergic.hardware import training_layout
from synergic.images import read_pixels
from synergic.network import zeroed
from synergic.train import (
    Recipe,
    charbonnier,
    learning_rate,
    log_mse,
    read_log,
    read_pictures,
    read_recipe,
    train,
    training_crops,
    validation_batches,
)
from synergic.weights import load_weights, save_weights

Capture = pytest.CaptureFixture[str]
RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """The recipe of a tiny run on random blocks."""
    return tiny_recipe(tmp_path, steps=6, batch_size=4, validate_every=3)


@pytest.fixture
def recipe(recipe_file: Path) -> Recipe:
    """The recipe, read."""
    return read_recipe(recipe_file)


def test_resuming_is_bit_for_bit(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path / "whole", accelerator="cpu")
    train(replace(recipe, validate_every=2), tmp_path / "parts", accelerator="cpu", max_seconds=0)
    assert load_weights(tmp_path / "parts" / "weights.safetensors")[1].steps == 1
    train(recipe, tmp_path / "parts", accelerator="cpu", resume=True)
    for name in ("state", "weights"):
        whole, parts = (load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert [key for key in whole if not torch.equal(whole[key], parts[key])] == [], name
    assert len(whole) > 20


def test_maps_lie_in_memory_as_is_fastest_and_steps_are_the_same(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, losses = [], []

    def watched(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        losses.append(loss := charbonnier(restored, clean))
        return loss

    def look(convolution: torch.nn.Module, _: object, made: torch.Tensor) -> None:
        if isinstance(convolution, torch.nn.Conv2d) and convolution.weight.shape[2:] == (3, 3):
            seen.append((convolution.weight.is_contiguous(), made.is_contiguous()))

    monkeypatch.setitem(module.LOSSES, recipe.loss, watched)
    for capability, plain in (("AVX2", True), ("AVX512", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        with torch.nn.modules.module.register_module_forward_hook(look):
            train(recipe, tmp_path / capability, accelerator="cpu", precision="float32")
        assert set(seen) == {(plain, plain)}
        seen.clear()
    one, other = torch.stack(losses).view(2, recipe.steps)
    assert (one - other).abs().max() < 1e-5 * one.max()
    assert training_layout(torch.device("cuda"), torch.float32) == torch.channels_last
    assert training_layout(torch.device("mps"), torch.float32) == torch.contiguous_format
    assert training_layout(torch.device("cpu"), torch.bfloat16) == torch.channels_last


def test_validation_pictures_may_be_smaller_than_its_crops(recipe: Recipe, tmp_path: Path) -> None:
    shapes = {tuple(clean.shape) for _, clean, _ in validation_batches(recipe)}
    assert shapes == {(8, 1, 40, 40)}
    save(recipe.validation / "wide.png", np.zeros((30, 200, 1), np.uint8))
    assert {tuple(clean.shape) for _, clean, _ in validation_batches(recipe)} == {(8, 1, 30, 30)}
    shapes = {tuple(clean.shape) for _, clean, _ in validation_batches(replace(recipe, validation=recipe.pictures))}
    assert shapes == {(8, 1, 128, 128)}


def test_a_time_limit_counts_over_validations(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    monkeypatch.setattr("synergic.train.time", SimpleNamespace(monotonic=lambda: next(ticks) / 100))
    train(replace(recipe, steps=5000, validate_every=10), tmp_path / "run", accelerator="cpu", max_seconds=1)
    assert 20 < load_weights(tmp_path / "run" / "weights.safetensors")[1].steps < 5000


def test_workers_prepare_the_same_batches(recipe: Recipe, tmp_path: Path) -> None:
    for workers in (0, 1):
        train(replace(recipe, workers=workers), tmp_path / str(workers), accelerator="cpu")
    alone, helped = (load_file(tmp_path / str(workers) / "weights.safetensors") for workers in (0, 1))
    assert [key for key in alone if not torch.equal(alone[key], helped[key])] == []


def losses(run: Path) -> list[float]:
    with (run / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


STEPS = {"steps": "20", "validate_every": "1"}


@pytest.mark.parametrize(("optimizer", "tolerance"), [("adamw", 1e-6), ("muon", 1e-4)])  # Muon may compute in bfloat16
def test_two_processes_train_as_one(recipe_file: Path, tmp_path: Path, optimizer: str, tolerance: float) -> None:
    """The same global batch, and after each of 20 steps the same loss; one process goes on where the two stopped."""
    together, alone, changes = tmp_path / "together", tmp_path / "alone", STEPS | {"optimizer": optimizer}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command = ["synergic", "train", str(recipe_file), "-o", str(together), "--accelerator=cpu", "--precision=float32"]
    command += ["--max-seconds=3600", *(f"--set={key}={value}" for key, value in changes.items())]
    subprocess.run([*torchrun, *command, "--set=accumulate=2"], check=True)
    one_process = partial(train, accelerator="cpu", precision="float32")
    one_process(read_recipe(recipe_file, changes), alone)
    assert len(losses(alone)) == 20
    assert losses(together) == pytest.approx(losses(alone), rel=0, abs=tolerance)
    assert load_weights(together / "weights.safetensors")[1].hardware.startswith("2 processes, each ")
    for run in (together, alone):
        one_process(read_recipe(recipe_file, changes | {"steps": "22"}), run, resume=True)
    assert losses(together) == pytest.approx(losses(alone), rel=0, abs=tolerance)


@pytest.mark.parametrize(("optimizer", "tolerance"), [("adamw", 1e-6), ("muon", 1e-4)])  # Muon may compute in bfloat16
def test_a_batch_in_parts_is_the_same_step(
    recipe_file: Path, tmp_path: Path, optimizer: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "validation_batches", partial(module.validation_batches, batches=1))  # not looked at
    changes = STEPS | {"optimizer": optimizer}
    for accumulate in ("1", "4"):
        parts = read_recipe(recipe_file, changes | {"accumulate": accumulate})
        train(parts, tmp_path / accumulate, accelerator="cpu", precision="float32")
    assert losses(tmp_path / "4") == pytest.approx(losses(tmp_path / "1"), rel=0, abs=tolerance)


@pytest.mark.parametrize("accumulate", [0, 3, 8])
def test_a_batch_that_does_not_split_is_refused(recipe: Recipe, tmp_path: Path, accumulate: int) -> None:
    with pytest.raises(SynergicError, match=f"batch_size: expected a multiple of 1 processes.*= {accumulate}, got 4"):
        train(replace(recipe, accumulate=accumulate), tmp_path / "run", accelerator="cpu")


def test_a_run_leaves_weights_log_and_events(recipe: Recipe, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    train(recipe, run, accelerator="cpu")
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["3", "6"]
    assert all(float(row["steps_per_second"]) > 0 and 5 < float(row["validation_psnr"]) < 60 for row in rows)
    assert capsys.readouterr().out.count("validation_psnr") == 2
    events = EventAccumulator(str(run))
    events.Reload()
    logged = events.Scalars("validation_psnr")
    assert [event.value for event in logged] == pytest.approx([float(row["validation_psnr"]) for row in rows], abs=1e-4)
    card = Restorer.from_pretrained(run / "weights.safetensors", device="cpu").card
    assert (card.name, card.steps, card.data, card.licence) == ("tiny", 6, "random blocks", "CC0")
    assert card.recipe["seed"] == 1
    assert card.recipe["network"]["channels"] == 8
    assert sorted(path.suffix for path in run.iterdir() if "tfevents" not in path.name) == [
        ".csv",
        ".safetensors",
        ".safetensors",
    ]


def test_training_learns(recipe: Recipe, tmp_path: Path) -> None:
    longer = replace(recipe, steps=150, validate_every=150, learning_rate=5e-3, ema=0.9, warmup=10)
    train(longer, tmp_path / "run", accelerator="cpu")
    with (tmp_path / "run" / "log.csv").open() as file:
        psnr = float(list(csv.DictReader(file))[-1]["validation_psnr"])
    assert psnr > 20.2 + 2, "noise of sigma 20-30 alone gives 20.2 dB"


def test_training_learns_from_pairs(recipe: Recipe, tmp_path: Path) -> None:
    """Of pictures that are darker by 40: no noise to remove, but a shade to restore."""
    for folder in ("train", "val"):
        for path in (tmp_path / folder).iterdir():
            darker = np.maximum(read_pixels(path).astype(int) - 40, 0).astype(np.uint8)
            save(tmp_path / f"dark-{folder}" / path.name, darker)
    pairs = replace(recipe, pairs=tmp_path / "dark-train", validation_pairs=tmp_path / "dark-val")
    train(replace(pairs, steps=60, validate_every=30, learning_rate=5e-3, ema=0.5), tmp_path / "run", accelerator="cpu")
    with (tmp_path / "run" / "log.csv").open() as file:
        psnr = float(list(csv.DictReader(file))[-1]["validation_psnr"])
    assert psnr > 16.6 + 4, "the dark pictures have 16.6 dB"
    card = load_weights(tmp_path / "run" / "weights.safetensors")[1]
    assert card.recipe["pairs"] == str(tmp_path / "dark-train")


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = tmp_path / "run", iter(range(100))

    def breaks(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        return charbonnier(restored, clean) * (float("nan") if next(calls) == 4 else 1)

    monkeypatch.setitem(module.LOSSES, recipe.loss, breaks)
    with pytest.raises(SynergicError, match=r"step 4: expected a finite loss, got nan .* --resume"):
        train(recipe, run, accelerator="cpu")
    monkeypatch.setitem(module.LOSSES, recipe.loss, lambda *given: charbonnier(*given) * float("nan"))
    with pytest.raises(SynergicError, match=r"step 0: expected a finite loss, got nan .*; start anew with a lower"):
        train(recipe, tmp_path / "new", accelerator="cpu")
    assert load_weights(run / "weights.safetensors")[1].steps == 3
    assert all(tensor.isfinite().all() for tensor in load_file(run / "state.safetensors").values())


def test_a_run_is_not_overwritten_and_a_missing_one_not_resumed(recipe: Recipe, tmp_path: Path) -> None:
    short = replace(recipe, steps=1)
    train(short, tmp_path / "run", accelerator="cpu")
    with pytest.raises(SynergicError, match="pass --resume or another -o"):
        train(short, tmp_path / "run", accelerator="cpu")
    with pytest.raises(SynergicError, match="expected a training state to resume, found none"):
        train(short, tmp_path / "other", accelerator="cpu", resume=True)


def test_weights_that_another_run_has_left_are_kept(recipe: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "weights.safetensors").write_bytes(b"somebody's")
    with pytest.raises(SynergicError, match="expected a new folder, got one with weights.safetensors; pass --resume"):
        train(recipe, run, accelerator="cpu")
    assert (run / "weights.safetensors").read_bytes() == b"somebody's"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SynergicError, match="file: expected a folder, got a file; choose another"):
        train(recipe, tmp_path / "file", accelerator="cpu")


def test_a_run_goes_on_by_its_own_recipe(recipe: Recipe, tmp_path: Path) -> None:
    """How long and how fast may change, and where its pictures lie: not what is learnt."""
    train(recipe, tmp_path / "run", accelerator="cpu", max_seconds=0)
    other = replace(recipe.network, similarity_scale=0.7)
    for changes, line in (
        ({"loss": "mse"}, "loss: expected 'charbonnier' as it began, got 'mse'; pass another -o"),
        ({"seed": 5}, "seed: expected 1 as it began, got 5"),
        ({"network": other}, "network.similarity_scale: expected .* as it began, got 0.7"),
        ({"degradation": GaussianNoise(sigma_max=31)}, "degradation.sigma_m"),
    ):
        with pytest.raises(SynergicError, match=line):
            train(replace(recipe, **changes), tmp_path / "run", accelerator="cpu", resume=True)
    free = replace(
        recipe, steps=2, learning_rate=1e-4, clip=2.0, pictures=recipe.validation, crop_size=recipe.crop_size
    )
    train(free, tmp_path / "run", accelerator="cpu", resume=True)
    assert load_weights(tmp_path / "run" / "weights.safetensors")[1].steps == 2


@pytest.mark.parametrize("finished", ["the first state", "the first weights", "the last state", "the last weights"])
def test_a_run_killed_while_it_saves_goes_on(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: str
) -> None:
    train(recipe, tmp_path / "first", accelerator="cpu")
    others = replace(
        recipe, init=str(tmp_path / "first" / "weights.safetensors"), steps=2, validate_every=1, data="others"
    )
    train(others, tmp_path / "whole", accelerator="cpu")
    name = "save_weights" if "state" in finished else "write_text"
    original, saves = getattr(module, name), count(1)

    def killed(*given: Any, **options: Any) -> Any:
        if next(saves) == (1 if "first" in finished else 2):
            raise KeyboardInterrupt
        return original(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, killed)
        with pytest.raises(KeyboardInterrupt):
            train(others, tmp_path / "run", accelerator="cpu")
    train(others, tmp_path / "run", accelerator="cpu", resume=True)
    (whole, of_whole), (run, of_run) = (load_weights(tmp_path / f / "weights.safetensors") for f in ("whole", "run"))
    assert all(torch.equal(run.state_dict()[key], tensor) for key, tensor in whole.state_dict().items())
    assert replace(of_run, seconds=of_whole.seconds) == of_whole
    assert of_run.data == f"{recipe.data}; others"
    assert [row["step"] for row in read_log(tmp_path / "run")] == ["1", "2"]


def test_a_run_killed_before_its_log_was_written_writes_it(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path, accelerator="cpu")
    log = tmp_path / "log.csv"
    whole = log.read_text()
    log.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    train(recipe, tmp_path, accelerator="cpu", resume=True)
    assert log.read_text() == whole
    log.write_text("".join(whole.splitlines(keepends=True)[:-1]) + "6,1e-")  # as an older version might have left it
    train(recipe, tmp_path, accelerator="cpu", resume=True)
    assert log.read_text() == whole
    log.unlink()
    train(recipe, tmp_path, accelerator="cpu", resume=True)
    assert log.read_text().splitlines() == [whole.splitlines()[0], whole.splitlines()[-1]]


def test_init_takes_the_tensors_that_fit(
    recipe: Recipe, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count()
    monkeypatch.setattr("synergic.train.time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    train(replace(recipe, steps=1), tmp_path / "first", accelerator="cpu")
    weights = tmp_path / "first" / "weights.safetensors"
    colour = replace(recipe, steps=1, network=replace(recipe.network, colors=3), init=str(weights))
    capsys.readouterr()
    train(replace(colour, learning_rate=0.0), tmp_path / "second", accelerator="cpu")
    line = next(line for line in capsys.readouterr().out.split("\n") if "fresh" in line)
    assert line.endswith("fresh: head.weight, tail.bias, tail.weight")
    first, second = (load_file(tmp_path / run / "weights.safetensors") for run in ("first", "second"))
    key = "blocks.0.extraction.0.conv1.weight"
    assert torch.equal(first[key], second[key])
    cards = [load_weights(tmp_path / run / "weights.safetensors")[1] for run in ("first", "second")]
    assert [card.steps for card in cards] == [1, 2]
    assert cards[1].seconds > cards[0].seconds
    assert cards[1].hardware == cards[0].hardware, "one machine is named once"


def test_frozen_norms_keep_their_statistics(recipe: Recipe, tmp_path: Path) -> None:
    normalised = replace(recipe, network=replace(recipe.network, extraction="plain"))
    train(normalised, tmp_path / "first", accelerator="cpu")
    first = str(tmp_path / "first" / "weights.safetensors")
    kept = {}
    for frozen in (True, False):
        again = replace(normalised, init=first, frozen_norm=frozen, learning_rate=0.01, warmup=0)
        train(again, tmp_path / str(frozen), accelerator="cpu")
        pairs = zip(
            *(load_weights(w)[0].named_buffers() for w in (first, tmp_path / str(frozen) / "weights.safetensors")),
            strict=True,
        )
        kept[frozen] = [torch.equal(one, other) for (_, one), (_, other) in pairs]
    assert all(kept[True])
    assert not any(kept[False])
    moved, before = (load_weights(w)[0].head.weight for w in (tmp_path / "True" / "weights.safetensors", first))
    assert not torch.equal(moved, before)


def test_a_card_names_every_machine_and_all_pictures(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {
        "first": ("stripes", "CC0; MIT"),
        "second": ("my photographs", "all rights reserved"),
        "third": ("stripes", "MIT"),
    }
    for name, init in (("first", None), ("second", "first"), ("third", "second")):
        weights = str(tmp_path / init / "weights.safetensors") if init else None
        data, licence = seen[name]
        own = replace(recipe, steps=2, validate_every=1, init=weights, data=data, licence=licence)
        for part, options in (("a", {"max_seconds": 0.0}), ("b", {"resume": True})):
            monkeypatch.setattr("synergic.train.describe", lambda _, here=f"{name} {part}": here)
            train(own, tmp_path / name, accelerator="cpu", **options)
    card = load_weights(tmp_path / "third" / "weights.safetensors")[1]
    assert card.hardware == "first a; first b; second a; second b; third a; third b"
    assert card.data == "stripes; my photographs"
    assert card.licence == "CC0; MIT; all rights reserved"


def test_learning_rate_by_hand(recipe: Recipe) -> None:
    trapezoid = replace(recipe, steps=100, warmup=10, cooldown=0.4, learning_rate=1.0)
    rates = [learning_rate(trapezoid, step) for step in (0, 4, 9, 60, 80, 100)]
    assert rates == pytest.approx([0.1, 0.5, 1, 1, 0.5, 0])


def test_the_learning_rate_falls_with_time_where_a_run_has_seconds(recipe: Recipe) -> None:
    lent = replace(recipe, steps=100, seconds=50.0, warmup=1, cooldown=0.4, learning_rate=1.0)
    rates = [
        learning_rate(lent, step, seconds=seconds) for step, seconds in ((9, 20), (9, 40), (90, 40), (9, 50), (9, 60))
    ]
    assert rates == pytest.approx([1, 0.5, 0.25, 0, 0])


def test_a_run_ends_with_its_seconds(recipe: Recipe, tmp_path: Path) -> None:
    lent = replace(recipe, steps=10**6, seconds=4.0, warmup=1, cooldown=1.0, validate_every=1)
    begun = time.monotonic()
    train(lent, tmp_path, accelerator="cpu", max_seconds=2.0)
    train(lent, tmp_path, accelerator="cpu", resume=True)
    assert time.monotonic() - begun < 60
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["learning_rate"]) / recipe.learning_rate for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0 and rates[-1] == 0
    assert float(rows[-1]["seconds"]) >= 4.0
    assert sum(rate == 0 for rate in rates) == 1, "the step after the time is over is the last"
    train(lent, tmp_path, accelerator="cpu", resume=True)
    assert load_weights(tmp_path / "weights.safetensors")[1].steps == int(rows[-1]["step"]), "it is over"


def test_a_lengthened_run_warms_up_again(recipe: Recipe, tmp_path: Path) -> None:
    """The rate would else jump from zero to its height, and the loss with it."""
    run, steady = tmp_path / "run", replace(recipe, warmup=4, cooldown=1e-9, validate_every=1)
    train(replace(steady, steps=6), run, accelerator="cpu")
    train(replace(steady, steps=9), run, accelerator="cpu", resume=True, max_seconds=0)
    train(replace(steady, steps=9), run, accelerator="cpu", resume=True)  # the schedule is known by now
    with (run / "log.csv").open() as file:
        rates = [float(row["learning_rate"]) / recipe.learning_rate for row in csv.DictReader(file)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.25, 0.5, 0.75])


def test_a_run_lengthened_by_seconds_warms_up_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count()
    monkeypatch.setattr("synergic.train.time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    lent = replace(recipe, steps=10**6, seconds=20.0, warmup=4, cooldown=1e-9, validate_every=1)
    train(lent, tmp_path, accelerator="cpu")
    first = load_weights(tmp_path / "weights.safetensors")[1].steps
    train(replace(lent, seconds=40.0), tmp_path, accelerator="cpu", resume=True)
    with (tmp_path / "log.csv").open() as file:
        rates = [float(row["learning_rate"]) / recipe.learning_rate for row in csv.DictReader(file)]
    assert rates[: first - 1] == pytest.approx([0.25, 0.5, 0.75, 1, *[1] * 99][: first - 1])
    assert rates[first : first + 3] == pytest.approx([0.25, 0.5, 0.75])


def test_charbonnier_by_hand() -> None:
    restored, clean = torch.tensor([0.0, 3e-3]), torch.zeros(2)
    assert charbonnier(restored, clean).item() == pytest.approx((1e-3 + 10**0.5 * 1e-3) / 2)


def test_log_mse_is_decibels_of_every_crop() -> None:
    clean, error = torch.zeros(2, 1, 4, 4), torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    decibels = -10 / math.log(10) * log_mse(clean + error, clean).item()
    assert decibels == pytest.approx((20 + 40) / 2, abs=0.25)  # the floor takes 0.2 dB of 40
    assert log_mse(clean, clean).item() == pytest.approx(math.log(1e-5))


def test_a_teacher_takes_the_noise_from_the_gradient() -> None:
    clean = torch.zeros(2, 1, 4, 4)
    restored, taught = clean + torch.tensor([0.3, 0.01]).view(2, 1, 1, 1), clean + 0.1
    expected = (math.log(0.2**2 + 0.1**2 + 1e-5) + math.log(0.09**2 + 0.1**2 + 1e-5)) / 2
    assert log_mse(restored, clean, taught).item() == pytest.approx(expected, rel=1e-4)
    alike = taught.clone().requires_grad_()
    log_mse(alike, clean, taught).backward()
    assert alike.grad is not None
    assert alike.grad.abs().max() == 0  # as good as its teacher, it has nothing to learn; from the clean picture it had
    log_mse(alike, clean).backward()
    assert alike.grad.abs().min() > 0.1


def test_a_run_goes_where_its_teacher_is(recipe: Recipe, tmp_path: Path) -> None:
    """This one leaves the noise as it is, which no clean picture would teach."""
    idle = tiny_network(conditioned=False)
    zeroed(idle.tail)
    save_weights(tmp_path / "idle.safetensors", idle, replace(tiny_card(), data="its own", licence="all theirs"))
    recipe = replace(recipe, loss="log_mse", steps=60, warmup=0, validate_every=60, learning_rate=1e-2, ema=0.5)
    degraded, clean, strength = validation_batches(recipe)[0]
    changed = dict[str, float]()
    for name, teacher in (("clean", None), ("taught", str(tmp_path / "idle.safetensors"))):
        train(replace(recipe, teacher=teacher), tmp_path / name, accelerator="cpu")
        network, card = load_weights(tmp_path / name / "weights.safetensors")
        assert card.recipe["teacher"] == teacher
        assert card.data == ("" if teacher is None else "its own; ") + recipe.data
        assert card.licence == ("" if teacher is None else "all theirs; ") + recipe.licence
        with torch.no_grad():
            changed[name] = (network(degraded, strength) - degraded).square().mean().sqrt().item()
    noise = (degraded - clean).square().mean().sqrt().item()
    assert changed["taught"] < 0.25 * noise
    assert changed["clean"] > 0.5 * noise


@pytest.mark.parametrize(
    ("changes", "colors", "message"),
    [
        ({"loss": "charbonnier"}, 1, "loss: expected 'log_mse' with the teacher .*, got 'charbonnier'"),
        ({"task": "photo", "degradation": CameraNoise()}, 1, "task: expected 'denoise' with the teacher"),
        ({}, 3, "network.colors: expected 3 with the teacher"),
    ],
)
def test_teachers_that_cannot_teach(
    recipe: Recipe, tmp_path: Path, changes: dict[str, object], colors: int, message: str
) -> None:
    save_weights(tmp_path / "teacher.safetensors", tiny_network(colors), tiny_card())
    recipe = replace(recipe, teacher=str(tmp_path / "teacher.safetensors"), loss="log_mse")
    with pytest.raises(SynergicError, match=message):
        train(replace(recipe, **changes), tmp_path / "run", accelerator="cpu")  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "log.csv").exists()


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_picture_smaller_than_the_crop_is_refused_by_name(recipe: Recipe, tmp_path: Path, scale: float) -> None:
    for name, side in (("large", 80), ("small", 30)):
        save(tmp_path / "mixed" / f"{name}.png", np.zeros((side, 80, 1), np.uint8))
    recipe = replace(recipe, pictures=tmp_path / "mixed", scales=(1.0, scale), crop_size=round(30 * scale))
    training_crops(recipe)
    at = "; " if scale == 1 else ", 15 pixels at scale 0.5; "
    with pytest.raises(SynergicError, match=rf"mixed: small: .* crop_size of {recipe.crop_size + 1}, got 30 x 80{at}"):
        training_crops(replace(recipe, crop_size=recipe.crop_size + 1))


def test_signal_and_noise_of_gradients(
    recipe: Recipe, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch again and again has no noise, unless a teacher sees other views of it."""
    save_weights(tmp_path / "a.safetensors", tiny_network(), tiny_card())
    gradients = runpy.run_path(str(RECIPES.parent / "training" / "gradients.py"))["main"]
    found = []
    for one_batch in (False, True):
        if one_batch:
            monkeypatch.setattr(Crops, "__getitem__", lambda crops, _, own=Crops.__getitem__: own(crops, 1))
        for teacher in (None, str(tmp_path / "a.safetensors")):
            gradients(recipe, str(tmp_path / "a.safetensors"), teacher, 8)
            told = re.search(r"signal ([\d.]+), noise ([\d.]+), 8 batches", capsys.readouterr().out)
            assert told is not None
            found.append((float(told[1]), float(told[2])))
    (signal, noise), (_, taught), (alone, none), (_, by_views) = found
    assert noise > 0.1 * signal
    assert none == 0
    assert alone == pytest.approx((signal**2 + noise**2) ** 0.5, rel=0.5), "one gradient is signal and noise"
    assert 0 < by_views < taught


@pytest.mark.parametrize(("loss", "least", "most"), [("log_mse", -7, -3), ("mse", 0.001, 0.05), ("l1", 0.03, 0.2)])
def test_a_run_lowers_the_loss_that_its_recipe_names(
    recipe: Recipe, tmp_path: Path, loss: Literal["log_mse", "mse", "l1"], least: float, most: float
) -> None:
    train(replace(recipe, loss=loss), tmp_path / "run", accelerator="cpu")
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert least < losses[-1] < losses[0] < most


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_are_valid(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert recipe.network.conditioned
    assert recipe.steps >= 1000


def test_changes_reach_the_recipe() -> None:
    path = RECIPES / "gray-denoise.toml"
    changed = read_recipe(path, {"steps": "7", "network.depth": "2", "degradation.sigma_max": "50", "name": "mine"})
    assert (changed.steps, changed.network.depth, changed.name) == (7, 2, "mine")
    assert isinstance(changed.degradation, GaussianNoise)
    assert changed.degradation.sigma_max == 50
    assert read_recipe(path, {"edition": "basic"}).network.downscale == 1
    without = read_recipe(path, {"network.nonlocal_attention": "none", "network.window": "none", "init": "none"})
    assert (without.network.nonlocal_attention, without.network.window, without.init) == (None, None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepz": "7"}, "expected a known key, got 'stepz'; did you mean 'steps'?"),
        ({"network.dept": "7"}, "network: expected a known key, got 'dept'; did you mean 'depth'?"),
        ({"degradation.sigma": "7"}, "degradation: expected a known key, got 'sigma'; did you mean 'sigma_m"),
        ({"degradation.sigma_min": "100"}, "degradation: sigma_min: expected at most sigma_max = 75, got 100"),
        ({"edition": "huge"}, "edition: expected one of basic, enhanced, half, got 'huge'"),
        ({"edition": "['half']"}, r"edition: expected one of basic, enhanced, half, got \['half'\]"),
        ({"task": "['denoise']"}, r"task: expected one of denoise, photo, jpeg, got \['denoise'\]"),
        ({"seed": str(2**64)}, "seed: .*less than 18446744073709551616"),
        ({"network.similarity_scale": "5.0"}, "similarity_scale: expected at most 3.75 for pixels, got 5.0"),
        ({"task": "cook"}, "task: expected one of denoise, photo, jpeg, got 'cook'"),
        ({"steps": "many"}, "steps: .*got 'many'"),
        ({"steps": "0"}, "steps: .*greater than or equal to 1, got 0"),
        ({"seconds": "0"}, "seconds: .*greater than 0, got 0"),
        ({"scales": "[]"}, r"scales: .*at least 1 item.*, got \[\]"),
        ({"scales": "[1, 0]"}, "scales.1: .*greater than 0, got 0"),
        ({"batch_size": "0"}, "batch_size: .*greater than or equal to 1, got 0"),
        ({"learning_rate": "inf"}, "learning_rate: .*finite number, got inf"),
        ({"cooldown": "0"}, "cooldown: .*greater than 0, got 0"),
        ({"ema": "1"}, "ema: .*less than 1, got 1"),
        ({"seed": "-1"}, "seed: .*greater than or equal to 0, got -1"),
        ({"validate_every": "0"}, "validate_every: .*greater than or equal to 1, got 0"),
        ({"network": "3"}, "network: expected a table, got 3"),
        ({"steps.x": "1"}, "steps: expected a table, got 6500"),
        ({"degradation.sigma_max": "-5"}, "degradation: sigma_max: .*greater than or equal to 0, got -5"),
        ({"task": "jpeg", "degradation": "{quality_min = 0}"}, "quality_min: .*greater than or equal to 1, got 0"),
    ],
)
def test_recipes_are_read_strictly(changes: dict[str, str], message: str) -> None:
    with pytest.raises(SynergicError, match=message):
        read_recipe(RECIPES / "gray-denoise.toml", changes)


def test_only_whole_devices_train(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(SynergicError, match="accelerator: expected one of auto, cpu, cuda, mps, got 'cpu:0'"):
        train(recipe, tmp_path / "run", accelerator="cpu:0")


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SynergicError, match="recipe.toml: expected a recipe in TOML, got 'utf-8' codec"):
        read_recipe(tmp_path / "recipe.toml")


def test_without_warm_up_the_rate_begins_at_its_height(recipe: Recipe) -> None:
    assert learning_rate(replace(recipe, warmup=0), 0) == recipe.learning_rate


def test_pictures_are_read_at_every_scale(recipe: Recipe) -> None:
    pictures = read_pictures(recipe.pictures, replace(recipe, scales=(1.0, 0.5)))
    assert [pixels.shape for pixels in pictures] == [(160, 160, 1)] * 3 + [(80, 80, 1)] * 3
    quarters = pictures[0].reshape(80, 2, 80, 2, 1).mean((1, 3))
    assert np.abs(quarters - pictures[3]).mean() < 10 < np.abs(quarters - pictures[4]).mean()


def test_the_task_chooses_the_degradation() -> None:
    changes = {"task": "jpeg", "degradation": "{quality_min = 10}"}
    assert read_recipe(RECIPES / "gray-denoise.toml", changes).degradation == JPEG(quality_min=10)
