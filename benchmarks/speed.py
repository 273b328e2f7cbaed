"""Speed and quality on this machine: `python benchmarks/speed.py --data SET12 -o DIR [--sizes 256 512 ...]`.

Every contestant lives in a process of its own, and they take turns, two seconds each a round, so that a machine whose
speed drifts treats all alike. Per size: megapixels a second (median, lowest and highest round) as in a folder of such
pictures, GFLOP/s of the plain form, its share of what 64-channel convolutions alone reach, and peak memory. DIR gets
speed.json, speed.md and speed.png: PSNR on Set12 at sigma 25 over megapixels a second.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean, median
from tempfile import mkdtemp
from typing import Any

import networks
import numpy as np
import torch
import torch.nn.functional as F
from skimage.data import camera
from torch import Generator, Tensor, nn

from synergic import Restorer
from synergic.cli import keep_freed_memory, sleep_when_idle
from synergic.compare import classical_methods
from synergic.data import read_folder, to_tensor
from synergic.degradations import add_gaussian_noise
from synergic.engine import OnnxRestorer
from synergic.export import export
from synergic.figures import COLORS, new_figure, save_figure
from synergic.hardware import describe, gains_from_nnpack, pick_precision
from synergic.images import from_float
from synergic.metrics import psnr
from synergic.network import BASIC, ENHANCED, HALF, NonLocalAttention, SATNet, SATNetConfig
from synergic.nnpack import use_nnpack

SIGMA = 25
SLOW = 20.0
"""Seconds a picture beyond which a contestant sits the larger sizes out."""
PAUSE = 0.5
"""Seconds between two contestants: threads of the one may wait in loops for a while, at the cost of the other."""
TURN = 2.0
"""Seconds that a turn lasts at least. The first picture of several does not count: it finds the caches full of what
others left there, for 5 to 15 % of the time of a small one."""
PRECISION = pick_precision("auto", torch.device("cpu"))
BY_NNPACK = gains_from_nnpack(torch.device("cpu"), PRECISION)
KIND = str(PRECISION).removeprefix("torch.")
"""What networks compute in: bfloat16 where the processor does."""
CONVOLUTIONS = f"convolutions alone, {KIND}"
PATCHES = replace(HALF, nonlocal_attention="patch", window=32, halo=8)
"""The half edition with the paper's attention."""
PLAIN, RESIDUAL = (replace(config, window=48) for config in (BASIC, ENHANCED))
"""The paper's editions, in the windows of the weights that go by them."""
FAST = replace(HALF, blocks=3, depth=2)
"""The network of gray-denoise-fast."""

Run = Callable[[np.ndarray], np.ndarray]
"""Degraded float32 H W 1 -> restored."""


@dataclass(frozen=True)
class Contestant:
    """Something that restores a gray picture."""

    make: Callable[[], Run]
    """Sets it up, in its own process."""
    flop: Callable[[int], float] | None = None
    """Operations for a picture of so many pixels, where they are counted."""
    psnr: float | None = None
    """On Set12 at sigma 25: as published; nan is measured here, None has no trained weights."""


