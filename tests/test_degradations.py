"""Degradations in numbers: how much noise, of what kind, from which generator."""

from dataclasses import replace
from math import log10

import numpy as np
import pytest
import skimage.data
import torch
from torch import Generator, Tensor

from synergic.card import UNKNOWN_STRENGTH
from synergic.data import to_tensor
from synergic.degradations import (
    JPEG,
    Camera,
    CameraNoise,
    Degradation,
    GaussianNoise,
    add_gaussian_noise,
    add_jpeg_artifacts,
    bayer_mask,
    blur,
    core,
    demosaic,
    from_srgb,
    hidden,
    inverse_smooth_step,
    smooth_along_lines,
    smooth_step,
    to_srgb,
    uniform,
)

CAMERA = to_tensor(skimage.data.camera()[..., None])  # 1 512 512


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def flat(level: float, size: int = 48) -> Tensor:
    """An RGB picture of one 8-bit gray."""
    return torch.full((3, size, size), round(level * 255) / 255)


def scene(size: int = 64) -> Tensor:
    """An RGB picture in 8 bit with colours and texture."""
    gray = CAMERA[:, 100 : 100 + size, 200 : 200 + size]
    return torch.cat([gray, gray.flip(1), (255 - gray * 255).round() / 255])


def on_the_8_bit_grid(picture: Tensor) -> bool:
    levels = picture * 255
    return bool(((levels - levels.round()).abs() < 1e-3).all() and levels.min() >= 0 and levels.max() <= 255)


# ---- any degradation


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (2, 2)])
def test_the_smallest_pictures_get_a_cameras_noise(size: tuple[int, int]) -> None:
    clean = torch.full((3, *size), 0.5)
    for seed in range(20):
        degraded, _ = CameraNoise(clean=0.0, reduced=0.0)(clean, seeded(seed))
        assert degraded.shape == clean.shape
        assert degraded.isfinite().all()


@pytest.mark.parametrize("degradation", [GaussianNoise(), JPEG(), CameraNoise()], ids=lambda d: type(d).__name__)
def test_only_the_generator_decides(degradation: Degradation) -> None:
    clean = scene()
    before = clean.clone()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    degraded, strength = degradation(clean, seeded(5))
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(clean, before)
    assert degraded.shape == clean.shape and degraded.dtype == torch.float32
    torch.manual_seed(2)
    again, strength_again = degradation(clean, seeded(5))
    assert torch.equal(again, degraded) and strength_again == strength
    assert not torch.equal(degradation(clean, seeded(6))[0], degraded)
    generator = seeded(5)
    assert not torch.equal(degradation(clean, generator)[0], degradation(clean, generator)[0])


def test_uniform_and_hidden() -> None:
    generator = seeded()
    draws = [uniform(2, 5, generator) for _ in range(2000)]
    assert 2 <= min(draws) < 2.01 and 4.99 < max(draws) < 5
    assert np.mean(draws) == pytest.approx(3.5, abs=0.06)
    assert {hidden(0.3, 0.0, generator) for _ in range(50)} == {0.3}
    assert {hidden(0.3, 1.0, generator) for _ in range(50)} == {UNKNOWN_STRENGTH}


# ---- Gaussian noise


@pytest.mark.parametrize(("sigma", "decibels"), [(15, 24.61), (25, 20.17), (50, 14.15)])
def test_noise_protocol_figures(sigma: int, decibels: float) -> None:
    degraded = add_gaussian_noise(CAMERA, sigma, seeded())
    score = -10 * log10((degraded - CAMERA).double().square().mean().item())
    assert score == pytest.approx(20 * log10(255 / sigma), abs=0.05)
    assert score == pytest.approx(decibels, abs=0.05)
    assert degraded.min() < 0 and not on_the_8_bit_grid(degraded.clamp(0, 1))  # neither clipped nor rounded


def test_noise_is_white_and_gaussian() -> None:
    noise = add_gaussian_noise(torch.zeros(1, 512, 512), 255, seeded())[0]
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.pow(4).mean().item() == pytest.approx(3, abs=0.05)
    assert abs((noise[:, 1:] * noise[:, :-1]).mean()) < 0.01 and abs((noise[1:] * noise[:-1]).mean()) < 0.01
    assert torch.equal(add_gaussian_noise(CAMERA, 0, seeded()), CAMERA)


