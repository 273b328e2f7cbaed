"""Restoring on several machines: workers of a Ray cluster hold the network and take one file after another."""

import logging
import os
import secrets
import socket
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from synergic.batch import Job, Options, restore_files
from synergic.card import published_weights
from synergic.errors import SynergicError
from synergic.files import remove_unfinished

TRIES = 3
"""How many workers may die over a file."""


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
    replace(options, device="cpu", loaded={}).check()  # the device is the workers'
    for folder in {job.target.parent for job in jobs}:
        remove_unfinished(folder)
    there = {job for job in jobs if job.target.exists() and not options.overwrite}
    yield from restore_files([job for job in jobs if job in there], options, resume)
    if new := [job for job in jobs if job not in there]:
        with ray_at(address) as ray:
            yield from answers(ray, new, options)
        for folder in {job.target.parent for job in new}:  # what workers that died left
            remove_unfinished(folder)


def check_address(address: str) -> None:
    """Refuse what is no address, and a cluster beyond this machine to which anyone may connect: whoever can connect to
    Ray can run programs on all of its machines."""
    host, _, port = address.rpartition(":")
    if address not in ("local", "auto") and not (host and "/" not in host and port.isdigit()):
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


@contextmanager
def ray_at(address: str) -> Iterator[Any]:
    """Ray, connected, without usage statistics. A local one has a token of its own and leaves no files."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    asked: dict[str, Any] = {"address": address}
    short = "/tmp" if Path("/tmp").is_dir() else None  # the path of a socket has at most some hundred letters
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir=short, ignore_cleanup_errors=True) as folder,
        redirect_stdout(sys.stderr),  # Ray writes to stdout when a worker dies
    ):
        if address == "local":
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            asked |= {"_temp_dir": folder, "include_dashboard": False}
        import ray

        try:
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


def answers(ray: Any, jobs: Sequence[Job], options: Options) -> Iterator[dict[str, Any]]:
    """The results of all jobs. A worker has one file at a time, so that a file that kills it takes no other along."""
    resources = ray.cluster_resources()
    kind = "GPU" if resources.get("GPU", 0) >= 1 and options.device in ("auto", "cuda") else "CPU"
    remote = ray.remote(num_cpus=1, num_gpus=int(kind == "GPU"))(Worker)
    todo, deaths, idle = deque(jobs), Counter[Job](), list[Any]()
    busy: dict[Any, tuple[Any, Job | None]] = {}  # by what is awaited; without a job, a worker that starts

    def start() -> None:
        worker = remote.remote(portable(options))
        busy[worker.ready.remote()] = worker, None

    for _ in range(min(max(1, int(resources.get(kind, 0))), len(jobs))):
        start()
    while todo or any(job for _, job in busy.values()):
        while todo and idle:
            worker, job = idle.pop(), todo.popleft()
            busy[worker.restore.remote(Job(job.source.absolute(), job.target.absolute()))] = worker, job
        (answer,), _ = ray.wait(list(busy))
        worker, answered = busy.pop(answer)
        try:
            result = ray.get(answer)
        except ray.exceptions.RayError as error:
            if answered is None:
                if not (idle or busy):
                    reason = f"none starts ({first_line(error)}); check that all machines have this version of synergic"
                    raise SynergicError(f"--cluster: expected workers, but {reason}") from error
                continue
            start()
            deaths[answered] += 1
            if deaths[answered] < TRIES:
                todo.append(answered)
            else:
                reason = f"expected a worker to finish it, but {TRIES} died over it; restore it alone to see why"
                yield told(answered, {"status": "failed", "error": f"{answered.source}: {reason}"})
            continue
        idle.append(worker)
        if answered is not None:
            yield told(answered, result)


def told(job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """A result with the names of the files as the user gave them."""
    return result | {"input": str(job.source), "output": str(job.target)}


def portable(options: Options) -> Options:
    """The options for another process: nothing loaded, a weights file by its full path."""
    weights = options.weights
    if weights is not None and weights not in published_weights() and Path(weights).is_file():
        weights = str(Path(weights).absolute())
    return replace(options, weights=weights, loaded={})


def first_line(error: Exception) -> str:
    """What an error of Ray says first."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class Worker:
    """Restores files, with networks that stay loaded."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def ready(self) -> None:
        """Answers once the worker has started."""

    def restore(self, job: Job) -> dict[str, Any]:
        """The result of one file."""
        # resume: the output was not there in the beginning, so it is of a worker that died before it could answer
        (result,) = restore_files([job], self.options, resume=not self.options.overwrite)
        return result | {"worker": f"{socket.gethostname()}:{os.getpid()}"}
