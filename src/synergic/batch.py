"""Restoring files and folders: which file becomes which, and what happened to each."""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from errno import ELOOP
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from unicodedata import normalize

from synergic.card import Task, weights_for
from synergic.engine import OnnxRestorer
from synergic.errors import SynergicError
from synergic.files import check_folder, ignores_case, is_taken, remove_unfinished, rights
from synergic.formats import UNWRITABLE
from synergic.images import (
    MAX_PIXELS,
    READABLE,
    WRITABLE,
    Picture,
    check_writable,
    find_pictures,
    read_picture,
    write_picture,
)
from synergic.stores import as_place, check_apart, fetched, identity, reached, real_path, stored
from synergic.tiling import Progress, is_gray, is_toned

if TYPE_CHECKING:
    from synergic.restore import Restorer

T = TypeVar("T")
R = TypeVar("R")

COARSE_QUALITY = 75
"""A JPEG below this quality shows its blocks more than its noise."""


@dataclass(frozen=True)
class Job:
    """One file to restore. Both may be objects in a store, see `stores.place`."""

    source: Path
    target: Path


@dataclass
class Options:
    """What the user asked for; restorers are loaded when first needed and kept."""

    task: Literal["auto", "denoise", "photo", "jpeg"] = "auto"
    weights: str | None = None
    engine: Literal["torch", "onnx"] = "torch"
    sigma: float | None = None
    quality: int | None = None
    strength: float = 1.0
    device: str = "auto"
    precision: str = "auto"
    tile_size: int | None = None
    ensemble: bool = False
    overwrite: bool = False
    max_pixels: int = MAX_PIXELS
    loaded: dict[str, "Restorer"] = field(default_factory=dict)
    """By the name of their weights; with the engine onnx an OnnxRestorer, which restores pictures alike."""

    def check(self) -> None:
        """Refuse wrong usage before the first picture is touched."""
        if not 0 <= self.strength <= 1:
            raise SynergicError(f"strength: expected 0 to 1, got {self.strength}")
        if self.engine == "onnx" and self.weights is None:
            raise SynergicError("engine onnx: expected --weights with a model from `synergic export`, got none")
        task, machine = self.asked_task(), (self.device, self.precision, self.tile_size)
        if self.weights is not None or task is not None or machine != ("auto", "auto", None):
            name = weights_for(task or "photo", colors=3) if self.weights is None else self.weights
            restorer = self.load(name)
            restorer.told_strength(self.sigma, self.quality)
            if self.task not in ("auto", restorer.card.task):
                raise SynergicError(
                    f"task: expected {restorer.card.task}, which {restorer.card.name} are for, got {self.task}; "
                    "leave it out"
                )

    def asked_task(self) -> Task | None:
        """The task asked for, or what a given sigma or quality says; None leaves it to each picture."""
        if self.task != "auto":
            return self.task
        if self.sigma is not None:
            return "denoise"
        return "jpeg" if self.quality is not None else None

    def task_for(self, picture: Picture) -> Task:
        """The task asked for; else jpeg for a coarse JPEG, photo for everything else."""
        coarse = picture.jpeg_quality is not None and picture.jpeg_quality < COARSE_QUALITY
        return self.asked_task() or ("jpeg" if coarse and has_weights("jpeg", picture) else "photo")

    def restorer(self, picture: Picture) -> "Restorer":
        """The restorer for this picture."""
        if self.weights is not None:
            return self.load(self.weights)
        return self.load(weights_for(self.task_for(picture), colors_of(picture)))

    def load(self, name: str) -> "Restorer":
        """A restorer by the name of its weights, loaded once."""
        if name not in self.loaded:
            self.loaded[name] = self.maker()(
                name, device=self.device, precision=self.precision, tile_size=self.tile_size, ensemble=self.ensemble
            )
        return self.loaded[name]

    def maker(self) -> Any:
        """What makes the engine's restorers; PyTorch, which takes a while, is imported only for its own."""
        if self.engine == "onnx":
            return OnnxRestorer.from_file
        from synergic.restore import Restorer

        return Restorer.from_pretrained

    def quality_for(self, picture: Picture, restorer: "Restorer") -> int | None:
        """The quality given, or for JPEG weights that take one, what the file's own tables say."""
        if self.quality is not None or restorer.card.task != "jpeg" or not restorer.conditioned:
            return self.quality
        return picture.jpeg_quality


