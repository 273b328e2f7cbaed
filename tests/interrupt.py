"""Runs killed at random moments: `python tests/interrupt.py --count 100`.

A run over a folder and a training run are killed (SIGKILL) again and again and taken up with --resume. After every kill
each file under an output's name must be whole; at the end, the same files must be there as after an uninterrupted run,
byte for byte, and the same weights bit for bit. Exit code 1 if not. The runs are forks of this process, which has
imported everything but not used it, so that the kills fall into the work and not into the imports. Linux and macOS.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import synergic.batch
import synergic.cli
import synergic.train
from conftest import tiny_card, tiny_network, tiny_recipe
from synergic.weights import save_weights


def main(count: int, seed: int) -> int:
    """Interrupt both kinds of run `count` times each. Returns the number of broken promises."""
    torch.set_num_threads(1)
    draw = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        broken = [*interrupt_restoring(Path(folder), count, draw), *interrupt_training(Path(folder), count, draw)]
    print("".join(f"  {line}\n" for line in broken), end="")
    return len(broken)


def interrupt_restoring(folder: Path, count: int, draw: np.random.Generator) -> list[str]:
    """Kill runs over a folder. Returns what was broken."""
    source, whole, out = folder / "in", folder / "whole", folder / "out"
    for i, suffix in enumerate([".png", ".tif", ".webp", ".jpg"] * 3):
        path = source / f"{i % 2}" / f"{i}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blocks(draw)).save(path)
    save_weights(folder / "tiny.safetensors", tiny_network(), tiny_card())
    command = ["restore", str(source), "--weights", str(folder / "tiny.safetensors"), "--device", "cpu", "-o"]
    length, _ = run([*command, str(whole)])
    wanted, broken = contents(whole), []

    def check() -> None:
        for name, data in contents(out).items():
            if not Path(name).name.startswith(".synergic-") and data != wanted.get(name):
                broken.append(f"restoring: {name} was not whole after a kill")

    kills, runs = interrupt([*command, str(out), "--resume"], count, length, draw, check, out)
    code = run([*command, str(out), "--resume"])[1]
    if code != 0 or contents(out) != wanted:
        broken.append(f"restoring: exit code {code}, {sorted(contents(out))} in place of {sorted(wanted)}")
    print(f"restoring {len(wanted)} files: {kills} kills in {runs} runs, {len(broken)} broken", flush=True)
    return broken


def interrupt_training(folder: Path, count: int, draw: np.random.Generator) -> list[str]:
    """Kill training runs. Returns what was broken."""
    command = ["train", str(tiny_recipe(folder, steps=12)), "--accelerator", "cpu", "-o"]
    length, _ = run([*command, str(folder / "trained")])
    wanted, broken, out = load_file(folder / "trained" / "weights.safetensors"), [], folder / "run"

    def check() -> None:
        for path in out.glob("*.safetensors"):
            if not path.name.startswith("."):
                load_file(path)  # raises for half a file

    def arguments() -> list[str]:
        return [*command, str(out), *(["--resume"] if (out / "state.safetensors").exists() else [])]

    kills, runs = interrupt(arguments, count, length, draw, check, out)
    code = run(arguments())[1]
    got = load_file(out / "weights.safetensors")
    if code != 0 or got.keys() != wanted.keys() or not all(torch.equal(got[key], wanted[key]) for key in wanted):
        broken.append(f"training: exit code {code}, other weights than those of an uninterrupted run")
    if names(out) != names(folder / "trained"):
        broken.append(f"training: {names(out)} in place of {names(folder / 'trained')}")
    print(f"training 12 steps: {kills} kills in {runs} runs, {len(broken)} broken", flush=True)
    return broken


def interrupt(
    command: list[str] | Callable[[], list[str]],
    count: int,
    length: float,
    draw: np.random.Generator,
    check: Callable[[], None],
    out: Path,
) -> tuple[int, int]:
    """Start runs and kill them at a random moment of an uninterrupted one's `length` in seconds, until `count` kills
    have hit; what a run has finished is deleted, to begin anew. Returns how many kills and runs it took."""
    kills = runs = 0
    while kills < count:
        runs += 1
        _, code = run(command if isinstance(command, list) else command(), kill_after=draw.uniform(0, length))
        kills += code == -signal.SIGKILL
        check()
        if code == 0 and kills < count:
            for path in sorted(out.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    return kills, runs


def run(arguments: list[str], kill_after: float | None = None) -> tuple[float, int]:
    """The command in a fork. Returns seconds and exit code, -9 if it was killed."""
    started, child = time.monotonic(), os.fork()
    if child == 0:
        sys.argv = ["synergic", *arguments]
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        try:
            synergic.cli.main()
        except SystemExit as end:
            os._exit(int(end.code or 0))
        finally:
            os._exit(70)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return time.monotonic() - started, os.waitstatus_to_exitcode(status)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    """What a training run leaves, but for TensorBoard's files, one for each time it was taken up."""
    return sorted(path.name for path in folder.iterdir() if "tfevents" not in path.name)


def blocks(draw: np.random.Generator) -> np.ndarray:
    """Random colours, 160 x 120 pixels."""
    return draw.integers(0, 256, (15, 20, 3), np.uint8).repeat(8, 0).repeat(8, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10, help="kills of each kind of run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.exit(1 if main(arguments.count, arguments.seed) else 0)
