"""Restoring on several machines: workers of a Ray cluster hold the network and take one file after another."""

import json
import logging
import os
import re
import secrets
import socket
import sys
import tempfile
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from synergic.batch import Job, Options, restore_files, size_of
from synergic.card import published_weights
from synergic.errors import SynergicError, first_line
from synergic.files import own_folder, remove_unfinished
from synergic.interruptions import kept_handlers
from synergic.stores import place, reached

TRIES = 3
"""How many workers may die over a file."""
FOLDER = "ray-synergic-"
"""How the names of the folders begin in which a local Ray keeps its sockets and logs."""


def restore_on_cluster(
    jobs: Sequence[Job], options: Options, address: str = "local", resume: bool = False
) -> Generator[dict[str, Any], None, None]:
    """As `restore_files`, by one worker for each GPU or, where there is none, each CPU of a Ray cluster. Results come
    as files are finished; `worker` in them is the machine and the process.

    address: "local" starts Ray on this machine for as long as this lasts; HOST:PORT is a running cluster's, "auto" the
    one that this machine belongs to. Inputs, outputs and a weights file have one path on all machines, and all have
    this version of the package. The file of a worker that dies goes to another; one that kills three fails.
    """
    check_address(address)
    theirs = options.engine == "torch" and re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d+)?", options.device)
    replace(options, device="cpu" if theirs else options.device, loaded={}).check()  # what they have is theirs to know
    for folder in {job.target.parent for job in jobs}:
        remove_unfinished(folder)
    there = set() if options.overwrite else {job for job in jobs if is_there(job, resume)}
    yield from restore_files([job for job in jobs if job in there], options, resume)
    if new := [job for job in jobs if job not in there]:
        with ray_at(address) as ray:
            yield from answers(ray, new, options)
        for folder in {job.target.parent for job in new}:  # what workers that died left
            remove_unfinished(folder)


def is_there(job: Job, resume: bool) -> bool:
    """Has it an output, or with `resume` one that holds something? A store that does not answer is the worker's to
    tell: it costs that file, not the run."""
    with suppress(SynergicError), reached(job.target):
        return bool(size_of(job.target)) if resume else job.target.exists()
    return False


def check_address(address: str) -> None:
    """Refuse what is no address, and a cluster beyond this machine to which anyone may connect: whoever can connect to
    Ray can run programs on all of its machines."""
    host, _, port = address.rpartition(":")
    if address not in ("local", "auto") and not (host and "/" not in host and port.isdecimal()):
        raise SynergicError(f"--cluster: expected HOST:PORT, auto, or nothing for this machine alone, got {address!r}")
    if address != "local" and not is_loopback(host) and os.environ.get("RAY_AUTH_MODE") != "token":
        raise SynergicError(
            f"--cluster: {address}: expected Ray's token authentication, got none; start the cluster with "
            "RAY_AUTH_MODE=token, and set it here too"
        )


def is_loopback(host: str) -> bool:
    """Does the host's address reach this machine alone?"""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def check_that_it_answers(address: str, seconds: float = 10.0) -> None:
    """Refuse an address where nobody listens: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise SynergicError(
            f"--cluster: {address}: expected a Ray cluster that answers, got none ({error}); check the address"
        ) from None


def short_folder() -> Path:
    """Where Ray may put its sockets, whose paths have at most some hundred letters."""
    return Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())


@contextmanager
def kept_environment(*names: str) -> Iterator[None]:
    """Variables of the environment are after the block what they were before it."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {} if value is None else {name: value}


@contextmanager
def ray_at(address: str) -> Iterator[Any]:
    """Ray, connected, without usage statistics. A local one has a token of its own, leaves no files, and deletes those
    of local ones that were killed."""
    if address not in ("local", "auto"):
        check_that_it_answers(address)
    asked: dict[str, Any] = {"address": address}
    with (
        own_folder(FOLDER, short_folder()) if address == "local" else nullcontext() as folder,
        redirect_stdout(sys.stderr),  # Ray writes to stdout when a worker dies
        kept_environment("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"),
    ):
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if address == "local":
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            asked |= {"_temp_dir": str(folder), "include_dashboard": False}
        import ray

        try:
            with kept_handlers():  # Ray's own would end the program in the middle of a line
                ray.init(**asked, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            raise SynergicError(
                f"--cluster: {address}: expected a Ray cluster that answers, got none ({first_line(error)}); "
                "check the address and the token"
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def answers(
    ray: Any, jobs: Sequence[Job], options: Options, worker: type["Worker"] | None = None
) -> Iterator[dict[str, Any]]:
    """The results of all jobs, streamed through Ray Data. A worker, `Worker` unless given, has one file at a time, so
    that a file that kills it takes no other along."""
    from ray.data import ActorPoolStrategy, DataContext, from_items

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context, resources = DataContext.get_current(), ray.cluster_resources()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # a file that no worker survives is told below, and the others go on
    gpu = uses_gpus(options, resources)
    size = min(max(1, int(resources.get("GPU" if gpu else "CPU", 0))), len(jobs))
    rows = [
        {"number": i, "source": str(job.source.absolute()), "target": str(job.target.absolute())}
        for i, job in enumerate(jobs)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray 2.64 will have other names for the last two; pyproject.toml stays below
        restored = from_items(rows, override_num_blocks=len(rows)).map(
            worker or Worker,  # type: ignore[arg-type]  # a class, made once in each worker
            fn_constructor_args=(portable(options),),
            compute=ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=int(gpu),
            max_restarts=-1,
            max_task_retries=TRIES - 1,
        )
    awaited = dict(enumerate(jobs))
    try:
        for row in restored.iter_rows():
            if (job := awaited.pop(row["number"], None)) is not None:  # or computed again, after a machine was lost
                yield told(job, json.loads(row["result"]))
    except ray.exceptions.RayError as error:
        raise SynergicError(
            f"--cluster: expected workers, got none that works ({first_line(error)}); check that all machines have "
            "this version of synergic"
        ) from error
    for job in awaited.values():
        reason = f"expected a worker to finish it, but {TRIES} died over it; restore it alone to see why"
        yield told(job, {"status": "failed", "error": f"{job.source}: {reason}"})


def uses_gpus(options: Options, resources: dict[str, float]) -> bool:
    """Has each worker a GPU? Those of ONNX Runtime compute on processors."""
    return resources.get("GPU", 0) >= 1 and options.device in ("auto", "cuda") and options.engine == "torch"


def told(job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """A result with the names of the files as the user gave them."""
    return result | {"input": str(job.source), "output": str(job.target)}


def portable(options: Options) -> Options:
    """The options for another process: nothing loaded, a weights file by its full path."""
    weights = options.weights
    if weights is not None and weights not in published_weights() and Path(weights).is_file():
        weights = str(Path(weights).absolute())
    return replace(options, weights=weights, loaded={})


class Worker:
    """Restores files, with networks that stay loaded."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The result of one file, as JSON."""
        try:
            job = Job(place(row["source"]), place(row["target"]))
        except SynergicError as error:  # a store that cannot be reached from here
            result = {"status": "failed", "error": str(error)}
        else:
            # resume: the output was not there in the beginning, so it is of a worker that died before it could answer
            (result,) = restore_files([job], self.options, resume=not self.options.overwrite, clear=False)
        told = result | {"worker": f"{socket.gethostname()}:{os.getpid()}"}
        return {"number": row["number"], "result": json.dumps(told)}
