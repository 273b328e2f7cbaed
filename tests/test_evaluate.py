from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
import torch

from conftest import save
from synergic import Restorer, SynergicError
from synergic.data import to_tensor, to_uint8
from synergic.degradations import add_gaussian_noise, add_jpeg_artifacts
from synergic.evaluate import Protocol, evaluate
from synergic.metrics import psnr, psnr_b, ssim

MakeWeights = Callable[..., Path]


@pytest.fixture
def clean(tmp_path: Path, random: np.random.Generator) -> np.ndarray:
    pixels = random.integers(0, 256, (6, 5, 1), np.uint8).repeat(8, 0).repeat(8, 1)
    save(tmp_path / "clean" / "x.png", pixels)
    return pixels


def restorer_of(path: Path) -> Restorer:
    return Restorer.from_pretrained(path, device="cpu", precision="float32")


def test_gaussian_noise_by_hand(tmp_path: Path, clean: np.ndarray, make_weights: MakeWeights) -> None:
    restorer = restorer_of(make_weights())
    report = evaluate(restorer, Protocol(tmp_path / "clean", sigma=15, seed=3))
    noisy = add_gaussian_noise(to_tensor(clean), 15, torch.Generator().manual_seed(3))
    restored = to_uint8(restorer.tensor(noisy[None], sigma=15)[0])
    assert report["psnr"] == pytest.approx(psnr(restored, clean))
    assert report["ssim"] == pytest.approx(ssim(restored, clean))
    blind = evaluate(restorer, Protocol(tmp_path / "clean", sigma=15, seed=3, blind=True))
    assert blind["psnr"] != report["psnr"]


def test_noise_in_a_file_is_clipped_and_rounded(tmp_path: Path, clean: np.ndarray, make_weights: MakeWeights) -> None:
    restorer = restorer_of(make_weights())
    report = evaluate(restorer, Protocol(tmp_path / "clean", sigma=50, clipped=True, seed=3))
    noisy = add_gaussian_noise(to_tensor(clean), 50, torch.Generator().manual_seed(3))
    assert noisy.min() < 0 and noisy.max() > 1
    kept = to_uint8(noisy)
    restored = to_uint8(restorer.tensor(to_tensor(kept)[None], sigma=50)[0])
    assert report["psnr"] == pytest.approx(psnr(restored, clean))
    assert report["degraded_psnr"] == pytest.approx(psnr(kept, clean))
    words = "white Gaussian noise, sigma 50, clipped to [0, 1], rounded to 8 bit, seed 3 per picture"
    assert report["protocol"]["degradation"] == words


def test_networks_that_take_no_strength_are_told_none(
    tmp_path: Path, clean: np.ndarray, make_weights: MakeWeights
) -> None:
    restorer = restorer_of(make_weights(conditioned=False))
    report = evaluate(restorer, Protocol(tmp_path / "clean", sigma=15))
    assert report["psnr"] == evaluate(restorer, Protocol(tmp_path / "clean", sigma=15, blind=True))["psnr"]
    assert report["protocol"]["strength"] == "unknown to the network"
    told = evaluate(restorer_of(make_weights()), Protocol(tmp_path / "clean", sigma=15))
    assert told["protocol"]["strength"] == "known to the network"


def test_weights_are_told_nothing_that_they_do_not_take(
    tmp_path: Path, clean: np.ndarray, make_weights: MakeWeights
) -> None:
    restorer = restorer_of(make_weights("jpeg"))
    with pytest.raises(SynergicError, match="expected a quality to be told, got a sigma; pass --blind"):
        evaluate(restorer, Protocol(tmp_path / "clean", sigma=25))
    assert evaluate(restorer, Protocol(tmp_path / "clean", sigma=25, blind=True))["degraded_psnr"] < 21
    with pytest.raises(SynergicError, match="expected a sigma to be told, got a quality; pass --blind"):
        evaluate(restorer_of(make_weights()), Protocol(tmp_path / "clean", quality=20))


def test_ensemble(tmp_path: Path, clean: np.ndarray, make_weights: MakeWeights) -> None:
    ensemble = Restorer.from_pretrained(make_weights(), device="cpu", precision="float32", ensemble=True)
    report = evaluate(ensemble, Protocol(tmp_path / "clean", sigma=15))
    noisy = add_gaussian_noise(to_tensor(clean), 15, torch.Generator().manual_seed(0))
    restored = to_uint8(to_tensor(ensemble(noisy.permute(1, 2, 0).numpy(), sigma=15)))  # one tile
    assert report["protocol"]["ensemble"] is True
    assert report["psnr"] == pytest.approx(psnr(restored, clean), abs=1e-3)


