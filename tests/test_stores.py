"""Pictures in an object store: moto's S3 on this machine, by the ordinary client."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from conftest import save
from synergic import cli
from synergic.batch import Options, plan_jobs, restore_files, size_of
from synergic.errors import SynergicError
from synergic.stores import fetched, identity, path_inside, place

S3 = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 of its own."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty one."""
    for name, value in S3.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    S3FileSystem.clear_instance_cache()
    named = place(f"s3://{tmp_path.name.replace('_', '-')}")
    named.mkdir()
    return named


@pytest.fixture
def scans(bucket: Path, tmp_path: Path, random: np.random.Generator) -> Path:
    """Three pictures, one that is none, one hidden and a text; and the same in the folder "in"."""
    for name in ("a.png", "more/b.png", "more/c.TIF"):
        save(tmp_path / "in" / name, random.integers(0, 256, (40, 30, 3), np.uint8))
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    save(tmp_path / "in" / ".hidden.png", np.zeros((8, 8, 1), np.uint8))
    (tmp_path / "in" / "notes.txt").write_text("none")
    for path in (tmp_path / "in").rglob("*.*"):
        (bucket / "in" / path.relative_to(tmp_path / "in")).write_bytes(path.read_bytes())
    return bucket / "in"


def contents(folder: Path) -> dict[str, bytes]:
    """What a folder holds, here or there, by name."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file)[len(str(folder)) + 1 :]: file.read_bytes() for file in files}


def test_a_store_gets_what_a_folder_gets(
    scans: Path, bucket: Path, tmp_path: Path, make_weights: Callable[..., Path]
) -> None:
    options = Options(weights=str(make_weights()), precision="float32")
    list(restore_files(plan_jobs([tmp_path / "in"], tmp_path / "out"), options))
    wanted = contents(tmp_path / "out")
    assert sorted(wanted) == ["a.png", "more/b.png", "more/c.TIF"]

    results = {result["input"]: result for result in restore_files(plan_jobs([scans], bucket / "out"), options)}
    assert [result["status"] for _, result in sorted(results.items())] == ["restored", "failed", "restored", "restored"]
    assert results[f"{scans}/broken.png"]["error"].startswith(f"{scans}/broken.png: cannot be read: ")
    assert contents(bucket / "out") == wanted
    assert contents(bucket / "in") == contents(tmp_path / "in")

    again = restore_files(plan_jobs([scans], bucket / "out"), options, resume=True)
    assert sorted(result["status"] for result in again) == ["failed", "skipped", "skipped", "skipped"]
    exists = next(restore_files(plan_jobs([scans / "a.png"], bucket / "out"), options))
    assert exists["error"] == f"{bucket / 'out'}/a.png: exists; pass --overwrite to replace it, or --resume to skip it"
    list(restore_files(plan_jobs([scans], tmp_path / "here"), options))
    assert contents(tmp_path / "here") == wanted
    with pytest.raises(SynergicError, match="expected an output apart from the inputs, got one of them"):
        plan_jobs([scans], scans)
    whole = plan_jobs([bucket], bucket / "out")
    assert sorted(str(job.source) for job in whole) == sorted(results), "what lies in the output is no input"


def test_a_folder_goes_to_a_store_by_the_command(
    scans: Path, bucket: Path, tmp_path: Path, make_weights: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = str(make_weights())
    (bucket / "in" / "marker.png").fs.pipe_file(f"{bucket.path}/in/marker.png/", b"")  # type: ignore[attr-defined]
    for source, target in ((tmp_path / "in", bucket / "out"), (scans, tmp_path / "here")):
        monkeypatch.setattr(sys, "argv", ["synergic", "restore", str(source), "-o", str(target), "--weights", weights])
        with pytest.raises(SystemExit, match="1"):  # of broken.png
            cli.main()
    assert sorted(contents(bucket / "out")) == ["a.png", "more/b.png", "more/c.TIF"]
    assert contents(bucket / "out") == contents(tmp_path / "here")


def test_a_store_that_fails_for_a_moment_costs_one_file(
    scans: Path, bucket: Path, make_weights: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With errors of its own kind, which are none of the system's."""

    def fails(target: Path) -> int | None:
        if target.name == "b.png":
            raise RuntimeError("no answer")
        return size_of(target)

    monkeypatch.setattr("synergic.batch.size_of", fails)
    options = Options(weights=str(make_weights()))
    results = list(restore_files(plan_jobs([scans], bucket / "out"), options, resume=True))
    assert sorted(result["status"] for result in results) == ["failed", "failed", "restored", "restored"]
    errors = [result["error"] for result in results if result["input"].endswith("b.png")]
    assert errors == [
        f"{bucket / 'out' / 'more' / 'b.png'}: cannot be reached: no answer; check the URL and the rights to it"
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="folders are not locked there")
def test_what_killed_runs_left_of_pictures_of_a_store_is_deleted(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be private; they lie in the temporary folder meanwhile."""
    code = "import os, sys; from synergic.stores import fetched, place\n"
    code += "with fetched(place(sys.argv[1])) as file: assert file.stat().st_size; os._exit(9)"
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    assert subprocess.run([sys.executable, "-c", code, str(scans / "a.png")], check=False).returncode == 9
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (left,) = (tmp_path / "temporary").iterdir()
    with fetched(scans / "a.png") as file:
        assert file.stat().st_size > 0
        assert not left.exists()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_one_place_by_two_names_is_one_place(scans: Path, bucket: Path) -> None:
    """s3a is another name of s3: an output by it would take the place of what is read."""
    other = place(str(scans).replace("s3://", "s3a://"))
    assert identity(other / "a.png") == identity(scans / "a.png")
    assert identity(other / "a.png") != identity(scans / "b.png")
    assert path_inside(other / "more", scans) == Path("more")
    assert path_inside(scans, other) is None and path_inside(scans, Path("in")) is None
    with pytest.raises(SynergicError, match="expected an output apart from the inputs"):
        plan_jobs([scans], other)


def test_workers_restore_a_store(scans: Path, bucket: Path, tmp_path: Path, make_weights: Callable[..., Path]) -> None:
    """Two workers of Ray, which reach it by themselves: byte for byte what one process writes into a folder."""
    weights, common = str(make_weights()), ["--precision", "float32", "--json"]
    command = [sys.executable, "-m", "synergic", "restore", str(scans), "-o", str(bucket / "out"), "--weights", weights]
    environment: dict[str, Any] = os.environ | {"RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}
    ended = subprocess.run(
        [*command, *common, "--cluster"], capture_output=True, text=True, check=False, env=environment
    )
    assert ended.returncode == 1, ended.stderr
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    assert sorted(result["status"] for result in results) == ["failed", "restored", "restored", "restored"]
    list(restore_files(plan_jobs([tmp_path / "in"], tmp_path / "out"), Options(weights=weights, precision="float32")))
    assert contents(bucket / "out") == contents(tmp_path / "out")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense://bucket/in", "expected a path or a URL such as s3://bucket/folder; Unsupported filesystem"),
        ("s3://bucket/in", "cannot be reached: "),
    ],
)
def test_what_cannot_be_reached_is_one_line(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (S3 | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # or it would go on with the server of the tests before
    monkeypatch.setattr(sys, "argv", ["synergic", "restore", url, "-o", "out"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    told = capsys.readouterr().err
    assert told.startswith(f"synergic: {url}: {said}")
    assert told.count("\n") == 1


@pytest.mark.parametrize(("missing", "url"), [("upath", "s3://bucket/in"), ("gcsfs", "gs://bucket/in")])
def test_without_what_reaches_it_it_says_what_to_install(
    missing: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SynergicError, match=f"{url}: .*install"):
        place(url)
