"""The `synergic` command. Each subcommand imports what it needs, so that --help does not import torch."""

import json
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synergic.errors import SynergicError, needs
from synergic.processor import CPUINFO, cpu_flags

if TYPE_CHECKING:
    from synergic.batch import Job, Options
    from synergic.interruptions import Interruptions
    from synergic.tiling import Progress

FOLDER = click.Path(path_type=Path)
TASKS = click.Choice(["auto", "denoise", "photo", "jpeg"])
PRECISIONS = click.Choice(["auto", "float32", "bfloat16"])
WEIGHTS = "Published weights by name, a weights file, or hub:OWNER/NAME."
TARGET = "MODEL.onnx; NAME.dtmodel for darktable; NAME.safetensors for spandrel."
REPLACED = "Replace files that exist; what an earlier run wrote (a report, what index.html shows) always is."
ENGINE = "onnx runs --weights MODEL.onnx, written by export, with ONNX Runtime."


def main() -> None:
    """Run the command. Exit code 0: all fine; 1: some files failed; 2: wrong usage; 130: interrupted, by whatever
    signal."""
    open_closed_streams()
    if isinstance(sys.stdout, TextIOWrapper):  # a name that a code page does not hold ends no run
        sys.stdout.reconfigure(errors="backslashreplace")
    keep_freed_memory()
    keep_to_quota()
    quieten()
    try:
        sys.exit(command(standalone_mode=False))
    except click.ClickException as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # since Click 8.2: the help
            error.show()
            sys.exit(2)
        fail(error.format_message())
    except SynergicError as error:
        fail(str(error))
    except BrokenPipeError:  # whoever read stdout has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it flushes
        sys.exit(1)
    except OSError as error:  # a path that the system does not even look up: too long, or in a folder without rights
        named = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        fail(f"{named}{error.strerror or error}; check the path and its rights")
    except (KeyboardInterrupt, click.Abort):
        with suppress(OSError):  # a terminal that is gone
            goes_on = ", go on with --resume" if sys.argv[1:2] in (["restore"], ["train"]) else ""
            click.echo(f"synergic: interrupted; finished files are whole{goes_on}", err=True)
        sys.exit(130)
    except (RuntimeError, MemoryError) as error:  # click.Abort is one
        from synergic.tiling import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        fail("memory: expected enough, got too little; pass less at once (smaller pictures, batches or tiles)")


def open_closed_streams() -> None:
    """Put nothing in the place of a standard stream that the shell has closed (`2>&-`): the next file that is opened
    would get its number, and what is said would go into a picture."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - for as long as the process lives


def keep_freed_memory() -> None:
    """Ask glibc not to hand freed memory back to the system: a network frees and takes the same tens of megabytes for
    every layer, and new pages cost a tenth of the time."""
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4  # malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def keep_to_quota(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> None:
    """Start no more threads than a container may run: PyTorch counts the machine's cores, and the container is stopped
    whenever its threads have used up its share. Left alone where OMP_NUM_THREADS says otherwise."""
    try:
        allowed, period = quota.read_text().split()
        cores = max(1, int(allowed) // int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return
    if cores < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def sleep_when_idle(cpuinfo: Path = CPUINFO) -> None:
    """Let OpenMP's threads sleep where NNPACK convolves (`gains_from_nnpack` in hardware.py), which has its own: those
    that wait in loops keep the cores from them, for a tenth of the time. Left alone where OMP_WAIT_POLICY is set."""
    flags = cpu_flags(cpuinfo)
    if "avx2" in flags and "avx512f" not in flags:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def quieten() -> None:
    """Keep PyTorch's own warnings from the terminal, such as that NNPACK does not know a virtual machine's processor:
    there is nothing to be done about them. Left alone where TORCH_CPP_LOG_LEVEL is set."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def fail(message: str) -> None:
    """One line on stderr, exit code 2."""
    click.echo(f"synergic: {one_line(message)}", err=True)
    sys.exit(2)