def colors_of(picture: Picture) -> int:
    """1 for gray, stored as RGB or not, and for toned gray, whose colours gray weights restore one by one: weights for
    colour have seen no noise that is alike in all channels."""
    return 1 if is_gray(picture.pixels) or is_toned(picture.pixels) else 3


def has_weights(task: Task, picture: Picture) -> bool:
    """Are there published weights for the task?"""
    try:
        weights_for(task, colors_of(picture))
    except SynergicError:
        return False
    return True


def plan_jobs(inputs: Sequence[Path | str], output: Path | str, shard: tuple[int, int] = (1, 1)) -> list[Job]:
    """One job per picture. `output` is a file if it has a picture's suffix and the input is one file; else a folder,
    in which the folders of the input are mirrored. Shard (i, n) is every n-th job from the i-th on, i from 1.

    What lies in an output folder inside the input is no input. Raises SynergicError for an output that is an input, and
    for one with the name of a picture that it could not be. Text is a path or a URL, see `stores.place`.
    """
    output, given = as_place(output), [as_place(path) for path in inputs]
    found = find_pictures(given, apart=output)
    if not found:
        for line in passed_over(given, output).refused():
            raise SynergicError(line)
        raise SynergicError(
            f"{given[0]}: expected pictures ({', '.join(sorted(WRITABLE))}), found none; check the path"
        )
    one = len(given) == 1 and not given[0].is_dir()
    suffix = "" if output.is_dir() else output.suffix.lower()  # a folder may have any name
    if suffix in UNWRITABLE or (suffix in WRITABLE and not one):
        wanted = f"a name ending in one of {' '.join(sorted(WRITABLE))}" if one else "a folder for several pictures"
        raise SynergicError(f"{output}: expected {wanted}, got the name of a picture; choose another -o")
    jobs = [Job(source, output if suffix in WRITABLE else output / relative) for source, relative in found]
    for folder in {job.target.parent for job in jobs if isinstance(job.target, Path)}:
        check_folder(folder)
    claimed: dict[Path | str, Path] = {}
    sources = {identity(source) for source, _ in found}
    folders = {folder: real_path(folder) for folder in {job.target.parent for job in jobs}}  # one may link to another
    for job in jobs:
        check_apart(job.target, sources, "-o")
        whole = folders[job.target.parent] / job.target.name
        spelled = normalize("NFC", str(whole)).casefold()
        twin = claimed.get(whole)
        if twin is None and spelled in claimed and ignores_case(job.target.parent):
            twin = claimed[spelled]
        if twin is not None:
            raise SynergicError(
                f"{job.source}: expected an output name of its own, got {job.target} like {twin}; "
                "restore them into two folders"
            )
        claimed[whole] = claimed[spelled] = job.source
    return jobs[shard[0] - 1 :: shard[1]]


