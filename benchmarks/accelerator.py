"""Speed on a GPU: `python benchmarks/accelerator.py -o DIR`.

Each figure is the median of several times, with the device waited for, and its share of what the device does at best:
of its matrix products in bfloat16, and of 64-channel convolutions. DIR gets accelerator.json and accelerator.md.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from networks import convolutions_flop, dncnn, dncnn_flop, eight_convolutions, satnet_flop
from torch import Tensor, nn

from synergic import Restorer
from synergic.attention import patch_attention
from synergic.cells import attend_cells
from synergic.hardware import describe, pick_device
from synergic.network import BASIC, HALF, QUERIES_AT_ONCE, SATNet, SATNetConfig, fold_batch_norm
from synergic.patches import pad_to_grid
from synergic.train import log_mse

Row = dict[str, Any]


class Bench:
    """A device, and what was measured on it."""

    def __init__(self, device: torch.device, rounds: int) -> None:
        self.device, self.rounds, self.rows = device, rounds, list[Row]()

    def seconds(self, call: Callable[[], object]) -> float:
        """Median of `rounds` calls, after two that do not count."""
        times = []
        for _ in range(self.rounds + 2):
            begun = time.perf_counter()
            call()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            times.append(time.perf_counter() - begun)
        return median(times[2:])

    def measure(self, name: str, call: Callable[[], object], flop: float, pixels: int = 0) -> None:
        """One row. What the device cannot do is written down as its message."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            seconds = self.seconds(call)
        except RuntimeError as error:
            self.rows.append({"name": name, "error": str(error).splitlines()[0][:200]})
        else:
            row = {"name": name, "ms": 1e3 * seconds, "tflops": flop / seconds / 1e12, "mpx_per_second": 0.0, "mb": 0}
            row["mpx_per_second"] = pixels / seconds / 1e6
            if self.device.type == "cuda":
                row["mb"] = torch.cuda.max_memory_allocated(self.device) >> 20
            self.rows.append(row)
        print(json.dumps(self.rows[-1]), flush=True)


