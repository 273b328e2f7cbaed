"""Restoring by workers of Ray, as a process of its own: Ray stays out of the other tests."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conftest import save
from synergic import cli
from synergic.batch import Job, Options, plan_jobs, restore_files
from synergic.cluster import (
    FOLDER,
    Worker,
    check_address,
    check_that_it_answers,
    is_loopback,
    is_there,
    ray_at,
    restore_on_cluster,
    short_folder,
    uses_gpus,
)
from synergic.errors import SynergicError
from synergic.files import own_folder

FILES = 12


@contextmanager
def head_of_two() -> Iterator[str]:
    """The address of a cluster of two processors, as `ray start --head` starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        here = ["--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2", f"--temp-dir={folder}"]
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", "--head", *here, "--include-dashboard=false", "--block"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            yield f"127.0.0.1:{port}"
            process.kill()  # what it started ends with it


def test_a_killed_run_and_a_killed_worker_change_nothing(
    tmp_path: Path, make_weights: Callable[..., Path], random: np.random.Generator
) -> None:
    """A run on a Ray of its own is killed in the middle, and taken up by two workers of a cluster that runs already, of
    which one is killed: every file, byte for byte as one process writes it; nothing else stays."""
    before = (short_folder() / "ray").exists()  # where Ray would put its files
    for i in range(FILES):
        save(tmp_path / "in" / f"{i % 2}" / f"{i}.png", random.integers(0, 256, (200, 200, 3), np.uint8))
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    weights, written = str(make_weights(channels=32, blocks=2)), tmp_path / "out"
    arguments = ["restore", "in", "-o", "out", "--weights", weights, "--precision", "float32", "--json", "--resume"]
    command = [sys.executable, "-m", "synergic", *arguments, "--cluster"]
    started: Any = {"stdout": subprocess.PIPE, "cwd": tmp_path, "text": True}
    with head_of_two() as address:
        slow = os.environ | {"RAY_OVERRIDE_RESOURCES": '{"CPU": 1}'}  # whatever this machine has
        with subprocess.Popen(command, **started, env=slow) as process:
            assert process.stdout is not None
            while json.loads(process.stdout.readline())["status"] != "restored":
                pass
            opened = {Path(os.path.realpath(file)) for file in Path(f"/proc/{process.pid}/fd").iterdir()}
            process.kill()
        (own,) = {path for path in opened if path.name.startswith(FOLDER)}  # other tests have theirs beside it
        finished = {path.name for path in written.rglob("*.png")}
        assert 1 <= len(finished) <= FILES - 4
        results, victim = [], None
        with subprocess.Popen([*command, address], **started) as process:
            assert process.stdout is not None
            for line in process.stdout:
                results.append(json.loads(line))
                if victim is None and results[-1]["status"] == "restored":
                    victim = process_of(results[-1])
                    os.kill(victim, signal.SIGKILL)
    assert process.returncode == 1
    assert [result["input"] for result in results if result["status"] == "failed"] == ["in/broken.png"]
    assert len(results) == FILES + 1
    assert finished <= {Path(result["input"]).name for result in results if result["status"] == "skipped"}
    workers = {process_of(result) for result in results if "worker" in result}
    assert len(workers) >= 2

    alone = tmp_path / "alone"
    list(restore_files(plan_jobs([tmp_path / "in"], alone), Options(weights=weights, precision="float32")))
    files = [{file.relative_to(out): file.read_bytes() for file in out.rglob("*.*")} for out in (written, alone)]
    assert len(files[1]) == FILES
    assert files[0] == files[1]
    ended_by = time.monotonic() + 30  # they end by themselves, once they have seen that Ray has ended
    while alive := {worker for worker in workers if "ray::" in name_of(worker)}:
        assert time.monotonic() < ended_by, alive
        time.sleep(0.1)
    with own_folder(FOLDER, own.parent):  # as the next Ray of its own begins
        pass
    assert not own.exists(), "what the killed run left"
    assert (short_folder() / "ray").exists() == before

    (tmp_path / "in" / "broken.png").unlink()
    again = subprocess.run(command, capture_output=True, cwd=tmp_path, text=True, check=True)
    assert [json.loads(line)["status"] for line in again.stdout.splitlines()] == ["skipped"] * FILES


def process_of(result: dict[str, str]) -> int:
    """The process that a result comes from."""
    return int(result["worker"].partition(":")[2])