def one_line(message: str) -> str:
    """Without line breaks and control characters, which the name or the contents of a file may bring along."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(message.split()))


@click.group(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="synergic")
@click.pass_context
def command(context: click.Context) -> None:
    """Clean pictures: removes noise, camera noise and JPEG artifacts with SAT-Net."""
    if context.invoked_subcommand != "train":  # which does not convolve by NNPACK; ablate does, when it measures
        sleep_when_idle()


@command.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(), metavar="INPUT...")
@click.option("-o", "--output", required=True, type=click.Path(), help="A file for one input file; else a folder.")
@click.option("--task", type=TASKS, default="auto", show_default=True, help="What to remove; auto decides by the file.")
@click.option("--weights", help=WEIGHTS + " [default: the task's]")
@click.option("--engine", type=click.Choice(["torch", "onnx"]), default="torch", show_default=True, help=ENGINE)
@click.option("--sigma", type=float, help="Noise level, 0-255 scale (denoise, photo). Unknown unless given.")
@click.option("--quality", type=int, help="JPEG quality, 1-100 (jpeg). Read from the file unless given.")
@click.option("--strength", type=float, default=1.0, show_default=True, help="Blend: 0 the input, 1 fully restored.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@click.option("--precision", type=PRECISIONS, default="auto", show_default=True, help="auto: bfloat16 where fast.")
@click.option("--tile-size", type=int, help="Side of a tile in pixels. [default: 384, 768 or 1152, by memory]")
@click.option("--ensemble", is_flag=True, help="Average over 8 flips and turns: slightly better, 8 times slower.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--resume", is_flag=True, help="Skip inputs whose output exists, whatever options made it.")
@click.option("--max-pixels", type=click.IntRange(1), help="Refuse larger pictures. [default: 500000000]")
@click.option("--shard", metavar="I/N", help="Only every N-th picture from the I-th on, I from 1.")
@click.option(
    "--cluster", is_flag=False, flag_value="local", metavar="[HOST:PORT]", help="By workers of Ray, here or there."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per file on stdout.")
def restore(
    inputs: tuple[str, ...],
    output: str,
    shard: str | None,
    cluster: str | None,
    resume: bool,
    as_json: bool,
    max_pixels: int | None,
    **asked: Any,
) -> None:
    """Restore pictures: files, folders with all that is in them, and what URLs such as s3://bucket/scans name."""
    from synergic.batch import Options, passed_over, plan_jobs, restore_files
    from synergic.interruptions import Interruptions
    from synergic.stores import place

    interruptions = Interruptions()
    interruptions.listen()
    if asked["overwrite"] and resume:
        raise SynergicError("--overwrite and --resume: expected one of them, got both")
    given, target = [place(text) for text in inputs], place(output)
    jobs, left = plan_jobs(given, target, parse_shard(shard)), passed_over(given, target)
    options = Options(**asked) if max_pixels is None else Options(**asked, max_pixels=max_pixels)
    if cluster is None:
        options.check()
    count, stdout = dict.fromkeys(("restored", "skipped", "failed"), 0), sys.stdout
    with Bars(len(jobs)) as bars:
        if cluster is None:
            results = restore_files(jobs, options, resume, bars.tile, interruptions.let_in)
        else:
            results = restored_on_cluster(jobs, options, cluster, resume, interruptions)

        def tell(result: dict[str, Any]) -> None:
            bars.file(result["input"])
            count[result["status"]] += 1
            if as_json:
                click.echo(json.dumps(result), stdout)
                return
            for line in [result["error"]] if result["status"] == "failed" else result.get("warnings", []):
                bars.say(f"synergic: {line}")

        interruptions.hold()
        try:
            for result in results:
                tell(result)
        except KeyboardInterrupt:
            told = ", ".join(f"{number} {status}" for status, number in count.items())
            with suppress(OSError):  # a terminal that is gone
                bars.say(f"synergic: {told}, {len(jobs) - sum(count.values())} not done")
            raise
        for line in [*left.refused(), *([left.told()] if left.told() else [])]:
            bars.say(f"synergic: {line}")
    sys.exit(1 if count["failed"] or left.errors else 0)


