import os
import sys
from collections.abc import Callable
from pathlib import Path
from stat import S_IMODE
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import save
from synergic.batch import Job, Options, Work, passed_over, plan_jobs, restore_files
from synergic.errors import SynergicError
from synergic.images import Picture, read_picture, read_pixels, write_picture

MakeWeights = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, random: np.random.Generator) -> Path:
    """Three pictures in two folders, one broken file, one file that is no picture."""
    for name in ("a.png", "b.jpg", "deep/a.png"):
        save(tmp_path / "in" / name, random.integers(0, 256, (20, 24, 3), np.uint8))
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "in" / "notes.txt").write_text("hello")
    return tmp_path / "in"


def options(weights: Path, **changes: object) -> Options:
    return Options(weights=str(weights), device="cpu", precision="float32", **changes)  # type: ignore[arg-type]


def test_a_folder_is_mirrored_and_a_broken_file_does_not_stop_it(folder: Path, make_weights: MakeWeights) -> None:
    out = folder.parent / "out"
    results = list(restore_files(plan_jobs([folder], out), options(make_weights())))
    assert [result["status"] for result in results] == ["restored", "restored", "failed", "restored"]
    assert "broken.png" in results[2]["error"]
    assert "\n" not in results[2]["error"]
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert written == ["a.png", "b.jpg", "deep/a.png"]
    assert read_pixels(out / "deep" / "a.png").shape == (20, 24, 3)
    assert results[0]["width"] == 24
    assert results[0]["height"] == 20


def test_nothing_is_overwritten_unless_asked(folder: Path, make_weights: MakeWeights) -> None:
    out = folder.parent / "out"
    jobs = plan_jobs([folder / "a.png"], out)
    list(restore_files(jobs, options(make_weights())))
    first = (out / "a.png").read_bytes()
    again = list(restore_files(jobs, options(make_weights(), strength=0.0)))
    assert again[0]["status"] == "failed"
    assert "exists; pass --overwrite" in again[0]["error"]
    assert (out / "a.png").read_bytes() == first
    list(restore_files(jobs, options(make_weights(), strength=0.0, overwrite=True)))
    assert (read_pixels(out / "a.png") == read_pixels(folder / "a.png")).all()


def test_resume_skips_what_is_there(folder: Path, make_weights: MakeWeights) -> None:
    jobs = plan_jobs([folder], folder.parent / "out")
    list(restore_files(jobs[:1], options(make_weights())))
    statuses = [result["status"] for result in restore_files(jobs, options(make_weights()), resume=True)]
    assert statuses == ["skipped", "restored", "failed", "restored"]


def test_resume_takes_an_empty_output_for_none(folder: Path, make_weights: MakeWeights) -> None:
    (jobs, out) = (plan_jobs([folder / "a.png"], folder.parent / "out"), folder.parent / "out")
    out.mkdir()
    (out / "a.png").touch()
    assert next(restore_files(jobs, options(make_weights())))["status"] == "failed", "unless asked it is left alone"
    assert next(restore_files(jobs, options(make_weights()), resume=True))["status"] == "restored"
    assert read_pixels(out / "a.png").shape == (20, 24, 3)
    (out / "broken.png").touch()
    (broken,) = restore_files(plan_jobs([folder / "broken.png"], out), options(make_weights()), resume=True)
    assert broken["status"] == "failed", "an empty output is no other run's"


@pytest.mark.skipif(sys.platform == "win32", reason="rights")
def test_a_private_photograph_stays_private(folder: Path, make_weights: MakeWeights) -> None:
    (folder / "a.png").chmod(0o600)
    list(restore_files(plan_jobs([folder / "a.png", folder / "b.jpg"], folder.parent / "out"), options(make_weights())))
    modes = {path.name: S_IMODE(path.stat().st_mode) for path in (folder.parent / "out").iterdir()}
    assert modes["a.png"] == 0o600
    assert modes["b.jpg"] == S_IMODE((folder / "b.jpg").stat().st_mode), "as readable as before"