def contestants() -> dict[str, Contestant]:
    """Ours, the same in the textbook's form, DnCNN, the classical ones."""
    half, fast, patches, basic, enhanced, whole_half, whole_basic = (
        partial(networks.satnet_flop, config)
        for config in (HALF, FAST, PATCHES, PLAIN, RESIDUAL, replace(PATCHES, window=None), BASIC)
    )
    measured = float("nan")
    return {
        "gray-denoise, through tiles": Contestant(partial(restorer, "gray-denoise"), half, measured),
        "gray-denoise, bare network": Contestant(partial(bare, "gray-denoise"), half),
        "gray-denoise-fast, through tiles": Contestant(partial(restorer, "gray-denoise-fast"), fast, measured),
        "gray-denoise-fast, bare network": Contestant(partial(bare, "gray-denoise-fast"), fast),
        "ONNX Runtime, float32, through tiles": Contestant(onnx_runtime, half, measured),
        "ONNX Runtime, convolutions in int8, through tiles": Contestant(int8, half, measured),
        **({"OpenVINO, through tiles": Contestant(openvino, half, measured)} if find_spec("openvino") else {}),
        "basic edition": Contestant(partial(network, PLAIN), basic),
        "enhanced edition": Contestant(partial(network, RESIDUAL), enhanced),
        "half edition, the paper's patches": Contestant(partial(network, PATCHES), patches),
        "half edition, the paper's patches, textbook form, float32": Contestant(partial(textbook, PATCHES), whole_half),
        "basic edition, textbook form, float32": Contestant(partial(textbook, BASIC), whole_basic),
        "DnCNN, float32": Contestant(
            partial(dncnn, torch.float32, torch.contiguous_format), networks.dncnn_flop, 30.44
        ),
        f"DnCNN, {KIND}, channels-last": Contestant(
            partial(dncnn, PRECISION, torch.channels_last), networks.dncnn_flop, 30.44
        ),
        **({"DnCNN, float32, NNPACK": Contestant(dncnn_by_nnpack, networks.dncnn_flop, 30.44)} if BY_NNPACK else {}),
        CONVOLUTIONS: Contestant(convolutions, lambda pixels: networks.convolutions_flop(pixels // 4)),
        **{name: Contestant(partial(classical, name), psnr=measured) for name in classical_methods()},
    }


def restorer(weights: str) -> Run:
    """Shipped weights as a user runs them."""
    return partial(Restorer.from_pretrained(weights, device="cpu"), sigma=SIGMA)


def bare(weights: str) -> Run:
    """The same without tiles and blending."""
    shipped = Restorer.from_pretrained(weights, device="cpu")
    return lambda picture: shipped.tensor(to_tensor(picture)[None], sigma=SIGMA)[0, 0].numpy()[..., None]


def onnx_runtime() -> Run:
    """The shipped weights as `restore --engine onnx` runs them."""
    return partial(OnnxRestorer.from_file(exported()), sigma=SIGMA)


def exported() -> Path:
    """The shipped weights as an ONNX model."""
    path = Path(mkdtemp()) / "model.onnx"
    export("gray-denoise", path)
    return path


def int8() -> Run:
    """The same with its convolutions quantized, the ranges of their inputs taken from a noisy photograph."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Photograph(CalibrationDataReader):  # type: ignore[misc]  # Any where ONNX Runtime is not installed
        def __init__(self) -> None:
            picture = to_tensor(np.ascontiguousarray(camera())[..., None])
            noisy = (add_gaussian_noise(picture, sigma, Generator().manual_seed(0)) for sigma in (15, SIGMA, 50))
            plane = np.full((1, 1, *picture.shape[1:]), SIGMA / 255, np.float32)
            self.pictures = [{"input": degraded[None].numpy(), "sigma": plane} for degraded in noisy]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.pictures.pop() if self.pictures else None

    whole = exported()
    small = whole.with_name("int8.onnx")
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(whole, small, Photograph(), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"], **types)
    return partial(OnnxRestorer.from_file(small), sigma=SIGMA)


def openvino() -> Run:
    """The ONNX model by OpenVINO, in the precision that it chooses."""
    from openvino import Core

    class Session:
        """As ONNX Runtime's."""

        compiled = Core().compile_model(exported(), "CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()})

        def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [self.compiled(inputs)[name] for name in names]

    restorer = OnnxRestorer.from_file(exported())
    return partial(replace(restorer, model=replace(restorer.model, session=Session())), sigma=SIGMA)


def network(config: SATNetConfig) -> Run:
    """A network with its initial weights."""
    return run_of(SATNet(config), PRECISION)


def textbook(config: SATNetConfig) -> Run:
    """The network as one would first write it: float32, channels first, attention by F.unfold over the whole map."""
    net = SATNet(replace(config, window=None))
    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    net.head.register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
    for module in net.modules():
        if isinstance(module, NonLocalAttention):
            module.attend = textbook_attention  # type: ignore[method-assign]
    return run_of(net, torch.float32)


def textbook_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Patches of 7 at stride 4, all compared with all. N H W E -> N H W E."""
    height, width = q.shape[1:3]
    unfolding: dict[str, Any] = {"kernel_size": 7, "stride": 4, "padding": 3}
    queries, keys, values = (F.unfold(x.permute(0, 3, 1, 2), **unfolding) for x in (q, k, v))  # N D L
    weights = torch.softmax(queries.transpose(1, 2) @ keys / 28, dim=2)
    attended = (weights @ values.transpose(1, 2)).transpose(1, 2)
    total = F.fold(attended, (height, width), **unfolding)
    count = F.fold(torch.ones_like(attended), (height, width), **unfolding)
    return (total / count.clamp(min=1)).permute(0, 2, 3, 1)


def dncnn(precision: torch.dtype, memory_format: torch.memory_format) -> Run:
    """DnCNN with random weights."""
    net = networks.dncnn()
    net.to(memory_format=memory_format)  # type: ignore[call-overload]
    return run_of(net, precision)


def dncnn_by_nnpack() -> Run:
    """The same, convolving as our network does on a processor without bfloat16."""
    net = networks.dncnn()
    use_nnpack(net)
    return run_of(net, torch.float32)


def convolutions() -> Run:
    """What the hardware gives, at half resolution."""
    net = networks.eight_convolutions().to(PRECISION)

    def run(picture: np.ndarray) -> np.ndarray:
        x = torch.zeros(1, 64, picture.shape[0] // 2, picture.shape[1] // 2, dtype=PRECISION)
        net(x.contiguous(memory_format=torch.channels_last))
        return picture

    return run


def classical(name: str) -> Run:
    """One of the classical methods, told sigma."""
    method = classical_methods()[name]
    return lambda picture: method(picture, SIGMA / 255)


def run_of(net: nn.Module, precision: torch.dtype) -> Run:
    """A network in evaluation mode as a function of a picture."""
    net.eval()

    def run(picture: np.ndarray) -> np.ndarray:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            restored: Tensor = net(to_tensor(picture)[None])
        return restored[0, 0].float().numpy()[..., None]

    return run


@torch.inference_mode()
def work(name: str, pipe: Connection) -> None:
    """A contestant's process: None goes out once it is set up; a picture and a turn's least seconds come in, what
    it gave, seconds a picture and peak memory in MB go out; None ends it."""
    keep_freed_memory()  # as the command does
    run = contestants()[name].make()
    pipe.send(None)
    while (asked := pipe.recv()) is not None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        restored, seconds = turn(run, *asked)
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        pipe.send((restored, seconds, int(status["VmHWM"].split()[0]) // 1024))


def turn(run: Run, picture: np.ndarray, least: float) -> tuple[np.ndarray, float]:
    """What it gives, and seconds a picture: the median of a turn of at least so many seconds, see `TURN`."""
    times = list[float]()
    while not times or sum(times) < least:
        begun = time.perf_counter()
        restored = run(picture)
        times.append(time.perf_counter() - begun)
    return restored, median(times[1:] or times)


def ask(pipe: Connection, picture: np.ndarray, least: float = 0.0) -> tuple[np.ndarray, float, int]:
    """One picture to one contestant, once or for a turn."""
    pipe.send((picture, least))
    return pipe.recv()


def race(pipes: dict[str, Connection], sizes: list[int], rounds: int, least: float = TURN) -> list[dict[str, Any]]:
    """Rows of name, size, seconds of every round, memory. The first round of a size does not count. A contestant that
    is too slow to go on ends, and so does the memory that it kept; at the end all have. One whose process the system
    has ended, for want of memory, sits the rest out."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    racing = dict(pipes)

    def end(names: list[str]) -> None:
        for name in names:
            with suppress(OSError):
                racing.pop(name).send(None)

    for size in sizes:
        picture = np.random.default_rng(0).random((size, size, 1), np.float32)
        for i in range(rounds + 1):
            for name, pipe in list(racing.items()):
                time.sleep(PAUSE)
                try:
                    _, seconds, memory = ask(pipe, picture, least)
                except (EOFError, OSError):
                    racing.pop(name)
                    continue
                row = rows.setdefault((name, size), {"name": name, "size": size, "seconds": [], "memory": 0})
                row["memory"] = max(row["memory"], memory)
                if i > 0 or seconds > SLOW:
                    row["seconds"].append(seconds)
            end([name for name in racing if max(rows[name, size]["seconds"], default=0) >= SLOW])
        end([name for name in racing if 4 * median(rows[name, size]["seconds"]) >= SLOW])
    end(list(racing))
    return [row for row in rows.values() if row["seconds"]]


def quality(pipe: Connection, pictures: list[np.ndarray]) -> float:
    """Mean PSNR over the pictures at sigma 25, noise of seed 0, output clipped and rounded to 8 bit."""
    scores = []
    for clean in pictures:
        noisy = add_gaussian_noise(to_tensor(clean), SIGMA, Generator().manual_seed(0))
        restored = ask(pipe, np.ascontiguousarray(noisy.permute(1, 2, 0).numpy()))[0]
        scores.append(psnr(from_float(restored.reshape(clean.shape), np.uint8), clean))
    return mean(scores)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown, a table for each size."""
    parts = []
    for size in sorted({row["size"] for row in rows}):
        parts.append(
            f"\n## {size} x {size}\n\n| | Mpx/s | range | GFLOP/s | of the convolutions' | peak memory, MB |\n"
        )
        parts.append("|---|---|---|---|---|---|\n")
        of_size = [row for row in rows if row["size"] == size]
        peak = next((row.get("gflops") for row in of_size if row["name"] == CONVOLUTIONS), None)
        for row in sorted(of_size, key=lambda row: -row["mpx_per_second"]):
            low, high = row["range"]
            counted = (
                (f"{row['gflops']:.0f}", f"{row['gflops'] / peak:.0%}" if peak else "") if "gflops" in row else ("", "")
            )
            cells = [row["name"], f"{row['mpx_per_second']:.3g}", f"{low:.3g}-{high:.3g}", *counted, str(row["memory"])]
            parts.append("| " + " | ".join(cells) + " |\n")
    return "".join(parts)


def draw(rows: list[dict[str, Any]], scores: dict[str, float], size: int, path: Path) -> None:
    """PSNR over speed; a line through those that nothing beats in both."""
    points = [
        (row["mpx_per_second"], scores[row["name"]], row["name"])
        for row in rows
        if row["size"] == size and row["name"] in scores
    ]
    best = [p for p in sorted(points) if not any(q[0] > p[0] and q[1] > p[1] for q in points)]
    figure = new_figure(8, 6)
    axis = figure.subplots()
    axis.semilogx([x for x, _, _ in best], [y for _, y, _ in best], color="0.7", zorder=1)
    for (x, y, name), marker, color in zip(sorted(points, key=lambda p: -p[1]), cycle("os^vD"), cycle(COLORS)):
        axis.plot(x, y, marker, color=color, markersize=8, label=f"{name}: {y:.2f} dB, {x:.2g}")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)  # within the axes it would hide points
    axis.set_xlabel(f"megapixels a second, {size} x {size} gray, {describe(torch.device('cpu'))}")
    axis.set_ylabel("PSNR in dB, Set12, sigma 25")
    axis.margins(x=0.1, y=0.1)
    save_figure(figure, path)


def main(
    data: Path | None, out: Path, sizes: list[int], rounds: int, only: list[str] | None, least: float = TURN
) -> None:
    """Race, measure quality, write."""
    pictures = [] if data is None else [clean for _, clean in read_folder(data, 1)]
    wanted = [CONVOLUTIONS, *(only or [""])]
    entered = {name: who for name, who in contestants().items() if any(part in name for part in wanted)}
    sleep_when_idle()  # as the command does; processes begun from here on inherit it
    context, pipes = get_context("spawn"), {}
    for name in entered:
        pipes[name], theirs = context.Pipe()
        context.Process(target=work, args=(name, theirs), daemon=True).start()
    for pipe in pipes.values():  # or the first would run while others are still being set up
        pipe.recv()
    scores = {name: contestant.psnr for name, contestant in entered.items() if contestant.psnr is not None}
    if pictures:
        scores = {name: quality(pipes[name], pictures) if np.isnan(score) else score for name, score in scores.items()}
    rows = race(pipes, sizes, rounds, least)
    for row in rows:
        pixels, flop = row["size"] ** 2, entered[row["name"]].flop
        speeds = sorted(pixels / 1e6 / seconds for seconds in row["seconds"])
        row |= {"mpx_per_second": median(speeds), "range": [speeds[0], speeds[-1]]}
        if flop is not None:
            row["gflops"] = flop(pixels) / median(row["seconds"]) / 1e9
    out.mkdir(parents=True, exist_ok=True)
    scores = {name: score for name, score in scores.items() if not np.isnan(score)}  # without pictures, as published
    report = {"hardware": describe(torch.device("cpu")), "torch": torch.__version__, "psnr": scores, "rows": rows}
    (out / "speed.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "speed.md").write_text(table(rows))
    if data is not None:
        draw(rows, scores, sizes[min(1, len(sizes) - 1)], out / "speed.png")
    print(table(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="Set12's folder; without it no quality is measured")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/speed"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn", type=float, default=TURN, help="seconds that a turn lasts at least")
    parser.add_argument("--only", nargs="+", help="contestants whose name contains one of these")
    arguments = parser.parse_args()
    main(arguments.data, arguments.out, arguments.sizes, arguments.rounds, arguments.only, arguments.turn)