def restored_on_cluster(
    jobs: list["Job"], options: "Options", address: str, resume: bool, interruptions: "Interruptions"
) -> Generator[dict[str, Any], None, None]:
    """`restore_on_cluster`, or what to install for it. Nothing is written here: it may be interrupted at any time."""
    from synergic.cluster import restore_on_cluster

    results = restore_on_cluster(jobs, options, address, resume)
    with needs("cluster", "--cluster"):
        while True:
            with interruptions.let_in():
                result = next(results, None)
            if result is None:
                return
            yield result


def parse_shard(text: str | None) -> tuple[int, int]:
    """ "I/N" as (I, N); (1, 1) for none."""
    if text is None:
        return 1, 1
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise SynergicError(f"--shard: expected I/N with I from 1 to N, got {text!r}")
    return int(index), int(count)


class Bars:
    """Two progress bars on stderr, files and the tiles of the current one; silent where stderr is not a terminal."""

    def __init__(self, files: int) -> None:
        from tqdm import tqdm

        self.files = tqdm(total=files, unit="file", disable=None, position=0)
        self.tiles = tqdm(unit="tile", disable=None, position=1, leave=False)

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *error: object) -> None:
        self.tiles.close()
        self.files.close()

    def tile(self, done: int, total: int) -> None:
        """Called after each tile."""
        self.tiles.total, self.tiles.n = total, done
        self.tiles.refresh()

    def file(self, name: str) -> None:
        """Called after each file."""
        self.files.set_description(one_line(Path(name).name[-30:]))
        self.files.update()
        self.tiles.reset()

    def say(self, line: str) -> None:
        """A line on stderr that leaves the bars whole."""
        self.files.write(one_line(line), file=sys.stderr)


@command.command()
@click.option("--json", "as_json", is_flag=True, help="The whole cards as JSON.")
def weights(as_json: bool) -> None:
    """Published weights: task, parameters, training data, licence, measured scores."""
    from dataclasses import asdict

    from synergic.card import published_weights
    from synergic.network import count_parameters
    from synergic.weights import read_header, unfilled

    headers = [read_header(path) for path in published_weights().values()]
    sizes = [count_parameters(unfilled(config)) for config, _ in headers]
    if as_json:
        described = zip(sizes, headers, strict=True)
        cards = [{"parameters": n, **asdict(card), "config": asdict(config)} for n, (config, card) in described]
        click.echo(json.dumps(cards, indent=1))
        return
    for parameters, (_, card) in zip(sizes, headers, strict=True):
        click.echo(f"{card.name}: {card.task}, {parameters:,} parameters")
        click.echo(f"  data: {card.data} ({card.licence})")
        click.echo(f"  training: {card.steps:,} steps, {card.seconds:,.0f} s on {card.hardware}")
        for protocol, score in card.scores.items():
            click.echo(f"  {protocol}: {score:.2f} dB")
        if card.protocol:
            click.echo(f"  measured: {card.protocol}")
        if card.limits:
            click.echo(f"  limits: {card.limits}")


@command.command()
@click.option("--weights", "name", required=True, help=WEIGHTS)
@click.option("--data", required=True, type=FOLDER, help="Folder of clean pictures.")
@click.option("--sigma", type=float, help="White Gaussian noise of this level, 0-255 scale.")
@click.option("--clipped", is_flag=True, help="End the noise at black and white, in 8 bits, as in a file.")
@click.option("--quality", type=int, help="JPEG compression of this quality, 1-100.")
@click.option("--pairs", type=FOLDER, help="Folder of degraded pictures, with the names of the clean ones.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the noise, the same for each picture.")
@click.option("--limit", type=click.IntRange(1), help="Only the first pictures.")
@click.option("--blind", is_flag=True, help="Do not tell the network sigma or quality.")
@click.option("--save", type=FOLDER, help="Folder for the restored pictures and a page, index.html.")
@click.option("--overwrite", is_flag=True, help=REPLACED)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@click.option("--precision", type=PRECISIONS, default="auto", show_default=True, help="auto: bfloat16 where fast.")
@click.option("--ensemble", is_flag=True, help="Average over 8 flips and turns.")
@click.option("--json", "report", type=FOLDER, help="Write the report to this file.")
def evaluate(
    name: str,
    save: Path | None,
    device: str,
    precision: str,
    ensemble: bool,
    report: Path | None,
    overwrite: bool,
    **protocol: Any,
) -> None:
    """PSNR and SSIM on a folder of clean pictures, with the protocol beside the figures."""
    from synergic.card import find_weights
    from synergic.evaluate import Protocol, as_json, check_report, evaluate, is_report
    from synergic.files import write_text
    from synergic.restore import Restorer

    chosen, weights = Protocol(**protocol), find_weights(name)
    if report is not None:
        page = None if save is None else save / "index.html"
        check_report(report, chosen, weights, page, overwrite)
    restorer = Restorer.from_pretrained(weights, device=device, precision=precision, ensemble=ensemble)
    result = evaluate(restorer, chosen, save, overwrite=overwrite)
    if report is not None:  # before a word is said: whoever reads may have gone
        write_text(report, as_json(result), overwrite=overwrite or is_report(report))
    for key, value in result["protocol"].items():
        click.echo(one_line(f"{key}: {value}"))
    for image in result["images"]:
        click.echo(f"{one_line(image['name'])}  {image['psnr']:.3f} dB  SSIM {image['ssim']:.4f}")
    click.echo(
        f"degraded {result['degraded_psnr']:.3f} dB; restored {result['psnr']:.3f} dB, SSIM {result['ssim']:.4f}"
    )