@pytest.mark.skipif(sys.platform == "win32", reason="rights")
def test_folders_are_as_private_as_those_they_mirror(folder: Path, make_weights: MakeWeights) -> None:
    folder.chmod(0o750)
    (folder / "deep").chmod(0o500)
    out, plain = folder.parent / "new" / "out", folder.parent / "plain"
    plain.mkdir()
    results = list(restore_files(plan_jobs([folder], out), options(make_weights())))
    assert "restored" in {result["status"] for result in results}
    modes = {path.name: S_IMODE(path.stat().st_mode) for path in (out, out / "deep", out.parent)}
    assert modes == {"out": 0o750, "deep": 0o700, "new": S_IMODE(plain.stat().st_mode)}


def test_a_folder_in_the_place_of_an_output_is_not_skipped(folder: Path, make_weights: MakeWeights) -> None:
    out = folder.parent / "out"
    (out / "a.png").mkdir(parents=True)
    (result,) = restore_files(plan_jobs([folder / "a.png"], out), options(make_weights()), resume=True)
    assert result["status"] == "failed"


def test_a_picture_that_cannot_be_restored_is_named(tmp_path: Path, make_weights: MakeWeights) -> None:
    save(tmp_path / "in" / "a.tif", np.zeros((8, 8, 1), np.float32))
    save(tmp_path / "in" / "nan.tif", np.full((8, 8, 1), np.nan, np.float32))
    results = list(restore_files(plan_jobs([tmp_path / "in"], tmp_path / "out"), options(make_weights())))
    assert [result["status"] for result in results] == ["restored", "failed"]
    nan = tmp_path / "in" / "nan.tif"
    assert results[1]["error"] == f"{nan}: picture: expected finite values, got NaN or infinity; replace them first"


def test_a_task_that_the_weights_are_not_for_is_refused(make_weights: MakeWeights) -> None:
    weights = make_weights("jpeg")
    Options(weights=str(weights), task="jpeg").check()
    with pytest.raises(SynergicError, match="task: expected jpeg, which jpeg-1-True are for, got denoise; leave it"):
        Options(weights=str(weights), task="denoise").check()


def test_outputs_by_name(folder: Path) -> None:
    out = folder.parent / "out"
    assert plan_jobs([folder / "a.png"], out / "x.tif") == [Job(folder / "a.png", out / "x.tif")]
    assert plan_jobs([folder / "a.png"], out) == [Job(folder / "a.png", out / "a.png")]
    assert plan_jobs([str(folder)], str(out)) == plan_jobs([folder], out)
    assert [job.target for job in plan_jobs([folder / "deep", folder / "b.jpg"], out)] == [out / "a.png", out / "b.jpg"]


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["a.png"], "x.HEIC", r"x\.HEIC: expected a name ending in one of \.jfif .* \.webp, got the name of a picture"),
        (["."], "x.heic", r"x\.heic: expected a folder for several pictures, got the name of a picture"),
        (["."], "x.png", r"x\.png: expected a folder for several pictures, got the name of a picture"),
        (["a.png", "b.jpg"], "x.png", "expected a folder for several pictures"),
        (["a.png"], "x.tga", r"x\.tga: expected a name ending in one of"),
        (["."], "x.cr2", r"x\.cr2: expected a folder for several pictures, got the name of a picture"),
    ],
)
def test_an_output_that_cannot_be_what_its_name_says_is_refused(
    folder: Path, inputs: list[str], output: str, message: str
) -> None:
    given, out = [folder / name for name in inputs], folder.parent / output
    with pytest.raises(SynergicError, match=message):
        plan_jobs(given, out)
    out.mkdir()  # a folder of this name is one
    assert {job.target.parents[len(job.target.relative_to(out).parts) - 1] for job in plan_jobs(given, out)} == {out}
    assert plan_jobs(given, out.with_name("scans.v2"))[0].target == out.with_name("scans.v2") / "a.png"