def peaks(bench: Bench, size: int, side: int) -> None:
    """A square matrix product, and convolutions on a map of side x side."""
    a, b = torch.randn(2, size, size, device=bench.device, dtype=torch.bfloat16)
    bench.measure("matrix product", lambda: a @ b, 2 * size**3)
    x = torch.randn(1, 64, side, side, device=bench.device, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    layers = eight_convolutions().to(x)
    bench.measure("convolutions", lambda: layers(x), convolutions_flop(side**2))


def attention(bench: Bench, side: int) -> None:
    """Patches of 7 at stride 4 on a whole map, as a device has them and by cells, by how many queries at once."""
    q, k, v = (torch.randn(1, side, side, 16, device=bench.device, dtype=torch.bfloat16) for _ in range(3))
    flop = 4 * (side // 4) ** 4 * 7 * 7 * 16

    queries, keys, values = (pad_to_grid(x, 7, 4) for x in (q * 0.02, k, v))

    for chunk in (QUERIES_AT_ONCE, 8 * QUERIES_AT_ONCE):
        name = f"attention of a {side} x {side} map, {chunk} queries at once"
        bench.measure(name, partial(patch_attention, q, k, v, scale=0.02, chunk=chunk), flop)
        bench.measure(f"{name}, by cells", partial(attend_cells, queries, keys, values, 7, 4, chunk=chunk), flop)


def network(bench: Bench, net: nn.Module, name: str, flop: Callable[[int], float], side: int, compiled: bool) -> None:
    """A gray picture of side x side: as it is, as a CUDA graph, compiled."""
    net.eval().to(bench.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.rand(1, 1, side, side, device=bench.device)

    def run(what: Callable[..., Tensor] = net) -> Tensor:
        with torch.autocast(bench.device.type, torch.bfloat16, cache_enabled=False):
            return what(x)

    name = f"{name}, {side} x {side}"
    bench.measure(name, run, flop(side**2), side**2)
    if bench.device.type == "cuda":
        bench.measure(f"{name}, CUDA graph", captured(run), flop(side**2), side**2)
    if compiled:
        fast = torch.compile(net)
        bench.measure(f"{name}, compiled", lambda: run(fast), flop(side**2), side**2)


def captured(call: Callable[[], object]) -> Callable[[], None]:
    """The call as a CUDA graph, which the first one captures."""
    graphs: list[torch.cuda.CUDAGraph] = []

    def replay() -> None:
        if not graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                call()
            graphs.append(graph)
        graphs[0].replay()

    return replay


def training(bench: Bench, config: SATNetConfig, batch: int, side: int) -> None:
    """Forward and backward of a batch."""
    net = SATNet(config).to(bench.device)
    degraded, clean = torch.rand(2, batch, 1, side, side, device=bench.device)

    def step() -> None:
        with torch.autocast(bench.device.type, torch.bfloat16):
            restored = net(degraded)
        log_mse(restored.float(), clean).backward()

    pixels = batch * side**2
    bench.measure(f"training, {batch} x {side} x {side}", step, 3 * batch * satnet_flop(config, side**2), pixels)


def restoring(bench: Bench, weights: str, side: int) -> None:
    """A picture of side x side as a user restores it, from the array to the array, by side of the tiles."""
    shape = (side, side) if weights.startswith("gray") else (side, side, 3)
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for tile in (768, 1152, 2560):
        restorer = Restorer.from_pretrained(weights, device=str(bench.device), tile_size=tile)
        flop = satnet_flop(restorer.network.config, side**2)
        name = f"restoring {side} x {side} with {weights}, tiles of {tile}"
        bench.measure(name, partial(restorer, picture), flop, side**2)


def table(rows: list[Row]) -> str:
    """The rows in Markdown, with their shares of the peaks."""
    peak = {row["name"]: row.get("tflops", float("nan")) for row in rows[:2]}
    lines = ["| | ms | Mpx/s | TFLOP/s | of products | of convolutions | MB |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['name']} | {row['error']} | | | | | |")
            continue
        shares = (f"{row['tflops'] / peak[name]:.0%}" for name in ("matrix product", "convolutions"))
        speed = f"{row['mpx_per_second']:.4g}" if row["mpx_per_second"] else ""
        cells = [row["name"], f"{row['ms']:.4g}", speed, f"{row['tflops']:.3g}", *shares, str(row["mb"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(out: Path, device: str, rounds: int, weights: list[str], small: bool) -> None:
    """Measure, print, write."""
    bench = Bench(pick_device(device), rounds)
    torch.manual_seed(0)
    with torch.inference_mode():
        peaks(bench, *((64, 32) if small else (8192, 1024)))
        for side in (32,) if small else (128, 256, 512):
            attention(bench, side)
        half, basic = SATNet(HALF), fold_batch_norm(SATNet(BASIC).eval())
        for side in (64,) if small else (256, 512, 1024, 2048):
            network(bench, dncnn(), "DnCNN", dncnn_flop, side, compiled=False)
            network(bench, half, "half edition", lambda n: satnet_flop(HALF, n), side, compiled=side == 1024)
        network(bench, basic, "basic edition", lambda n: satnet_flop(BASIC, n), 32 if small else 512, compiled=False)
    training(bench, HALF, *((2, 32) if small else (32, 160)))
    for name in weights:
        restoring(bench, name, 64 if small else 3464)
    out.mkdir(parents=True, exist_ok=True)
    report = {"hardware": describe(bench.device), "torch": torch.__version__, "rows": bench.rows}
    (out / "accelerator.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "accelerator.md").write_text(table(bench.rows))
    print(table(bench.rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/accelerator"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--small", action="store_true", help="sizes too small to say anything, to see that it runs")
    parser.add_argument("--weights", nargs="*", default=["gray-denoise", "photo"], help="that restore a photograph")
    arguments = parser.parse_args()
    main(arguments.out, arguments.device, arguments.rounds, arguments.weights, arguments.small)