@pytest.mark.parametrize(("skew", "median"), [(1.0, 40.0), (2.0, 25.0)])  # of 10 + 60 u^skew, where u has median 1/2
def test_skew_draws_low_sigmas_more_often(skew: float, median: float) -> None:
    noise = GaussianNoise(sigma_min=10, sigma_max=70, skew=skew, blind=0)
    strengths = [noise(torch.zeros(1, 1, 1), seeded(seed))[1] * 255 for seed in range(1000)]
    assert np.median(strengths) == pytest.approx(median, abs=3)
    assert 10 <= min(strengths) < max(strengths) <= 70


def test_gaussian_noise_draws_sigma_and_hides_it() -> None:
    generator, clean = seeded(), torch.full((1, 32, 32), 0.5)
    strengths = []
    for _ in range(400):
        degraded, strength = GaussianNoise(10, 30, blind=0.25)(clean, generator)
        measured = (degraded - clean).std().item()
        assert 9 / 255 < measured < 33 / 255
        if strength != UNKNOWN_STRENGTH:
            assert measured == pytest.approx(strength, rel=0.12)
        strengths.append(strength)
    known = [255 * s for s in strengths if s != UNKNOWN_STRENGTH]
    assert 1 - len(known) / 400 == pytest.approx(0.25, abs=0.06)
    assert 10 <= min(known) < 11 and 29 < max(known) < 30 and np.mean(known) == pytest.approx(20, abs=1.2)