def test_jpeg_weights_that_take_no_quality_restore_a_jpeg(folder: Path, make_weights: MakeWeights) -> None:
    for conditioned in (True, False):
        weights = make_weights("jpeg", 3, conditioned)
        (result,) = restore_files(plan_jobs([folder / "b.jpg"], folder.parent / str(conditioned)), options(weights))
        assert result["status"] == "restored"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "tpu"}, "device: expected one that this machine has, got 'tpu'"),
        ({"tile_size": 5}, "tile size: expected at least 128, got 5"),
        ({"precision": "int4"}, "precision: expected auto, float32 or bfloat16, got 'int4'"),
    ],
)
def test_what_no_picture_could_be_restored_with_is_refused_first(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SynergicError, match=message):
        Options(**changes).check()
    unasked = Options()
    unasked.check()
    assert not unasked.loaded, "a run that finds all done loads nothing"


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JFIF"])
def test_other_names_of_jpeg_are_kept(tmp_path: Path, make_weights: MakeWeights, suffix: str) -> None:
    source = tmp_path / "in" / f"a{suffix}"
    source.parent.mkdir()
    Image.new("RGB", (16, 8), "red").save(source, "JPEG", quality=97)
    (result,) = restore_files(plan_jobs([source.parent], tmp_path / "out"), options(make_weights()))
    assert (result["status"], result["output"]) == ("restored", str(tmp_path / "out" / f"a{suffix}"))
    with Image.open(result["output"]) as image:
        assert (image.format, image.size) == ("JPEG", (16, 8))
    assert read_picture(Path(result["output"])).jpeg_quality == 97


def test_two_inputs_of_one_name_are_refused_before_anything_is_written(folder: Path) -> None:
    with pytest.raises(SynergicError, match="expected an output name of its own"):
        plan_jobs([folder / "a.png", folder / "deep" / "a.png"], folder.parent / "out")


def test_folders_of_the_output_that_are_one_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / "in" / name / "x.png", np.zeros((4, 4, 1), np.uint8))
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    assert len(plan_jobs([tmp_path / "in"], out)) == 2
    (out / "b").symlink_to("a")
    with pytest.raises(SynergicError, match=r"b/x\.png: expected an output name of its own, got .* like .*a/x\.png"):
        plan_jobs([tmp_path / "in"], out)