def test_jpeg_by_hand(tmp_path: Path, clean: np.ndarray, make_weights: MakeWeights) -> None:
    restorer = restorer_of(make_weights("jpeg"))
    report = evaluate(restorer, Protocol(tmp_path / "clean", quality=10))
    degraded = add_jpeg_artifacts(to_tensor(clean), 10)
    restored = to_uint8(restorer.tensor(degraded[None], quality=10)[0])
    assert report["degraded_psnr"] == pytest.approx(psnr(to_uint8(degraded), clean))
    assert report["psnr"] == pytest.approx(psnr(restored, clean))
    assert report["psnr_b"] == pytest.approx(psnr_b(restored, clean))


@pytest.mark.parametrize("first", ["gray", "rgb"])
def test_psnr_b_is_a_mean_where_all_are_gray(
    tmp_path: Path, random: np.random.Generator, make_weights: MakeWeights, first: str
) -> None:
    colour = random.integers(0, 256, (32, 32, 3), np.uint8)
    save(tmp_path / "mixed" / "a.png", colour if first == "rgb" else colour[..., :1])
    save(tmp_path / "mixed" / "b.png", colour if first == "gray" else colour[..., :1])
    report = evaluate(restorer_of(make_weights("jpeg", 3)), Protocol(tmp_path / "mixed", quality=20))
    assert "psnr_b" not in report
    assert ["psnr_b" in image for image in report["images"]] == [first == "gray", first == "rgb"]
    assert report["psnr"] == pytest.approx(np.mean([image["psnr"] for image in report["images"]]))


def test_pairs(tmp_path: Path, clean: np.ndarray, make_weights: MakeWeights) -> None:
    degraded = np.clip(clean.astype(int) + 9, 0, 255).astype(np.uint8)
    save(tmp_path / "degraded" / "x.png", degraded)
    report = evaluate(restorer_of(make_weights()), Protocol(tmp_path / "clean", pairs=tmp_path / "degraded"))
    assert report["degraded_psnr"] == pytest.approx(psnr(degraded, clean))
    same = evaluate(restorer_of(make_weights()), Protocol(tmp_path / "clean", pairs=tmp_path / "clean"))
    assert same["degraded_psnr"] == float("inf"), "8 bits are as they were"
    save(tmp_path / "clean" / "y.png", clean)
    with pytest.raises(SynergicError, match="y: expected a degraded picture of .*, got none"):
        evaluate(restorer_of(make_weights()), Protocol(tmp_path / "clean", pairs=tmp_path / "degraded"))


@pytest.mark.parametrize("twice", ["clean", "degraded"])
def test_two_pictures_of_one_name_are_not_confused(
    tmp_path: Path, clean: np.ndarray, make_weights: MakeWeights, twice: str
) -> None:
    save(tmp_path / "degraded" / "x.png", clean)
    save(tmp_path / twice / "x.tif", clean)
    with pytest.raises(SynergicError, match=f"{twice}: x: expected one picture of this name, got two suffixes; rename"):
        evaluate(restorer_of(make_weights()), Protocol(tmp_path / "clean", pairs=tmp_path / "degraded"))