def test_a_share_of_gaussian_noise_ends_at_black_and_white() -> None:
    clean = torch.tensor([0.0, 1.0]).repeat(50).expand(1, 8, -1)
    clipped, told = 0, []
    for seed in range(400):
        beyond, known = GaussianNoise(20, 20)(clean, seeded(seed))
        degraded, strength = GaussianNoise(20, 20, clipped=0.3)(clean, seeded(seed))
        told.append(strength == known)
        if torch.equal(degraded, beyond):
            continue
        clipped += 1
        assert torch.equal(degraded * 255, (degraded * 255).round()) and 0 <= degraded.min() < degraded.max() <= 1
        assert (degraded - beyond.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6
    assert clipped / 400 == pytest.approx(0.3, abs=0.06)
    assert all(told), "the strength and the noise are drawn as without"


# ---- JPEG


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_draws_quality_and_ends_in_8_bit(channels: int) -> None:
    generator, clean = seeded(), scene(16)[:channels]
    qualities = set()
    for _ in range(200):
        degraded, strength = JPEG(10, 14, blind=0.0)(clean, generator)
        assert on_the_8_bit_grid(degraded)
        qualities.add(round(strength * 100, 6))
        wanted = [add_jpeg_artifacts(clean, round(strength * 100), subsampling) for subsampling in (False, True)]
        assert any(torch.equal(degraded, each) for each in wanted)
    assert qualities == {10, 11, 12, 13, 14}


def test_jpeg_skew_draws_low_qualities_more_often() -> None:
    generator, clean = seeded(), scene(16)[:1]
    drawn = [round(JPEG(5, 94, skew=2, blind=0.0)(clean, generator)[1] * 100) for _ in range(600)]
    assert 5 <= min(drawn) < 8 and 90 < max(drawn) <= 94
    assert np.mean(drawn) == pytest.approx(4.5 + 90 / 3, abs=3), "the mean of a squared uniform number is 1/3"


def test_jpeg_subsampling_is_a_share() -> None:
    clean = scene(16)
    full, half = (add_jpeg_artifacts(clean, 50, subsampling) for subsampling in (False, True))
    assert not torch.equal(full, half)
    for share, wanted in ((0.0, full), (1.0, half)):
        degraded, strength = JPEG(50, 50, subsampled=share, blind=1.0)(clean, seeded())
        assert torch.equal(degraded, wanted) and strength == UNKNOWN_STRENGTH


def test_jpeg_quality_orders_the_error() -> None:
    errors = [(add_jpeg_artifacts(scene(), quality) - scene()).square().mean().item() for quality in (5, 20, 50, 95)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 20 * errors[3] > 0
    noisy = scene() + 0.3  # out of range is clipped, as a file would
    assert torch.equal(add_jpeg_artifacts(noisy, 50), add_jpeg_artifacts(noisy.clamp(0, 1), 50))


# ---- camera noise


def test_a_gray_picture_gets_the_gray_of_a_camera_s_noise() -> None:
    gray, colours = flat(0.5)[:1], flat(0.5)
    for seed in range(8):
        degraded = CameraNoise().add_sensor_noise(gray, seeded(seed))
        assert degraded.shape == gray.shape
        mean = CameraNoise().add_sensor_noise(colours, seeded(seed)).mean(0, keepdim=True)
        assert torch.allclose(degraded, mean, atol=1e-6)
        assert degraded.std() > 1e-3


def test_camera_noise_can_leave_a_picture_alone() -> None:
    degraded, strength = CameraNoise(clean=1.0, jpeg=0.0, blind=0.0)(scene(), seeded())
    assert torch.equal(degraded, scene()) and strength == 0
    shares = [torch.equal(CameraNoise(clean=0.3, jpeg=0.0)(scene(8), seeded(s))[0], scene(8)) for s in range(200)]
    assert np.mean(shares) == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize("jpeg", [0.0, 1.0])
def test_camera_noise_ends_in_8_bit_and_tells_its_strength(jpeg: float) -> None:
    for seed in range(8):
        degraded, strength = CameraNoise(clean=0.0, jpeg=jpeg, blind=0.0)(scene(), seeded(seed))
        assert on_the_8_bit_grid(degraded)
        assert 0 < strength == pytest.approx((degraded - scene()).square().mean().sqrt().item())
        assert CameraNoise(jpeg=jpeg, blind=1.0)(scene(), seeded(seed))[1] == UNKNOWN_STRENGTH


def test_jpeg_adds_to_camera_noise() -> None:
    assert CameraNoise(clean=1.0, jpeg=1.0, blind=0.0)(scene(), seeded())[1] > 0.002


def test_camera_noise_grows_with_the_light() -> None:
    """In linear light, where it arises: shot noise. The tone curve, steep in the dark, about evens that out; noise
    that did not grow would be a tenth as strong in the light as in the dark."""
    bands = torch.cat([flat(level, 64) for level in (0.05, 0.2, 0.4, 0.6)], 2)  # beside each other in one picture
    degradation = CameraNoise(shot_min=1e-3, shot_max=1e-3)
    for seed in range(6):
        noisy = degradation.add_sensor_noise(bands, seeded(seed))
        linear, finished = (
            [band[:, :, 8:-8].var((1, 2)).mean().item() for band in picture.chunk(4, 2)]
            for picture in (from_srgb(noisy), noisy)
        )
        assert linear == sorted(linear) and linear[-1] > 5 * linear[0], seed
        assert finished[3] > 0.5 * finished[1], seed


def test_the_bayer_pattern_begins_anywhere() -> None:
    """Where red is measured, not interpolated, its noise is greatest."""
    sharp, places = CameraNoise(shot_min=1e-3, fine_max=0.0, coarse_max=0.0, chroma_min=1.0), set()
    for seed in range(24):
        red = (sharp.add_sensor_noise(flat(0.4), seeded(seed)) - flat(0.4))[0]
        places.add(max((red[i::2, j::2].var().item(), i, j) for i in range(2) for j in range(2))[1:])
    assert places == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_shot_orders_the_noise() -> None:
    for seed in range(6):
        noise = [
            (CameraNoise(shot_min=shot, shot_max=shot).add_sensor_noise(flat(0.4), seeded(seed)) - flat(0.4)).std()
            for shot in (1e-5, 1e-4, 1e-3)
        ]
        assert noise[1] / noise[0] > 2.5 and noise[2] / noise[1] > 2.5  # about sqrt(10) each


def correlation(noise: Tensor) -> float:
    """Of horizontal neighbours. C H W."""
    noise = noise - noise.mean((1, 2), keepdim=True)
    return float((noise[:, :, 1:] * noise[:, :, :-1]).mean() / noise.square().mean())


def test_camera_noise_is_correlated_over_neighbours() -> None:
    for seed in range(12):
        degraded, _ = CameraNoise(shot_min=1e-4, clean=0.0, jpeg=0.0, reduced=0.0)(flat(0.5), seeded(seed))
        assert correlation(degraded - flat(0.5)) > 0.1, seed
    for reduced, low, high in ((0.0, 0.1, 0.7), (1.0, -0.02, 0.02)):  # demosaicing alone, and not even that
        sharp = CameraNoise(shot_min=1e-4, fine_max=0.0, coarse_max=0.0, reduced=reduced)
        least = np.mean([correlation(sharp.add_sensor_noise(flat(0.5), seeded(s)) - flat(0.5)) for s in range(12)])
        assert low < least < high


def test_sharpening_raises_the_noise_from_pixel_to_pixel() -> None:
    """Against the same noise unsharpened: stronger, its neighbours less alike; not at all where its weight is zero."""

    def noise(seed: int, sharpened: float, most: float = 2.0) -> Tensor:
        degradation = CameraNoise(shot_min=1e-4, filtered=0.0, reduced=1.0, sharpened=sharpened, sharpen_max=most)
        return degradation.add_sensor_noise(flat(0.5), seeded(seed)) - flat(0.5)

    for seed in range(8):
        soft, sharp = noise(seed, sharpened=0.0), noise(seed, sharpened=1.0)
        assert sharp.std() > 1.02 * soft.std()
        assert correlation(sharp) < correlation(soft) - 0.01
        assert torch.equal(noise(seed, sharpened=1.0, most=0.0), soft)


def test_coarse_noise_is_coarser() -> None:
    spread = [
        np.mean(
            [correlation(blur(degradation.add_sensor_noise(flat(0.5), seeded(s)) - flat(0.5), 2)) for s in range(8)]
        )
        for degradation in (CameraNoise(coarse_max=0.0, fine_max=0.0), CameraNoise(coarse_max=5.0, fine_max=0.0))
    ]
    assert spread[1] > spread[0]


def test_chroma_min_orders_the_colour_of_the_noise() -> None:
    def colour(chroma_min: float) -> float:
        noises = [
            CameraNoise(chroma_min=chroma_min).add_sensor_noise(flat(0.5), seeded(s)) - flat(0.5) for s in range(8)
        ]
        return float(np.mean([(noise - noise.mean(0)).std().item() / noise.std().item() for noise in noises]))

    assert colour(0.0) < colour(0.5) < colour(1.0)


def test_smoothing_along_lines_keeps_lines_and_smooths_the_rest() -> None:
    stripes = (torch.arange(32) % 2).float().expand(3, 32, 32)
    assert torch.equal(smooth_along_lines(stripes), stripes)
    assert torch.equal(smooth_along_lines(stripes.mT), stripes.mT)
    board = (stripes - stripes.mT).abs()  # changes as much across as down
    assert torch.equal(smooth_along_lines(board)[:, 1:-1, 1:-1], torch.full((3, 30, 30), 0.5))

    def noise(seed: int, directed: float) -> Tensor:
        white = CameraNoise(shot_min=1e-3, reduced=1.0, filtered=1.0, fine_max=0.0, coarse_max=0.0, directed=directed)
        return white.add_sensor_noise(flat(0.5), seeded(seed)) - flat(0.5)

    for seed in range(8):
        assert correlation(noise(seed, 1.0)) > 0.2
        assert correlation(noise(seed, 0.0)) < 0.05


def test_coring_takes_what_is_weak_and_leaves_what_is_strong() -> None:
    def tails(noise: Tensor) -> float:
        """Kurtosis of the noise's difference from its blur: 3 for normal noise."""
        detail = noise - blur(noise, 1.0)
        return float(detail.pow(4).mean() / detail.square().mean() ** 2)

    noise = torch.randn(3, 64, 64, generator=seeded())
    assert torch.allclose(core(noise, 1.0, 0.0), noise, atol=1e-4)
    assert abs(tails(noise) - 3) < 0.2
    assert tails(core(noise, 1.0, 0.5)) > 3.3
    assert tails(core(noise, 1.0, 1.0)) > 4.5
    assert core(noise, 1.0, 1.0).std() < 0.8 * noise.std()
    strong = noise.abs() > 3
    assert (core(noise, 1.0, 1.0) / noise)[strong].median() > 0.8
    white = CameraNoise(shot_min=1e-3, reduced=1.0, filtered=1.0, fine_max=0.0, coarse_max=0.0, chroma_min=1.0)
    heavy = [
        tails(replace(white, cored=share).add_sensor_noise(flat(0.5), seeded(s)) - flat(0.5))
        for share in (0.0, 1.0)
        for s in range(8)
    ]
    assert np.median(heavy[:8]) < 3.3 < np.median(heavy[8:])


def test_chroma_blur_makes_the_colour_of_the_noise_coarser_and_leaves_its_luma() -> None:
    white = CameraNoise(shot_min=1e-3, reduced=1.0, filtered=1.0, fine_max=0.0, coarse_max=0.0, chroma_min=1.0)

    def noise(seed: int, chroma_blur_max: float) -> Tensor:
        degradation = replace(white, chroma_blur_max=chroma_blur_max)
        return degradation.add_sensor_noise(flat(0.5), seeded(seed)) - flat(0.5)

    blurred, alike = [noise(seed, 3.0) for seed in range(12)], []
    for seed, coarse in enumerate(blurred):
        assert torch.allclose(coarse.mean(0), noise(seed, 0.0).mean(0), atol=1e-6)
        alike.append((correlation(coarse.mean(0, keepdim=True)), correlation(coarse - coarse.mean(0))))
    luma, colour = np.median(alike, 0)
    assert abs(luma) < 0.05
    assert colour > 0.6


def test_skew_draws_strong_noise_and_filtered_leaves_the_rest_as_it_was() -> None:
    def deviations(skew: float) -> list[float]:
        noise = CameraNoise(clean=0.0, jpeg=0.0, reduced=1.0, skew=skew)
        return [(noise(flat(0.5), seeded(s))[0] - flat(0.5)).std().item() for s in range(60)]

    assert np.median(deviations(0.6)) > 1.5 * np.median(deviations(1.0))
    raw = CameraNoise(clean=0.0, jpeg=0.0, reduced=1.0, filtered=0.0)
    for seed in range(4):
        noise = (raw(flat(0.5), seeded(seed))[0] - flat(0.5))[1]
        neighbours = (noise[:, 1:] * noise[:, :-1]).mean() / noise.square().mean()
        assert abs(neighbours) < 0.1, "white"


def test_camera_noise_keeps_the_mean_of_mid_gray() -> None:
    gray = flat(0.5, size=192)
    shifts = [(CameraNoise(clean=0.0, jpeg=0.0)(gray, seeded(seed))[0] - gray).mean().item() for seed in range(40)]
    assert abs(np.mean(shifts)) < 0.1 / 255
    assert np.abs(shifts).max() < 1.5 / 255  # of noise up to sigma 40


# ---- the camera


def test_a_camera_undoes_itself_in_mid_tones() -> None:
    clean = 0.35 + 0.3 * torch.rand(3, 24, 24, generator=seeded())
    grays = torch.linspace(0.2, 0.8, 61).expand(3, 1, 61)
    for seed in range(50):
        camera = Camera.draw(seeded(seed))
        for picture in (clean, grays):
            assert (camera.to_picture(camera.to_raw(picture)) - picture).abs().max() < 2 / 255


def test_a_camera_keeps_gray_gray() -> None:
    for seed in range(20):
        camera = Camera.draw(seeded(seed))
        assert torch.allclose(camera.matrix.sum(1), torch.ones(3))
        assert 1.5 <= camera.gains[0] / camera.gains[1] <= 2.4 and 1.4 <= camera.gains[2] / camera.gains[1] <= 2
        raw = camera.to_raw(flat(0.5, 2))
        assert raw.min() > 0 and raw[1].mean() > raw[0].mean()  # the sensor sees green best
        picture = camera.to_picture(raw * 1.1)
        assert (picture.amax(0) - picture.amin(0)).max() < 1e-5 and picture.min() > 0.5


def test_tone_curves_by_hand() -> None:
    assert to_srgb(torch.tensor(0.2140)).item() == pytest.approx(0.5, abs=1e-3)
    assert from_srgb(torch.tensor([0.0, 0.04, 0.5, 1.0])).tolist() == pytest.approx(
        [0, 0.04 / 12.92, 0.2140, 1], abs=1e-4
    )
    values = torch.linspace(0, 1, 256)
    assert torch.allclose(to_srgb(from_srgb(values)), values, atol=1e-5)
    assert smooth_step(torch.tensor([0.0, 0.25, 0.5, 1.0])).tolist() == [0, 0.15625, 0.5, 1]
    assert torch.allclose(inverse_smooth_step(smooth_step(values)), values, atol=1e-3)


@pytest.mark.parametrize("offset", range(4))
def test_a_bayer_mask_sees_each_pixel_once(offset: int) -> None:
    mask = bayer_mask(6, 8, offset)
    assert torch.equal(mask.sum(0), torch.ones(6, 8))
    assert mask.sum((1, 2)).tolist() == [12, 24, 12]
    assert mask[:, :2, :2].sum((1, 2)).tolist() == [1, 2, 1]
    assert bayer_mask(5, 3, offset).sum() == 15
    corner = mask[:, 0, 0].argmax().item()
    assert corner == [0, 1, 1, 2][offset]  # RGGB read from its top left


@pytest.mark.parametrize("offset", range(4))
def test_demosaic_of_a_constant_is_that_constant(offset: int) -> None:
    colours = torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1)
    mosaic = colours * bayer_mask(8, 10, offset)
    assert torch.allclose(demosaic(mosaic), colours.expand_as(mosaic)), "to the edge"


def test_blur() -> None:
    x = torch.zeros(1, 25, 25)
    x[0, 12, 12] = 1
    assert torch.allclose(blur(x, 0), x, atol=1e-6)
    spot = blur(x, 1.5)
    assert spot.sum().item() == pytest.approx(1, abs=1e-5) and spot.max() == spot[0, 12, 12]
    row = spot[0].sum(0)
    assert (row * (torch.arange(25.0) - 12) ** 2).sum().sqrt().item() == pytest.approx(1.5, abs=0.01)
    assert torch.allclose(blur(flat(0.4, 9), 2), flat(0.4, 9))