def name_of(pid: int) -> str:
    """The title of a process; none for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return ""


def by_workers(kind: str) -> subprocess.CompletedProcess[str]:
    """What two workers of tests/dying_workers.py give for four files."""
    command = [sys.executable, str(Path(__file__).with_name("dying_workers.py")), kind]
    environment = os.environ | {"RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


def test_a_file_that_kills_its_workers_is_given_up_and_the_others_are_not() -> None:
    results = {result["input"]: result for result in map(json.loads, by_workers("Deadly").stdout.splitlines())}
    assert {name: result["status"] for name, result in results.items()} == {
        "a.png": "restored",
        "deadly.png": "failed",
        "b.png": "restored",
        "c.png": "restored",
    }
    assert results["deadly.png"]["error"].startswith("deadly.png: expected a worker to finish it, but 3 died over it")


def test_workers_that_do_not_start_end_the_run() -> None:
    ended = by_workers("Stillborn")
    assert (ended.returncode, ended.stdout) == (2, "")
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("--cluster: expected workers, got none that works (")
    assert last.endswith("); check that all machines have this version of synergic")


@pytest.mark.parametrize("address", ["local", "127.0.0.1:6379", "localhost:6379", "[::1]:6379"])
def test_this_machine_needs_no_token(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    check_address(address)


@pytest.mark.parametrize(
    "address", ["auto", "10.0.0.1:6379", "head.example:6379", "localhost.example:6379", "0.0.0.0:1"]
)
def test_other_machines_need_a_token(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(
        SynergicError, match=f"{address}: expected Ray's token authentication, got none".replace("[", "")
    ):
        check_address(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    check_address(address)


@pytest.mark.parametrize("address", ["photos", "ray://head:10001", ":6379", "head:", "head:port", "head:\u00b2"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(SynergicError, match="--cluster: expected HOST:PORT, auto, or nothing"):
        check_address(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_an_address_where_nobody_listens_is_told_at_once(host: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address, begun = f"{host}:{free.getsockname()[1]}", time.monotonic()
        with pytest.raises(SynergicError, match="expected a Ray cluster that answers, got none .*; check the address"):
            check_that_it_answers(address)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("host", ["head..example", "a" * 64 + ".example"])
def test_a_host_that_no_name_could_have_is_one_line(host: str) -> None:
    with pytest.raises(SynergicError, match="expected a Ray cluster that answers, got none .*; check the address"):
        check_that_it_answers(f"{host}:6379")


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"device": "cuda0"}, "device: expected one that this machine has, got 'cuda0'"),
        ({"engine": "onnx", "device": "cuda"}, "device: expected auto or cpu with the onnx engine, got 'cuda'"),
    ],
)
def test_a_device_that_no_worker_could_have_is_refused_once(
    tmp_path: Path, make_weights: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], line: str
) -> None:
    monkeypatch.setattr("synergic.cluster.ray_at", lambda _: pytest.fail("Ray was started"))
    job = Job(save(tmp_path / "a.png", np.zeros((8, 8, 1), np.uint8)), tmp_path / "b.png")
    with pytest.raises(SynergicError, match=line):
        list(restore_on_cluster([job], Options(weights=str(make_weights()), **asked)))


def test_without_ray_it_says_what_to_install(
    tmp_path: Path,
    make_weights: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    source = save(tmp_path / "a.png", np.zeros((8, 8, 1), np.uint8))
    arguments = ["restore", source, "-o", tmp_path / "out", "--weights", make_weights(), "--cluster"]
    monkeypatch.setattr(sys, "argv", ["synergic", *map(str, arguments)])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    told = capsys.readouterr().err
    assert told == "synergic: --cluster: expected ray, got none; run pip install 'synergic[cluster]'\n"
    assert not (tmp_path / "out").exists()


def test_the_handlers_of_signals_stay_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own ends the program, with the signal's number and no summary."""

    def init(**_: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))

    ray = SimpleNamespace(init=init, shutdown=lambda: None, exceptions=SimpleNamespace(RayError=RuntimeError))
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the user's")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with ray_at("local"):
        assert signal.getsignal(signal.SIGTERM) == before
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_AUTH_TOKEN"] == "the user's"
    assert "RAY_AUTH_MODE" not in os.environ, "a token of one local Ray is no other cluster's"
    monkeypatch.setattr(ray, "init", lambda **_: None)  # Ray sets none outside the main thread, where nobody may

    def in_a_thread() -> bool:
        with ray_at("local") as connected:
            return connected is ray

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(in_a_thread).result()


@pytest.mark.parametrize(
    ("asked", "gpus", "wanted"),
    [({}, 8, True), ({}, 0, False), ({"device": "cpu"}, 8, False), ({"engine": "onnx"}, 8, False)],
)
def test_workers_of_onnx_runtime_are_one_for_each_processor(asked: dict[str, Any], gpus: int, wanted: bool) -> None:
    assert uses_gpus(Options(**asked), {"CPU": 128.0, "GPU": float(gpus)}) == wanted


def test_a_store_that_fails_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is asked what is there, and when a worker looks for its files: the line says why."""

    def fail(*_: object) -> Any:
        raise SynergicError("s3://bucket: cannot be reached: 503")

    job = Job(tmp_path / "a.png", tmp_path / "out" / "a.png")
    with monkeypatch.context() as patch:
        patch.setattr("synergic.cluster.size_of", fail)
        assert not is_there(job, resume=True)
    monkeypatch.setattr("synergic.cluster.place", fail)
    answer = Worker(Options())({"number": 3, "source": str(job.source), "target": str(job.target)})
    assert answer["number"] == 3
    result = json.loads(answer["result"])
    assert (result["status"], result["error"]) == ("failed", "s3://bucket: cannot be reached: 503")


def test_a_worker_does_not_list_the_folder_of_the_outputs(
    tmp_path: Path, make_weights: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synergic.batch.remove_unfinished", lambda _: pytest.fail("for every file"))
    save(tmp_path / "a.png", np.zeros((20, 20, 1), np.uint8))
    worker = Worker(Options(weights=str(make_weights()), device="cpu"))
    answer = worker({"number": 0, "source": str(tmp_path / "a.png"), "target": str(tmp_path / "b.png")})
    assert json.loads(answer["result"])["status"] == "restored"


def test_loopback() -> None:
    assert [is_loopback(host) for host in ("127.8.8.8", "::1", "localhost", "192.168.0.1", "")] == [1, 1, 1, 0, 0]