@dataclass
class PassedOver:
    """What lies in the folders that were given and becomes no job. Hidden files and folders are not counted."""

    others: int = 0
    """Files of other kinds."""
    links: int = 0
    """Links to folders, which are not followed, and to nothing."""
    errors: list[OSError] = field(default_factory=list)
    """What the system refused to show."""

    def search(self, folder: Path, apart: Path) -> None:
        """Count what lies in a folder and its folders, but for the one that is `apart`."""
        folders = [folder]
        while folders:
            try:
                entries = [Path(entry) for entry in os.scandir(folders.pop())]
            except OSError as error:
                self.errors.append(error)
                continue
            shown = [entry for entry in entries if not entry.name.startswith(".")]
            folders += [entry for entry in shown if self.is_folder(entry) and entry.resolve() != apart]

    def is_folder(self, entry: Path) -> bool:
        """Is it a folder, and no link to one? What is none is counted, unless it is a picture."""
        try:
            mode, is_link = entry.stat().st_mode, entry.is_symlink()
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno == ELOOP:
                self.links += 1
                return False
            self.errors.append(error)
            return False
        self.links += is_link and S_ISDIR(mode)
        self.others += not (S_ISDIR(mode) or (S_ISREG(mode) and entry.suffix.lower() in READABLE))
        return S_ISDIR(mode) and not is_link

    def told(self) -> str:
        """In words; "" for nothing."""
        counts = {"of another kind": self.others, "linking to a folder or to nothing": self.links}
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        return f"files passed over: {told}" if told else ""

    def refused(self) -> list[str]:
        """The errors, each in a line."""
        return [f"{error.filename}: cannot be searched: {error.strerror}; check its rights" for error in self.errors]


def passed_over(inputs: Sequence[Path], output: Path) -> PassedOver:
    """What `plan_jobs` leaves out of folders on this machine, in which its pictures come from `find_pictures`."""
    found = PassedOver()
    for given in inputs:
        if isinstance(given, Path) and given.is_dir():
            found.search(given, real_path(output))
    return found


@dataclass
class Work:
    """A job on its way: the picture, degraded and then restored, and what there is to say of it."""

    job: Job
    result: dict[str, Any]
    overwrite: bool
    picture: Picture | None = None
    seconds: float = 0.0
    mode: int = 0o666
    """Rights of the source: a photograph that others may not read is not handed to them restored."""

    def read(self, options: Options, resume: bool = False) -> None:
        """Read the picture, unless it could not be written, or with `resume` has been."""
        target = self.job.target
        with reached(target):
            size = size_of(target) if resume else None
            if size:
                self.result["status"] = "skipped"
                return
            self.overwrite |= size == 0
            if is_taken(target) and not self.overwrite:
                raise SynergicError(f"{target}: exists; pass --overwrite to replace it, or --resume to skip it")
        if isinstance(self.job.source, Path) and self.job.source.exists():
            self.mode = self.job.source.stat().st_mode
        with fetched(self.job.source) as file:
            self.picture = read_picture(file, max_pixels=options.max_pixels)
        check_writable(target, self.picture)

    def restore(self, options: Options, progress: Progress | None) -> None:
        """Restore its pixels; alpha and metadata stay."""
        assert self.picture is not None
        restorer = options.restorer(self.picture)
        try:
            pixels = restorer(
                self.picture.pixels,
                sigma=options.sigma,
                quality=options.quality_for(self.picture, restorer),
                strength=options.strength,
                progress=progress,
            )
        except SynergicError as error:  # of a picture without a name
            raise SynergicError(f"{self.job.source}: {error}") from error
        self.picture = replace(self.picture, pixels=pixels)
        height, width = pixels.shape[:2]
        self.result |= {"weights": restorer.card.name, "task": restorer.card.task, "width": width, "height": height}

    def write(self) -> None:
        """Write the picture, whole or not at all."""
        assert self.picture is not None
        mirror_folders(self.job)
        with rights(self.mode), stored(self.job.target, overwrite=self.overwrite) as file:
            left_out = write_picture(file, self.picture, overwrite=self.overwrite)
        if left_out:
            self.result["warnings"] = [f"{self.job.source}: left out: {', '.join(left_out)}"]
        self.result["status"] = "restored"


def mirror_folders(job: Job) -> None:
    """Make the folders that a target still needs, each with the rights of the one that it mirrors, as `cp -r` does."""
    if not (isinstance(job.source, Path) and isinstance(job.target, Path)):
        return
    pairs = list[tuple[Path, Path]]()
    for source, target in zip(job.source.absolute().parents, job.target.absolute().parents, strict=False):
        if target.exists():
            break
        pairs.append((source, target))
        if source.name != target.name:  # the output's own folder
            break
    for source, target in reversed(pairs):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir(0o700 | source.stat().st_mode & 0o777, exist_ok=True)


