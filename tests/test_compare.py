import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.data import astronaut

from conftest import save
from synergic import Restorer, SynergicError, compare
from synergic.compare import Place, classical_methods, colors_of, decibels, differing_places, table
from synergic.data import to_colors, to_tensor, to_uint8
from synergic.degradations import add_jpeg_artifacts
from synergic.evaluate import Protocol, evaluate
from synergic.explain import with_noise
from synergic.images import from_float, read_pixels
from synergic.metrics import psnr
from test_cli import Capture, call

MakeWeights = Callable[..., Path]
COLOUR = np.ascontiguousarray(astronaut()[:96, 160:240])


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Two quick methods in place of the classical ones; the sigmas that they are told."""
    told: list[float] = []

    def shrink(degraded: np.ndarray, sigma: float) -> np.ndarray:
        told.append(sigma)
        return degraded.mean() + (degraded - degraded.mean()) * 0.9

    methods = {"nothing": lambda degraded, _: degraded, "shrink": shrink}
    monkeypatch.setattr("synergic.compare.classical_methods", lambda: dict(methods))
    return told


@pytest.mark.parametrize("colors", [1, 3])
def test_classical_methods_remove_noise(colors: int) -> None:
    clean = to_colors(COLOUR, colors)
    noisy = with_noise(clean, 25)
    gains = {
        name: psnr(from_float(denoise(noisy, 25 / 255), np.uint8), clean) - psnr(from_float(noisy, np.uint8), clean)
        for name, denoise in classical_methods().items()
    }
    least = {"total variation": 7.0, "wavelets": 6.5, "non-local means": 6.0, "BM3D": 8.0}
    assert len(gains) == 4 + (find_spec("bm3d") is not None)
    for start, gain in least.items():
        assert all(value > gain for name, value in gains.items() if name.startswith(start)), gains


def test_the_first_call_sets_up_even_if_the_first_picture_is_clean(
    tmp_path: Path, make_weights: MakeWeights, two: list[float], random: np.random.Generator
) -> None:
    save(tmp_path / "$a_$.png", np.zeros((32, 32, 1), np.uint8))  # a name that is no TeX
    save(tmp_path / "b.png", random.integers(0, 256, (32, 32, 1), np.uint8))
    restorer = Restorer.from_pretrained(make_weights(), device="cpu")
    report, places = compare.compare(restorer, Protocol(tmp_path, blind=True, quality=20))
    assert [two[0] == 1 / 255, two[1] > 0.05, len(two)] == [True, True, 2]
    compare.draw_sheet(report, places, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


@pytest.mark.parametrize("given", [{"quality": 50}, {"sigma": 0}])
def test_what_has_no_noise_stays_as_it_is(tmp_path: Path, make_weights: MakeWeights, given: dict[str, Any]) -> None:
    """A white page among the pictures: its JPEG has no error, and some methods divide by it."""
    save(tmp_path / "clean" / "a.png", np.full((32, 32, 1), 255, np.uint8))
    restorer = Restorer.from_pretrained(make_weights(), device="cpu")
    report, _ = compare.compare(restorer, Protocol(tmp_path / "clean", blind=True, **given))
    assert [of["psnr"] for of in report["methods"][:-1]] == [float("inf")] * (len(report["methods"]) - 1)


def test_opencv_keeps_the_order_of_colours() -> None:
    restored = classical_methods()["non-local means (OpenCV)"](np.full((32, 32, 3), (0.8, 0.4, 0.2), np.float32), 0.02)
    assert restored[16, 16] == pytest.approx([0.8, 0.4, 0.2], abs=0.01)


def test_the_network_scores_as_in_evaluate(tmp_path: Path, make_weights: MakeWeights, two: list[float]) -> None:
    for name in "ab":
        save(tmp_path / "clean" / f"{name}.png", COLOUR[: 64 if name == "a" else 50])
    restorer = Restorer.from_pretrained(make_weights(), device="cpu", precision="float32")
    calls = list[tuple[int, int]]()
    protocol = Protocol(tmp_path / "clean", sigma=25)
    report, places = compare.compare(restorer, protocol, lambda done, total: calls.append((done, total)))
    known = evaluate(restorer, protocol)
    degraded, nothing, _, network = report["methods"]
    assert network["method"] == "SAT-Net (denoise-1-True)"
    assert (network["psnr"], network["ssim"]) == (known["psnr"], known["ssim"])
    assert degraded["psnr"] == known["degraded_psnr"]
    assert [image["psnr"] for image in network["images"]] == [image["psnr"] for image in known["images"]]
    assert nothing["seconds"] > 0
    assert calls == [(i, 6) for i in range(1, 7)]
    assert set(two) == {25 / 255}
    assert len(table(report).splitlines()) == 2 + 4
    assert {place.name for place in places} == {"a", "b"}
    blind = compare.compare(restorer, Protocol(tmp_path / "clean", sigma=25, blind=True))[0]
    assert blind["methods"][3]["psnr"] != network["psnr"]


def test_for_jpeg_the_classical_methods_know_the_true_error(
    tmp_path: Path, make_weights: MakeWeights, two: list[float]
) -> None:
    gray = to_colors(COLOUR, 1)
    save(tmp_path / "clean" / "x.png", gray)
    restorer = Restorer.from_pretrained(make_weights("jpeg"), device="cpu", precision="float32")
    report, _ = compare.compare(restorer, Protocol(tmp_path / "clean", quality=10))
    degraded = to_uint8(add_jpeg_artifacts(to_tensor(gray), 10))
    assert psnr(degraded, gray) == pytest.approx(-20 * np.log10(two[-1]), abs=1e-3)
    assert report["methods"][0]["psnr"] == pytest.approx(psnr(degraded, gray), abs=1e-3)
    assert "root mean square of the true error" in report["protocol"]["classical methods"]


def test_what_the_weights_cannot_be_told_is_refused_before_the_first_method(
    tmp_path: Path, make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "clean" / "x.png", to_colors(COLOUR, 1))
    restorer = Restorer.from_pretrained(make_weights(conditioned=True), device="cpu", precision="float32")
    monkeypatch.setattr(compare, "classical_methods", lambda: pytest.fail("a method ran"))
    with pytest.raises(SynergicError, match="expected a sigma to be told, got a quality"):
        compare.compare(restorer, Protocol(tmp_path / "clean", quality=10))


def test_places_where_the_methods_differ_most() -> None:
    flat = np.zeros((200, 300, 1), np.uint8)
    one, other = flat.copy(), flat.copy()
    one[20:40, 30:50] = 100
    other[150:160, 250:260] = 200
    shown = {"clean": flat, "degraded": flat + 9, "one": one, "other": other}
    first, second = differing_places("x", shown, 2)
    assert first.difference == pytest.approx(50**2 * 20**2 / 64**2)
    assert second.difference == pytest.approx(100**2 * 10**2 / 64**2)
    for place, (row, column, size) in ((first, (20, 30, 20)), (second, (150, 250, 10))):
        top, left = place.corner
        assert 0 <= top <= row
        assert row + size <= top + 64 <= 200
        assert 0 <= left <= column
        assert column + size <= left + 64 <= 300
    assert np.array_equal(second.crops["other"], other[second.corner[0] :, second.corner[1] :][:64, :64])
    assert len(differing_places("x", {name: picture[:20, :12] for name, picture in shown.items()}, 3)) == 1
    other[150:160, 250:260] = 100  # a quarter of the difference: too little to show
    assert [place.corner for place in differing_places("x", shown, 2)] == [first.corner]


def test_decibels_of_a_crop_are_of_what_the_methods_get() -> None:
    clean = np.zeros((8, 8, 1), np.uint8)
    below = np.full((8, 8, 1), -0.1, np.float32)  # clipped, nothing would be left of its error
    place = Place("x", clean, (0, 0), 1.0, {"clean": clean, "degraded": below, "one": clean + 51})
    assert [decibels(place, column) for column in place.crops] == ["", "20.00 dB", "13.98 dB"]


def test_gray_is_told_from_colour_by_what_is_seen(tmp_path: Path) -> None:
    gray = to_colors(COLOUR, 1)
    files = [save(tmp_path / "gray.png", gray), save(tmp_path / "rgb.png", to_colors(gray, 3))]
    colour = save(tmp_path / "colour.png", COLOUR)
    assert (colors_of(files), colors_of([colour]), colors_of([])) == (1, 3, 1)
    with pytest.raises(SynergicError, match=r"expected gray or colour pictures, got both, rgb.png and colour.png; "):
        colors_of([files[1], colour])


def test_without_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synergic.compare.find_spec", lambda _: None)
    with pytest.raises(SynergicError, match=r"expected scikit-image and PyWavelets, .* 'synergic\[compare\]'"):
        classical_methods()
    monkeypatch.setattr("synergic.compare.find_spec", lambda name: name in ("skimage", "pywt") or None)
    assert len(classical_methods()) == 3


def test_the_command(
    tmp_path: Path, make_weights: MakeWeights, two: list[float], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = save(tmp_path / "a.png", COLOUR), tmp_path / "found"
    command = ("compare", source, "-o", output, "--weights", make_weights(), "--device", "cpu")
    code, out, _ = call(capsys, monkeypatch, *command, "--sigma", 25)
    assert code == 0
    assert "| SAT-Net (denoise-1-True) |" in out
    assert "sigma 25.0" in out
    assert "| degraded " in (output / "table.md").read_text()
    report = json.loads((output / "report.json").read_text())
    assert [of["method"] for of in report["methods"]] == ["degraded", "nothing", "shrink", "SAT-Net (denoise-1-True)"]
    height, width = read_pixels(output / "sheet.png").shape[:2]
    assert 0.2 < height / width < 0.3, "one place in a row: the picture has room for no more"
    for name in ("sheet.png", "report.json", "table.md"):
        for path in output.iterdir():
            path.unlink()
        (output / name).write_text("somebody's")
        code, _, err = call(capsys, monkeypatch, *command, "--sigma", 25)
        assert (code, err) == (2, f"synergic: {output / name}: exists; pass --overwrite to replace it\n")
        assert [path.read_text() for path in output.iterdir()] == ["somebody's"]
    code, other, _ = call(capsys, monkeypatch, *command, "--sigma", 25, "--seed", 1, "--overwrite")
    assert code == 0
    assert other != out
    code, _, err = call(capsys, monkeypatch, *command, "--overwrite")
    assert (code, err.count("\n")) == (2, 1)
    assert "compare: expected one of --sigma and --quality" in err


def test_a_sheet_among_the_pictures_is_kept(
    tmp_path: Path, two: list[float], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / "out" / "sheet.png", to_colors(COLOUR, 1))
    before = source.read_bytes()
    command = ("compare", tmp_path / "out", "-o", tmp_path / "out", "--sigma", 25, "--overwrite")
    code, _, err = call(capsys, monkeypatch, *command)
    assert (code, err.count("\n")) == (2, 1)
    assert "sheet.png: expected an output apart from the inputs, got one of them" in err
    assert source.read_bytes() == before


def test_the_weights_of_the_task_are_taken_unless_told(
    tmp_path: Path, two: list[float], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / "a.png", to_colors(COLOUR, 1))
    command = ("compare", source, "-o", tmp_path / "out", "--sigma", 25)
    assert "SAT-Net (gray-denoise)" in call(capsys, monkeypatch, *command)[1]
    twin = save(tmp_path / "b.png", to_colors(to_colors(COLOUR, 1), 3))
    told = call(capsys, monkeypatch, "compare", twin, *command[2:], "--overwrite")[1]
    assert "SAT-Net (gray-denoise)" in told, "gray stored as RGB"