@pytest.mark.parametrize("save_at", ["clean", "degraded", ".", "clean/restored", "link"])
def test_a_folder_that_holds_originals_is_refused(
    tmp_path: Path, clean: np.ndarray, make_weights: MakeWeights, save_at: str
) -> None:
    save(tmp_path / "degraded" / "x.png", clean)
    (tmp_path / "link").symlink_to(tmp_path / "degraded")
    before = (tmp_path / "clean" / "x.png").read_bytes()
    protocol = Protocol(tmp_path / "clean", pairs=tmp_path / "degraded")
    with pytest.raises(SynergicError, match="expected a folder apart from .*, got one that shares pictures with it"):
        evaluate(restorer_of(make_weights()), protocol, tmp_path / save_at, overwrite=True)
    assert (tmp_path / "clean" / "x.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["denoise-1-True.safetensors", "x.png", "x.png"]


def test_only_what_an_earlier_run_saved_is_replaced(
    tmp_path: Path, clean: np.ndarray, make_weights: MakeWeights
) -> None:
    restorer, protocol, saved = restorer_of(make_weights()), Protocol(tmp_path / "clean", sigma=15), tmp_path / "saved"
    kept = save(saved / "x.png", clean).read_bytes()
    with pytest.raises(SynergicError, match=r"saved/x\.png: exists; pass --overwrite to replace it"):
        evaluate(restorer, protocol, saved)
    assert [path.read_bytes() for path in saved.iterdir()] == [kept]
    evaluate(restorer, protocol, saved, overwrite=True)
    first = (saved / "x.png").read_bytes()
    evaluate(restorer, Protocol(tmp_path / "clean", sigma=25), saved)
    assert kept != first != (saved / "x.png").read_bytes()
    save(tmp_path / "clean" / "y.png", clean)
    save(saved / "y.png", clean)
    with pytest.raises(SynergicError, match=r"saved/y\.png: exists"):
        evaluate(restorer, protocol, saved)
    (saved / "y.png").unlink()
    (saved / "index.html").write_text("a page of somebody's")
    with pytest.raises(SynergicError, match=r"saved/x\.png: exists"):
        evaluate(restorer, protocol, saved)
    (saved / "x.png").unlink()
    with pytest.raises(SynergicError, match=r"saved/index_files/degraded/x\.png: exists"):
        evaluate(restorer, protocol, saved)
    rmtree(saved / "index_files")
    with pytest.raises(SynergicError, match=r"saved/index\.html: exists"):
        evaluate(restorer, protocol, saved)
    (saved / "x.png").hardlink_to(tmp_path / "clean" / "x.png")
    with pytest.raises(SynergicError, match="expected an output apart from the inputs, got one of them"):
        evaluate(restorer, protocol, saved, overwrite=True)


def test_what_a_run_before_the_last_saved_is_replaced_too(
    tmp_path: Path, clean: np.ndarray, make_weights: MakeWeights
) -> None:
    save(tmp_path / "clean" / "y.png", clean)
    restorer, protocol, saved = restorer_of(make_weights()), Protocol(tmp_path / "clean", sigma=15), tmp_path / "saved"
    evaluate(restorer, protocol, saved)
    first = (saved / "y.png").read_bytes()
    evaluate(restorer, replace(protocol, limit=1), saved)
    evaluate(restorer, replace(protocol, sigma=25, limit=1), saved)
    assert (saved / "y.png").read_bytes() == first
    evaluate(restorer, replace(protocol, sigma=25), saved)
    assert (saved / "y.png").read_bytes() != first


def test_colour_pictures_for_gray_networks(tmp_path: Path, make_weights: MakeWeights) -> None:
    colour = np.full((32, 32, 3), (200, 100, 50), np.uint8)
    save(tmp_path / "clean" / "x.png", colour)
    noisy = Protocol(tmp_path / "clean", sigma=0)
    jpeg = Protocol(tmp_path / "clean", quality=90)
    assert next(noisy.samples(colors=1))[2][0, 0, 0] == 124  # 0.299 R + 0.587 G + 0.114 B
    assert next(jpeg.samples(colors=1))[2][0, 0, 0] == 123  # 16 + (65.481 R + 128.553 G + 24.966 B) / 255
    assert next(jpeg.samples(colors=3))[2].shape == (32, 32, 3)


def test_a_picture_that_cannot_be_measured_is_named_first(
    tmp_path: Path, clean: np.ndarray, make_weights: MakeWeights
) -> None:
    restorer = restorer_of(make_weights())
    save(tmp_path / "clean" / "z.png", clean[:10])
    report = evaluate(restorer, Protocol(tmp_path / "clean", sigma=25, limit=1))
    assert report["protocol"]["data"] == f"{tmp_path / 'clean'}, the first 1"
    with pytest.raises(SynergicError, match="clean: z: expected at least 11 x 11 pixels for SSIM, got 10 x 40"):
        evaluate(restorer, Protocol(tmp_path / "clean", sigma=25))
    (tmp_path / "clean" / "z.png").unlink()
    save(tmp_path / "clean" / "z.png", clean.astype(np.uint16))
    evaluate(restorer, Protocol(tmp_path / "clean", sigma=25, limit=1))
    with pytest.raises(SynergicError, match="z.png: expected an 8-bit picture, got uint16"):
        evaluate(restorer, Protocol(tmp_path / "clean", sigma=25))


def test_exactly_one_degradation(tmp_path: Path) -> None:
    with pytest.raises(SynergicError, match="expected one of sigma, quality, pairs, got sigma and quality"):
        Protocol(tmp_path, sigma=1, quality=1)
    with pytest.raises(SynergicError, match="clipped: expected it with sigma, got it with quality"):
        Protocol(tmp_path, quality=1, clipped=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sigma": float("nan")}, "sigma: expected 0 to 255, got nan"),
        ({"sigma": -3, "blind": True}, "sigma: expected 0 to 255, got -3"),
        ({"quality": 0}, "quality: expected 1 to 100, got 0"),
        ({"sigma": 25, "seed": 2**64}, "seed: expected 64 bits, got 18446744073709551616"),
    ],
)
def test_a_strength_that_cannot_be_is_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(SynergicError, match=message):
        Protocol(tmp_path, **given)


@pytest.mark.parametrize(("sigma", "figure"), [(15, 24.61), (25, 20.17), (50, 14.15)])
def test_noisy_set12_before_any_network(data: Path, sigma: float, figure: float) -> None:
    protocol = Protocol(data / "eval" / "set12", sigma=sigma)
    errors = [((noisy.numpy()[0] * 255 - clean[..., 0]) ** 2).mean() for _, noisy, clean in protocol.samples(1)]
    assert len(errors) == 12
    assert np.mean([10 * np.log10(255**2 / error) for error in errors]) == pytest.approx(figure, abs=0.05)