@command.command()
@click.argument("image", type=FOLDER)
@click.option("-o", "--output", "figure", required=True, type=FOLDER, help="The figure: .png, .pdf or .svg.")
@click.option("--at", "places", multiple=True, metavar="X,Y", help="A query patch, in pixels; may be repeated.")
@click.option("--task", type=TASKS, default="auto", show_default=True, help="What to remove; auto decides by the file.")
@click.option("--weights", help=WEIGHTS + " [default: the task's]")
@click.option("--sigma", type=float, help="Noise level that the network is told, 0-255 scale.")
@click.option("--quality", type=int, help="JPEG quality that the network is told, 1-100.")
@click.option("--noise", type=float, help="First add white Gaussian noise of this level, 0-255 scale, of seed 0.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@click.option("--tile-size", type=int, help="Side of a tile in pixels. [default: 384, 768 or 1152, by memory]")
@click.option("--overwrite", is_flag=True, help="Replace a figure that exists.")
def explain(
    image: Path, figure: Path, places: tuple[str, ...], noise: float | None, overwrite: bool, **asked: Any
) -> None:
    """Draw where the network leans local or non-local, and which patches a query patch attends to."""
    from synergic.batch import Options
    from synergic.explain import explain
    from synergic.figures import check_figure
    from synergic.files import rights
    from synergic.images import read_picture
    from synergic.stores import check_apart, identity

    check_figure(figure, overwrite)
    check_apart(figure, {identity(image)})
    at = [parse_place(place) for place in places]
    options = Options(**asked)
    options.check()
    picture = read_picture(image)
    restorer = options.restorer(picture)
    told: dict[str, Any] = {"sigma": options.sigma, "quality": options.quality_for(picture, restorer)}
    with progress_bar("tile") as bar, rights(image.stat().st_mode):
        found = explain(restorer, picture.pixels, figure, at=at, noise=noise, **told, progress=bar, overwrite=overwrite)
    click.echo(f"{restorer.card.name}: share of the non-local branch in what is added, mean {found.share.mean():.3f}")
    for block, ((_, nonlocal_), share) in enumerate(zip(found.weights, found.shares, strict=True), 1):
        click.echo(f"block {block}: fusion weight of the non-local branch {nonlocal_.mean():.3f}, share {share:.3f}")


def parse_place(text: str) -> tuple[int, int]:
    """ "X,Y" as (X, Y)."""
    x, _, y = text.partition(",")
    if not (x.isdecimal() and y.isdecimal()):
        raise SynergicError(f"--at: expected X,Y in pixels, such as 120,80, got {text!r}")
    return int(x), int(y)


@contextmanager
def progress_bar(unit: str) -> Iterator["Progress"]:
    """One progress bar on stderr; silent where stderr is not a terminal."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield show


@command.command()
@click.argument("data", type=FOLDER, metavar="IMAGE|DIR")
@click.option("--sigma", type=float, help="White Gaussian noise of this level, 0-255 scale.")
@click.option("--clipped", is_flag=True, help="End the noise at black and white, in 8 bits, as in a file.")
@click.option("--quality", type=int, help="JPEG compression of this quality, 1-100.")
@click.option("-o", "--output", type=FOLDER, default="comparison", show_default=True, help="Folder for what is found.")
@click.option("--weights", "name", help=WEIGHTS + " [default: the task's]")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the noise, the same for each picture.")
@click.option("--limit", type=click.IntRange(1), help="Only the first pictures.")
@click.option("--blind", is_flag=True, help="Do not tell the network sigma or quality.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@click.option("--precision", type=PRECISIONS, default="auto", show_default=True, help="auto: bfloat16 where fast.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier comparison.")
def compare(
    output: Path, name: str | None, device: str, precision: str, overwrite: bool, data: Path, **asked: Any
) -> None:
    """The network beside classical methods on clean pictures: table, report, contact sheet with zoomed crops."""
    from synergic.card import weights_for
    from synergic.compare import colors_of, compare, draw_sheet, table
    from synergic.evaluate import Protocol, as_json
    from synergic.figures import check_figure
    from synergic.files import check_free, write_text
    from synergic.images import find_pictures
    from synergic.restore import Restorer
    from synergic.stores import check_apart

    if (asked["sigma"] is None) == (asked["quality"] is None):
        raise SynergicError("compare: expected one of --sigma and --quality; pass how the pictures are to be degraded")
    sheet, figures, text = (output / name for name in ("sheet.png", "report.json", "table.md"))
    check_figure(sheet, overwrite)
    for path in (figures, text):
        check_free(path, overwrite)
    protocol = Protocol(data, **asked)
    check_apart(sheet, protocol.identities())
    if name is None:
        colors = colors_of([path for path, _ in find_pictures([data])[: protocol.limit]])
        name = weights_for("denoise" if protocol.quality is None else "jpeg", colors)
    restorer = Restorer.from_pretrained(name, device=device, precision=precision)
    with progress_bar("result") as bar:
        report, places = compare(restorer, protocol, bar)
    lines = [f"{key}: {value}" for key, value in report["protocol"].items()]
    write_text(figures, as_json(report), overwrite=overwrite)
    write_text(text, "\n".join([table(report), "", *(f"- {line}" for line in lines), ""]), overwrite=overwrite)
    draw_sheet(report, places, sheet, overwrite=overwrite)
    click.echo("\n".join([*lines, table(report)]))


@command.command()
@click.argument("recipe", type=FOLDER)
@click.option("-o", "--output", "run", required=True, type=FOLDER, help="Folder of the run.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the recipe, such as network.depth=4."
)
@click.option("--resume", is_flag=True, help="Go on from the run's saved state.")
@click.option("--max-seconds", type=float, help="Stop after this long; the state is saved.")
@click.option("--accelerator", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@click.option("--precision", type=PRECISIONS, default="auto", show_default=True, help="auto: bfloat16 where fast.")
def train(recipe: Path, run: Path, changes: tuple[str, ...], **asked: Any) -> None:
    """Train a network by a recipe: weights, log and resumable state go to the run's folder."""
    with needs("train", "train"):
        from synergic.train import read_recipe, train

    train(read_recipe(recipe, parse_changes(changes)), run, **asked)


def parse_changes(changes: tuple[str, ...]) -> dict[str, str]:
    """ "KEY=VALUE" of --set as a mapping."""
    pairs = [change.partition("=") for change in changes]
    if wrong := [change for change, (_, equals, _) in zip(changes, pairs, strict=True) if not equals]:
        raise SynergicError(f"--set: expected KEY=VALUE, got {wrong[0]!r}")
    return {key: value for key, _, value in pairs}


@command.command()
@click.argument("recipe", type=FOLDER)
@click.option("-o", "--output", "folder", required=True, type=FOLDER, help="Folder of all runs.")
@click.option("--row", "rows", multiple=True, help="Only this row: baseline, without-local, ..., or patch_size=5.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs of every row.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the recipe, such as steps=2000.")
@click.option("--data", "folders", multiple=True, type=FOLDER, help="Clean pictures to evaluate. [default: validation]")
@click.option("--sigma", multiple=True, type=float, help="Noise level to evaluate. [default: 15, 25, 50, 70]")
@click.option("--quality", multiple=True, type=int, help="JPEG quality to evaluate. [default: 10, 20, 30, 40]")
@click.option("--accelerator", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
def ablate(
    recipe: Path,
    folder: Path,
    rows: tuple[str, ...],
    seeds: int,
    changes: tuple[str, ...],
    folders: tuple[Path, ...],
    accelerator: str,
    **levels: tuple[float, ...],
) -> None:
    """The paper's ablation: train every row from several seeds, evaluate, compare. Run it again to go on."""
    with needs("train", "ablate"):
        from synergic.ablation import ROWS, ablate, finished_runs, plan, protocols, write_results
    from synergic.figures import check_figure

    check_figure(folder / "curves.png", overwrite=True)
    runs = plan(recipe, folder, list(dict.fromkeys(rows)) or list(ROWS), seeds, parse_changes(changes))
    wanted = protocols(runs[0].recipe, folders or [runs[0].recipe.validation], **levels)
    if folders and not wanted:
        raise SynergicError(f"--data: the recipe's task is {runs[0].recipe.task}, judged by validation; leave it out")
    ablate(runs, wanted, accelerator, click.echo)
    if finished_runs(folder):  # by this process or another
        click.echo(write_results(folder))


@command.command()
@click.option("--weights", "name", required=True, help=WEIGHTS)
@click.option("-o", "--output", "target", required=True, type=FOLDER, help=TARGET)
@click.option("--for", "program", type=click.Choice(["darktable", "spandrel"]), help="Package it for this program.")
@click.option("--blind", is_flag=True, help="Leave out the strength: the model works with it unknown.")
@click.option("--overwrite", is_flag=True, help="Replace a model that exists.")
def export(name: str, target: Path, program: str | None, blind: bool, overwrite: bool) -> None:
    """Write weights as an ONNX model, checked against the network in numbers."""
    from synergic.card import find_weights
    from synergic.stores import check_apart, identity

    check_apart(target, {identity(find_weights(name))})
    if program == "spandrel":
        from synergic.weights import load_weights, save_state_dict

        if blind:
            raise SynergicError(
                "--blind: expected an ONNX model, got a file for spandrel, which takes none; leave it out"
            )
        if target.suffix != ".safetensors":
            raise SynergicError(f"{target}: expected a name that ends in .safetensors")
        save_state_dict(target, *load_weights(name), overwrite=overwrite)
        click.echo(f"{target}: written")
        return
    with needs("onnx", "export"):
        from synergic.export import export
    errors = export(name, target, darktable=program == "darktable", blind=blind, overwrite=overwrite)
    for (height, width), relative in errors.items():
        click.echo(f"{width} x {height} pixels: relative error {relative:.1e}")
    click.echo(f"{target}: written")


@command.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Name or address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="0 takes a free one.")
@click.option(
    "--max-bytes", "file_bytes", type=click.IntRange(1), default=200_000_000, show_default=True, help="Largest file."
)
@click.option(
    "--max-pixels", "pixels", type=click.IntRange(1), default=50_000_000, show_default=True, help="Largest picture."
)
@click.option(
    "--max-seconds", "seconds", type=float, default=1800, show_default=True, help="Longest upload, and longest run."
)
@click.option(
    "--max-line",
    "line",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Most pictures running or waiting.",
)
def serve(host: str, port: int, **limits: Any) -> None:
    """The page in the browser: drop a picture, compare, download. Ctrl-C ends it."""
    try:
        with needs("serve", "serve"):
            from synergic import web
            from synergic.desk import Limits

            with web.listen(host, port) as listening:
                if not web.is_private(listening):
                    click.echo(f"synergic: warning: everyone who reaches {host} can use it; see SECURITY.md", err=True)
                address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
                web.serve(listening, host, Limits(**limits), lambda: click.echo(f"{address} is ready; Ctrl-C ends it"))
    except KeyboardInterrupt:
        click.echo(err=True)  # ends the terminal's ^C
