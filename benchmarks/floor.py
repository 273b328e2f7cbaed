"""How near to this machine's limits: `python benchmarks/floor.py -o DIR`.

Attention against the time that its two matrix products of the plain form take, training against the convolutions of
the same shape, batches against steps, and `synergic restore` on files against the bare network. What is compared is
measured in turns, so that a machine whose speed drifts treats both alike; medians. DIR gets floor.json and floor.md.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from networks import convolutions_flop, eight_convolutions, satnet_flop
from torch import Tensor, nn

from synergic import Restorer
from synergic.attention import patch_attention
from synergic.batch import Options, plan_jobs, restore_files
from synergic.cli import keep_freed_memory
from synergic.data import Crops
from synergic.degradations import GaussianNoise
from synergic.hardware import describe
from synergic.images import Picture, write_picture
from synergic.muon import Muon
from synergic.network import EDITIONS, QUERIES_AT_ONCE, SATNet
from synergic.train import charbonnier

PATCH = 7 * 7 * 16
"""Numbers in a patch."""
Row = dict[str, Any]


def in_turns(rounds: int, **calls: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each call, called one after the other, `rounds` times; a first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begun)
    return {name: median(times[1:]) for name, times in seconds.items()}


def attention_forward(side: int, precision: torch.dtype, rounds: int) -> Row:
    """A map of side x side compared whole, against two products N x 784 x N."""
    q, k, v = (torch.randn(1, side, side, 16).to(precision) for _ in range(3))
    count = (side // 4) ** 2
    patches, weights = torch.randn(count, PATCH).to(precision), torch.rand(count, count).to(precision)
    with torch.inference_mode():
        seconds = in_turns(
            rounds,
            ours=lambda: patch_attention(q, k, v, scale=0.02, chunk=QUERIES_AT_ONCE),
            floor=lambda: (patches @ patches.T, weights @ patches),
        )
    return row(f"attention, forward, {side} x {side}, {str(precision).removeprefix('torch.')}", seconds)


def attention_training(side: int, batch: int, precision: torch.dtype, rounds: int) -> Row:
    """Forward and backward, against three times the forward's products."""
    q, k, v = (torch.randn(batch, side, side, 16).to(precision).requires_grad_() for _ in range(3))
    scale, count = torch.tensor(0.02, requires_grad=True), (side // 4) ** 2
    patches, weights = torch.randn(batch, count, PATCH).to(precision), torch.rand(batch, count, count).to(precision)

    def products() -> None:
        for _ in range(3):
            patches @ patches.mT
            weights @ patches

    seconds = in_turns(
        rounds,
        ours=lambda: patch_attention(q, k, v, scale=scale).backward(torch.ones_like(v)),
        floor=products,
    )
    return row(f"attention, training, {batch} x {side} x {side}, {str(precision).removeprefix('torch.')}", seconds)


def training(batch: int, side: int, rounds: int) -> list[Row]:
    """A step of the half-resolution edition against convolutions of its size, by operations; and making its batch."""
    net, edition = SATNet(EDITIONS["half"]), EDITIONS["half"]
    matrices = [parameter for parameter in net.blocks.parameters() if parameter.ndim > 1]
    optimizer = Muon(matrices, 1e-4, weight_decay=0.0)
    degraded, clean = torch.rand(2, batch, 1, side, side)
    layers = eight_convolutions()
    features = torch.rand(batch, 64, side // 2, side // 2).contiguous(memory_format=torch.channels_last)
    pictures = [np.random.default_rng(0).integers(0, 256, (512, 512, 1), np.uint8)]
    crops = Crops(pictures, GaussianNoise(), crop_size=side, batch_size=batch, seed=0)

    def step(network: nn.Module, given: Tensor, wanted: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            answer = network(given)
        charbonnier(answer, wanted).backward()

    def whole_step() -> None:
        step(net, degraded, clean)
        optimizer.step()
        optimizer.zero_grad()

    seconds = in_turns(
        rounds,
        ours=whole_step,
        floor=lambda: step(layers, features.requires_grad_(), torch.zeros_like(features)),
        data=lambda: crops[0],
    )
    ours = 3 * batch * satnet_flop(edition, side * side)
    convolutions = 3 * convolutions_flop(features[:, 0].numel())
    floor = seconds["floor"] * ours / convolutions  # as long as convolutions would take for as many operations
    name = f"training step, {batch} x {side} x {side}"
    return [
        row(name, {"ours": seconds["ours"], "floor": floor}) | {"gflops": ours / seconds["ours"] / 1e9},
        row(f"{name}: its batch against it", {"ours": seconds["data"], "floor": seconds["ours"]}),
    ]


def files(side: int, count: int, suffix: str, rounds: int) -> Row:
    """`restore_files` on a folder of colour photographs against the network alone on as many pixels."""
    restorer = Restorer.from_pretrained("photo", device="cpu")
    tile = restorer.tile_size
    noise = torch.rand(1, 3, tile, tile)
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.random.default_rng(0).integers(96, 160, (side, side, 3), np.uint8)
        for i in range(count):
            write_picture(Path(folder, "in", f"{i}{suffix}"), Picture(pixels, None, {}, None))
        options = Options(task="photo", device="cpu", overwrite=True, loaded={"photo": restorer})
        jobs = plan_jobs([Path(folder, "in")], Path(folder, "out"))
        with torch.inference_mode():
            seconds = in_turns(
                rounds, ours=lambda: list(restore_files(jobs, options)), floor=lambda: restorer.tensor(noise)
            )
    pixels_restored = count * side * side
    seconds["floor"] *= pixels_restored / tile**2
    name = f"{count} files of {side} x {side}, {suffix[1:]}, against the bare network"
    return row(name, seconds) | {"seconds_per_megapixel": seconds["ours"] / pixels_restored * 1e6}


def row(name: str, seconds: dict[str, float]) -> Row:
    """What was measured, in milliseconds, and how many times the floor it is."""
    ours, floor = seconds["ours"], seconds["floor"]
    return {"name": name, "ms": 1e3 * ours, "floor_ms": 1e3 * floor, "times_floor": ours / floor}


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| | ms | floor, ms | times the floor |", "|---|---|---|---|"]
    for each in rows:
        lines.append(f"| {each['name']} | {each['ms']:.4g} | {each['floor_ms']:.4g} | {each['times_floor']:.3g} |")
    return "\n".join(lines) + "\n"


def main(out: Path, rounds: int, small: bool) -> None:
    """Measure, print, write."""
    keep_freed_memory()  # as the command does
    torch.manual_seed(0)
    rows = []
    for precision in (torch.bfloat16, torch.float32):
        rows += [attention_forward(side, precision, rounds) for side in ((32,) if small else (64, 128, 256))]
        rows += [attention_training(*((32, 2) if small else (64, 16)), precision, rounds)]
    for batch, side in [(2, 32)] if small else [(16, 64), (32, 64), (7, 96)]:
        rows += training(batch, side, rounds)
    for side, count, suffix in (
        [(64, 2, ".jpg")] if small else [(1024, 8, ".jpg"), (1024, 8, ".png"), (3464, 3, ".jpg")]
    ):
        rows.append(files(side, count, suffix, max(1, rounds // 3)))
    out.mkdir(parents=True, exist_ok=True)
    report = {"hardware": describe(torch.device("cpu")), "torch": torch.__version__, "rows": rows}
    (out / "floor.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "floor.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/floor"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="sizes too small to say anything, to see that it runs")
    arguments = parser.parse_args()
    main(arguments.out, arguments.rounds, arguments.small)