def restore_files(
    jobs: Sequence[Job],
    options: Options,
    resume: bool = False,
    progress: Progress | None = None,
    let_in: Callable[[], AbstractContextManager[None]] = nullcontext,
    clear: bool = True,
) -> Generator[dict[str, Any], None, None]:
    """Restore many files; a file that fails becomes a result with its error, and the next one is taken.

    The network never waits for a disk: the next file is read and the one before is written while it works. Several
    runs may share a folder: with `resume` each takes what no other has finished. let_in: a block that may be
    interrupted, see `Interruptions`. clear: delete what killed runs left half-written beside the outputs.
    """
    for folder in {job.target.parent for job in jobs if clear}:
        remove_unfinished(folder)

    def read(job: Job) -> Work:
        work = Work(job, {"input": str(job.source), "output": str(job.target)}, options.overwrite)
        return attempt(work, resume, work.read, options, resume)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        writing: deque[Future[Work]] = deque()
        try:
            for work in one_ahead(read, jobs, reader):
                with let_in():
                    attempt(work, resume, work.restore, options, progress)
                writing.append(writer.submit(attempt, work, resume, work.write))
                if len(writing) > 1:
                    yield finished(writing)
            while writing:
                yield finished(writing)
        except KeyboardInterrupt:  # what is being written is finished, and told
            while writing:
                yield finished(writing)
            raise


def size_of(target: Path) -> int | None:
    """Bytes of an output; None if there is none. 0: a run was killed where a file cannot take its name at once."""
    try:
        return None if target.is_dir() else int(target.stat().st_size)
    except OSError:
        return None


def finished(writing: deque[Future[Work]]) -> dict[str, Any]:
    """The result of the first, which stays in the queue until it is there: nothing is lost to an interruption."""
    result = writing[0].result().result
    writing.popleft()
    return result


def one_ahead(function: Callable[[T], R], items: Iterable[T], pool: ThreadPoolExecutor) -> Iterator[R]:
    """`map`, with the next item already in work while one is used."""
    begun: deque[Future[R]] = deque()
    for item in items:
        begun.append(pool.submit(function, item))
        if len(begun) > 1:
            yield begun.popleft().result()
    yield from (future.result() for future in begun)


def attempt(work: Work, resume: bool, step: Callable[..., None], *arguments: Any) -> Work:
    """The next step of a work that is not at its end; if it fails, the error is the work's result."""
    if work.result.get("status") is not None:
        return work
    started = time.monotonic()
    try:
        step(*arguments)
    except SynergicError as error:
        finished_elsewhere = False
        if resume:
            with suppress(Exception):  # a store that cannot be reached
                finished_elsewhere = bool(size_of(work.job.target))
        work.result |= {"status": "skipped"} if finished_elsewhere else {"status": "failed", "error": str(error)}
    except OSError as error:
        name = work.job.source if error.filename is None else os.fsdecode(error.filename)
        reason = f"{error.strerror or error}; check the path and its rights"
        work.result |= {"status": "failed", "error": f"{name}: {reason}"}
    except MemoryError:
        reason = "expected enough memory for the whole picture, got less; restore it on a larger machine"
        work.result |= {"status": "failed", "error": f"{work.job.source}: {reason}"}
    except Exception as error:  # a defect of ours must not keep the rest of the folder from being restored
        reason = f"unexpected {type(error).__name__}: {' '.join(str(error).split())}; please report it"
        work.result |= {"status": "failed", "error": f"{work.job.source}: {reason}"}
    work.seconds += time.monotonic() - started
    if work.result.get("status") is not None:
        work.picture = None  # a work that waits to be told must not hold it
    if work.result.get("status") == "restored":
        work.result["seconds"] = round(work.seconds, 3)
    return work