def test_a_link_to_nothing_in_the_place_of_an_output_is_told_before_the_work(
    folder: Path, make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder.parent / "out"
    out.mkdir()
    (out / "a.png").symlink_to("nowhere.png")
    options = Options(weights=str(make_weights()), device="cpu")
    monkeypatch.setattr(options, "restorer", lambda _: pytest.fail("it was restored"))
    for resume in (False, True):
        (result,) = restore_files(plan_jobs([folder / "a.png"], out), options, resume)
        assert result["status"] == "failed"
        assert "out/a.png: exists; pass --overwrite" in result["error"]


def test_what_is_no_regular_file_is_called_so(tmp_path: Path, make_weights: MakeWeights) -> None:
    os.mkfifo(tmp_path / "pipe")
    jobs = plan_jobs([tmp_path / "pipe"], tmp_path / "x.png")
    (result,) = restore_files(jobs, Options(weights=str(make_weights()), device="cpu"))
    assert result["error"] == f"{tmp_path}/pipe: expected a picture file, got something else; check the path"


@pytest.mark.parametrize(
    "names", [("a.png", "A.png"), ("Strau\u00df.png", "STRAUSS.png"), ("e\u0301.png", "\u00e9.png")]
)
def test_names_that_one_disk_takes_for_one_are_refused_there(
    tmp_path: Path, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "card1", tmp_path / "card2"]
    for folder, name in zip(folders, names, strict=True):
        save(folder / name, np.zeros((4, 4, 1), np.uint8))
    assert [job.target.name for job in plan_jobs(folders, tmp_path / "out")] == list(names)
    monkeypatch.setattr("synergic.batch.ignores_case", lambda _: True)
    with pytest.raises(SynergicError, match="expected an output name of its own, got .* like .*card1"):
        plan_jobs(folders, tmp_path / "out")


def test_shards_are_disjoint_and_complete(folder: Path) -> None:
    jobs = plan_jobs([folder], folder.parent / "out")
    shards = [plan_jobs([folder], folder.parent / "out", (i, 3)) for i in (1, 2, 3)]
    assert [len(shard) for shard in shards] == [2, 1, 1]
    assert {job.source for shard in shards for job in shard} == {job.source for job in jobs}


def test_shards_write_what_one_run_writes(folder: Path, make_weights: MakeWeights) -> None:
    whole, parts = folder.parent / "whole", folder.parent / "parts"
    list(restore_files(plan_jobs([folder], whole), options(make_weights())))
    for i in (3, 1, 2):
        list(restore_files(plan_jobs([folder], parts, (i, 3)), options(make_weights()), resume=True))
    written = [{path.relative_to(out): path.read_bytes() for path in out.rglob("*.*")} for out in (whole, parts)]
    assert len(written[0]) == 3
    assert written[0] == written[1]


def test_an_empty_folder_and_a_missing_one(tmp_path: Path) -> None:
    with pytest.raises(SynergicError, match="expected pictures .* found none"):
        plan_jobs([tmp_path], tmp_path / "out")
    with pytest.raises(SynergicError, match="nothing is there"):
        plan_jobs([tmp_path / "missing"], tmp_path / "out")


def test_an_output_that_links_to_itself_is_refused(folder: Path) -> None:
    (folder.parent / "loop").symlink_to("loop")
    with pytest.raises(SynergicError, match="loop: expected a folder, got a link to nothing; choose another"):
        plan_jobs([folder], folder.parent / "loop")


def test_what_is_passed_over_is_counted(folder: Path) -> None:
    save(folder / "out" / "a.png", np.zeros((4, 4, 1), np.uint8))
    for name in (".hidden.txt", ".git/config", "out/notes.txt", "deep/b.raw", "deep/c.PNG.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no picture")
    (folder / "gone.png").symlink_to(folder / "nowhere")
    (folder / "other").symlink_to(folder / "deep")
    (folder / "itself").symlink_to("itself")
    (folder / "through").symlink_to("a.png/x")
    found = passed_over([folder, folder / "a.png"], folder / "out")
    assert (found.others, found.links, found.refused()) == (3, 4, [])
    assert found.told() == "files passed over: 3 of another kind, 4 linking to a folder or to nothing"
    assert passed_over([folder / "a.png"], folder / "out").told() == ""
    assert passed_over([folder / "deep"], folder / "out").told() == "files passed over: 2 of another kind"


@pytest.mark.parametrize(
    ("asked", "jpeg_quality", "task"),
    [
        ({}, None, "photo"),
        ({}, 90, "photo"),
        ({}, 20, "photo"),  # until weights for JPEG are published
        ({"sigma": 20.0}, 20, "denoise"),
        ({"quality": 20}, None, "jpeg"),
        ({"task": "denoise"}, 20, "denoise"),
    ],
)
def test_the_task_follows_the_file_and_the_options(
    asked: dict[str, object], jpeg_quality: int | None, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synergic.card.published_weights", lambda: {"photo": Path(), "gray-denoise": Path()})
    picture = Picture(np.zeros((1, 1, 3), np.uint8), None, {}, jpeg_quality)
    assert Options(**asked).task_for(picture) == task  # type: ignore[arg-type]


def test_a_coarse_jpeg_goes_to_jpeg_weights_with_its_own_quality(
    make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {"photo": make_weights("photo", 3), "gray-jpeg": make_weights("jpeg", 1)}
    monkeypatch.setattr("synergic.card.published_weights", lambda: published)
    asked = Options(device="cpu")
    picture = Picture(np.zeros((1, 1, 3), np.uint8), None, {}, 30)
    restorer = asked.restorer(picture)
    assert restorer.card.task == "jpeg"
    assert asked.quality_for(picture, restorer) == 30
    fine = Picture(picture.pixels, None, {}, 95)
    assert asked.restorer(fine).card.task == "photo"
    assert asked.quality_for(fine, asked.restorer(fine)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 300.0}, "sigma: expected 0 to 255, got 300"),
        ({"quality": 10}, "quality: .* works without"),
        ({"strength": -1.0}, "strength: expected 0 to 1, got -1"),
        ({"weights": "missing"}, "missing: expected a weights file or a published name"),
    ],
)
def test_wrong_usage_is_refused_before_the_first_picture(
    make_weights: MakeWeights, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(SynergicError, match=message):
        Options(**({"weights": str(make_weights())} | changes)).check()  # type: ignore[arg-type]


def test_the_network_waits_for_no_disk(
    folder: Path, make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next file is read, and the one before written, while one is in the network."""
    (folder / "broken.png").unlink()
    jobs = plan_jobs([folder], folder.parent / "out")
    read, entered = {job.source: Event() for job in jobs}, [Event() for _ in jobs]

    def reading(path: Path, **limits: int) -> Picture:
        picture = read_picture(path, **limits)
        read[path].set()
        return picture

    def restoring(work: Work, *arguments: Any) -> None:
        position = jobs.index(work.job)
        entered[position].set()
        assert all(read[job.source].wait(20) for job in jobs[: position + 2]), "the next one is read meanwhile"
        restore(work, *arguments)

    def writing(path: Path, picture: Picture, **how: bool) -> None:
        position = [job.target for job in jobs].index(path)
        assert all(event.wait(20) for event in entered[: position + 2]), "the next one is in the network meanwhile"
        write_picture(path, picture, **how)

    restore = Work.restore
    monkeypatch.setattr("synergic.batch.read_picture", reading)
    monkeypatch.setattr("synergic.batch.write_picture", writing)
    monkeypatch.setattr(Work, "restore", restoring)
    results = list(restore_files(jobs, options(make_weights())))
    assert [(result["status"], result.get("error")) for result in results] == [("restored", None)] * 3


def test_interrupted_it_finishes_what_is_being_written(
    folder: Path, make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "broken.png").unlink()
    jobs = plan_jobs([folder], folder.parent / "out")

    def interrupted(work: Work, *arguments: Any) -> None:
        if work.job == jobs[1]:
            raise KeyboardInterrupt
        restore(work, *arguments)

    restore = Work.restore
    monkeypatch.setattr(Work, "restore", interrupted)
    results = []
    with pytest.raises(KeyboardInterrupt):
        for result in restore_files(jobs, options(make_weights())):
            results.append(result)
    assert [result["output"] for result in results] == [str(jobs[0].target)]
    assert [job.target.exists() for job in jobs] == [True, False, False]


def test_a_toned_picture_gets_weights_for_gray_and_loses_its_noise() -> None:
    """Weights for colour leave noise that is alike in all colours: they won 1 dB here."""
    random, tint = np.random.default_rng(0), np.array([1.0, 0.9, 0.75])
    clean = np.linspace(40, 215, 160)[:, None, None].repeat(160, 1)
    noisy = np.rint(np.clip(clean + random.normal(0, 25, clean.shape), 0, 255) * tint).astype(np.uint8)
    options = Options(sigma=25.0, device="cpu")
    restorer = options.restorer(Picture(noisy, None, {}, None))
    assert restorer.card.name == "gray-denoise"
    error = np.sqrt(np.mean((restorer(noisy, sigma=25.0) - clean * tint) ** 2))
    assert error < 3
