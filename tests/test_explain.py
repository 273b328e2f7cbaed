from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from skimage.data import brick

from conftest import save, tiny_card, tiny_network
from synergic import Restorer, SynergicError
from synergic.explain import (
    Attended,
    Kind,
    Trace,
    Watch,
    attended,
    bounds,
    conditions,
    explain,
    extremes,
    heat_picture,
    look,
    tile_at,
    trade_off,
    with_noise,
)
from synergic.network import NonLocalAttention, SynergicBlock
from synergic.tiling import axis_spans, overlap_of
from test_cli import Capture, call

MakeWeights = Callable[..., Path]


def restorer_of(colors: int = 1, tile_size: int = 512, **changes: Any) -> Restorer:
    network = tiny_network(colors, **changes)
    return Restorer(network, tiny_card(), torch.device("cpu"), torch.float32, tile_size)


def silence(restorer: Restorer, branch: str) -> None:
    """Make one branch of every block the identity."""
    for block in restorer.network.blocks:
        up = getattr(block, branch).up
        torch.nn.init.zeros_(up.weight)
        torch.nn.init.zeros_(up.bias)


def test_what_a_branch_adds_by_hand() -> None:
    features = torch.ones(1, 2, 1, 2)
    local = features + torch.tensor([3.0, 1.0]).view(1, 1, 1, 2)  # adds 3 and 1 in both channels: 1 and -1 off the mean
    weights = torch.tensor([[[0.75, 0.0]], [[0.25, 1.0]]])[..., None, None]  # 2 N C, alike everywhere
    added = Trace(features, torch.stack([local, features]), weights).added(patch_size=1)
    assert added.tolist() == [[[0.75, 0.75]], [[0.0, 0.0]]]
    spread = Trace(features, torch.stack([features, local * torch.tensor([2.0, 0.0])]), weights).added(patch_size=3)
    assert spread[1, 0, 0] == spread[1, 0, 1], "the mean over the patch around the position"


@pytest.mark.parametrize(("silent", "share"), [("nonlocal_attention", 0.0), ("local_attention", 1.0)])
def test_the_share_of_a_single_branch(silent: str, share: float, random: np.random.Generator) -> None:
    restorer = restorer_of(blocks=2)
    silence(restorer, silent)
    found = trade_off(restorer, random.random((21, 30)))
    assert found.share.shape == (21, 30)
    assert np.abs(found.share - share).max() < 1e-5


def test_the_trade_off_of_any_picture(random: np.random.Generator) -> None:
    for shape, colors in (((1, 1), 1), ((33, 18, 3), 1), ((30, 41, 3), 3), ((20, 9, 1), 3)):
        restorer = restorer_of(colors, blocks=2)
        found = trade_off(restorer, random.random(shape), sigma=25)
        assert found.share.shape == shape[:2]
        assert ((found.share >= 0) & (found.share <= 1)).all()
        assert (found.weights.shape, found.added.shape) == ((2, 2, 8), (2, 2))
        assert found.weights.sum(1) == pytest.approx(np.ones((2, 8)), abs=1e-6)


def test_the_trade_off_goes_by_tiles_and_by_strength(random: np.random.Generator) -> None:
    picture, calls = random.random((190, 150, 1)), list[tuple[int, int]]()
    restorer = restorer_of(tile_size=128, window=8, halo=4)
    tiled = trade_off(restorer, picture, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (4, 4)
    whole = trade_off(replace(restorer, tile_size=512), picture)
    assert np.abs(tiled.share - whole.share).mean() < 0.03, "windows fall otherwise in tiles, hence not equal"
    assert not np.array_equal(whole.share, trade_off(replace(restorer, tile_size=512), picture, sigma=50).share)
    assert not restorer.network.blocks[0].fusion._forward_hooks, "the restorer itself is left alone"  # type: ignore[union-attr]


def test_the_trade_off_of_tiles_in_bfloat16(random: np.random.Generator) -> None:
    """Its weights are float32, whatever the network computed in."""
    restorer, picture = restorer_of(tile_size=128, window=8, halo=4), random.random((190, 150, 1))
    exact, found = trade_off(restorer, picture), trade_off(replace(restorer, precision=torch.bfloat16), picture)
    assert found.weights.dtype == found.share.dtype == np.float32
    np.testing.assert_allclose(found.weights, exact.weights, atol=0.01)
    assert np.abs(found.share - exact.share).mean() < 0.03


def test_of_an_ensemble_it_is_the_picture_as_it_stands(random: np.random.Generator) -> None:
    """Not one of its other views, which lie otherwise on the map."""
    alone, picture = restorer_of(blocks=2), random.random((21, 30, 1))
    found, wanted = (trade_off(restorer, picture) for restorer in (replace(alone, ensemble=True), alone))
    for name in ("share", "weights", "added"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert not np.array_equal(wanted.weights, trade_off(alone, picture[:, ::-1]).weights), "views differ"


def test_the_heat_picture_is_dark_where_local_and_bright_where_not(random: np.random.Generator) -> None:
    restorer, pixels = restorer_of(), random.integers(0, 256, (30, 41, 1), np.uint8)
    drawn, share = heat_picture(restorer, pixels), trade_off(restorer, pixels).share
    assert drawn.shape == (30, 41, 3)
    assert drawn.dtype == np.uint8
    low, high = bounds(share)
    luma = drawn.mean(2)
    assert luma[share <= low].max() < 50
    assert luma[share >= high].min() > 150


@pytest.mark.parametrize("changes", [{"local_attention": False}, {"nonlocal_attention": None}])
def test_a_network_without_a_trade_off_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SynergicError, match="tiny: expected a network with both branches, got one without"):
        trade_off(restorer_of(**changes), np.zeros((8, 8)))


def attention_of(**changes: Any) -> NonLocalAttention:
    block = tiny_network(**changes).blocks[0]
    assert isinstance(block, SynergicBlock)
    assert block.nonlocal_attention is not None
    return block.nonlocal_attention


def weights_by_gradient(
    attention: NonLocalAttention, features: torch.Tensor, row: int, column: int
) -> dict[tuple[int, int], float]:
    """The same through the network's own code, which is linear in V: the weight of every position with one."""
    q, k, v = (x.detach() for x in attention.project(features))
    v.requires_grad_()
    (gradient,) = torch.autograd.grad(attention.attend(q, k, v)[0, row, column, 0], v)
    map_ = gradient[0, ..., 0]
    return {(int(i), int(j)): float(map_[i, j]) for i, j in map_.nonzero().tolist()}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"patch_size": 3, "stride": 2, "key_stride": 2}, "patch"),
        ({"patch_size": 3, "stride": 2, "key_stride": 1, "similarity": "cosine"}, "patch"),
        ({"patch_size": 7, "window": 8, "halo": 4}, "patch"),
        ({"patch_size": 5, "stride": 3, "key_stride": 2, "window": 6, "halo": 6}, "patch"),
        ({"nonlocal_attention": "pixel", "window": 8, "halo": 4}, "pixel"),
        ({"nonlocal_attention": "pixel"}, "pixel"),
    ],
)
def test_attended_patches_are_the_networks_own(changes: dict[str, Any], kind: Kind) -> None:
    attention = attention_of(similarity_scale=0.3, **changes)
    features = torch.randn(1, 8, 21, 18, generator=torch.Generator().manual_seed(0)) * 3
    for near in ((10, 9), (0, 0), (19, 14), (7, 9)):
        found = attended(attention, features, *near, kind)
        assert found.weights.sum() == pytest.approx(1, abs=1e-5)
        assert (np.diff(found.weights) <= 0).all()
        middle = found.patch_size // 2
        row, column = found.query[0] + middle, found.query[1] + middle  # of all query patches only this covers it
        assert max(abs(row - near[0]), abs(column - near[1])) <= attention.config.stride / 2
        if not (0 <= row < 21 and 0 <= column < 18):
            continue
        slow = weights_by_gradient(attention, features, row, column)
        pairs = zip(found.corners + middle, found.weights, strict=True)
        fast = {(int(i), int(j)): float(weight) for (i, j), weight in pairs if 0 <= i < 21 and 0 <= j < 18}
        assert slow.keys() <= fast.keys()
        assert [fast[key] - slow.get(key, 0) for key in fast] == pytest.approx([0] * len(fast), abs=1e-5)
        assert max(slow.values()) > 2 / len(slow), "the weights are not all alike"


def test_the_other_kind_compares_by_the_other_size() -> None:
    attention, features = attention_of(), torch.randn(1, 8, 20, 20, generator=torch.Generator().manual_seed(0))
    pixel, twin = attended(attention, features, 9, 9, "pixel"), attention_of(nonlocal_attention="pixel")
    assert (pixel.patch_size, len(pixel.weights), pixel.query) == (1, 400, (9, 9))
    with torch.no_grad():
        twin.log_scale.add_(2 * np.log(7))
    assert pixel.weights == pytest.approx(attended(twin, features, 9, 9, "pixel").weights, abs=1e-6)
    assert attended(twin, features, 9, 9, "patch").patch_size == 7


def test_patch_and_pixel_choose_among_the_same_part_of_the_map(random: np.random.Generator) -> None:
    watch = Watch(restorer_of(window=8, halo=4))
    for height, width in ((90, 75), (61, 122), (34, 20)):
        pixels = random.random((height, width, 1), np.float32)
        for x, y in zip(random.integers(0, width, 20).tolist(), random.integers(0, height, 20).tolist(), strict=True):
            query = look(watch, pixels, x, y, None, None)
            (patch_low, patch_high), (pixel_low, pixel_high) = query.patch[0].reach, query.pixel[0].reach
            assert (patch_low <= pixel_low).all()
            assert (pixel_low < patch_low + 7).all()
            assert (pixel_high <= patch_high).all()
            assert (patch_high - 7 < pixel_high).all()


def test_a_network_of_pixels_is_asked_for_the_pixel_that_was_named(random: np.random.Generator) -> None:
    watch = Watch(restorer_of(nonlocal_attention="pixel", window=8, halo=4))
    pixels = random.random((90, 75, 1), np.float32)
    scale = watch.restorer.network.config.downscale
    for x, y in ((0, 0), (42, 42), (46, 44), (74, 89)):
        query = look(watch, pixels, x, y, None, None)
        assert [of.query for of in query.pixel] == [(y // scale, x // scale)] * len(watch.blocks)


def test_gray_stored_as_rgb_is_gray_to_a_gray_network(random: np.random.Generator, tmp_path: Path) -> None:
    gray = random.random((40, 40, 1), np.float32)
    restorer = restorer_of()
    alike, alone = (
        explain(restorer, given, tmp_path / name, at=[(20, 20)], noise=25)
        for given, name in ((gray.repeat(3, 2), "rgb.png"), (gray, "gray.png"))
    )
    assert np.array_equal(alike.share, alone.share)


def test_the_places_drawn_unless_told() -> None:
    share = np.full((16, 24), 0.5)
    share[0, 0], share[3, 4], share[12, 20] = 1.0, 0.9, 0.1
    assert extremes(share) == [(4, 3), (20, 12)]
    assert extremes(np.zeros((1, 1))) == [(0, 0), (0, 0)]


@pytest.mark.parametrize("length", [7, 128, 129, 1000])
def test_a_query_is_seen_in_a_tile_that_the_restorer_cuts(length: int) -> None:
    restorer = restorer_of(tile_size=128, downscale=2, window=16, halo=4, nonlocal_attention="pixel")
    spans = axis_spans(length, 128, overlap_of(128), restorer.align)
    assert all(span.start % 32 == 0 for span in spans)
    for at in range(length):
        tile = tile_at(at, length, restorer)
        (own,) = [span for span in spans if (span.start, span.stop) == (tile.start, tile.stop)]
        others = [span.weights[at - span.start] for span in spans if span.start <= at < span.stop]
        assert own.weights[at - own.start] == max(others)


def test_where_nothing_is_added_no_share_is(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "a.png", np.zeros((1, 1, 3), np.uint8))
    code, out, err = call(capsys, monkeypatch, "explain", source, "-o", tmp_path / "f.png")
    assert (code, err) == (0, "")
    assert out.count("share 0.000\n") == 4


def test_a_figure_is_apart_from_its_picture_and_as_private(
    tmp_path: Path, make_weights: MakeWeights, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / "a.png", np.zeros((12, 12, 1), np.uint8))
    source.chmod(0o600)
    before, command = source.read_bytes(), ("explain", source, "--weights", make_weights(), "--overwrite", "-o")
    code, _, err = call(capsys, monkeypatch, *command, source)
    assert (code, source.read_bytes()) == (2, before)
    assert "a.png: expected an output apart from the inputs, got one of them" in err
    assert call(capsys, monkeypatch, *command, tmp_path / "f.png")[0] == 0
    assert (tmp_path / "f.png").stat().st_mode & 0o777 == 0o600


def test_keys_without_weight_are_not_drawn() -> None:
    corners = np.array([[4, 4], *([0, 4 * i] for i in range(14))])
    alone = Attended((4, 4), corners, np.array([0.9986, *[0.0001] * 14]), 7)
    itself, drawn, weights = alone.strongest()
    assert itself == pytest.approx(0.9986)
    assert len(drawn) == len(weights) == 0
    spread = replace(alone, weights=np.array([0.3, *[0.05] * 14]))
    itself, drawn, weights = spread.strongest()
    assert itself == pytest.approx(0.3)
    assert weights.tolist() == [0.05] * 10
    assert np.array_equal(drawn, corners[1:11])


def test_the_title_says_what_was_drawn() -> None:
    restorer = restorer_of()
    assert conditions(restorer, 25, None, None) == "tiny: noise of sigma 25 added, seed 0, the network told no strength"
    assert conditions(restorer, None, 12.5, None) == "tiny: the picture as it is, the network told sigma 12.5"
    assert conditions(restorer, None, None, 10).endswith("the network told quality 10")


@pytest.mark.parametrize("size", [(256, 256), (400, 200), (60, 300)])
def test_no_title_is_cut_off(size: tuple[int, int], random: np.random.Generator, tmp_path: Path) -> None:
    import synergic.explain as module

    restorer, drawn = restorer_of(3, blocks=4, window=32), list[Any]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "save_figure", lambda figure, _, **__: drawn.append(figure))
        explain(restorer, random.random((*size, 3)), tmp_path / "a.png", at=[(5, 5), (size[1] - 1, size[0] - 1)])
    (figure,) = drawn
    figure.draw_without_rendering()
    words = [text for text in figure.findobj(Text) if len(text.get_text()) > 8]  # not the ticks beyond an axis
    assert len(words) > 25
    for text in words:
        box = text.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= figure.bbox.width, text
        assert 0 <= box.y0 <= box.y1 <= figure.bbox.height, text


def test_noise_is_added_by_its_level() -> None:
    clean = np.full((200, 200, 1), 128, np.uint8)
    noisy = with_noise(clean, 25)
    assert (noisy - 128 / 255).std() * 255 == pytest.approx(25, abs=0.3)
    assert np.array_equal(noisy, with_noise(clean, 25))
    assert np.array_equal(noisy, with_noise(clean[..., 0], 25))


def test_the_figure_of_the_shipped_weights(tmp_path: Path) -> None:
    restorer = Restorer.from_pretrained("gray-denoise", device="cpu", precision="float32")
    clean, where = np.ascontiguousarray(brick()[:128, :96, None]), tmp_path / "new" / "figure.png"
    found = explain(restorer, clean, where, at=[(40, 64)], noise=25, sigma=25)
    assert np.array_equal(found.share, trade_off(restorer, with_noise(clean, 25), sigma=25).share)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["figure.png"]
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")
    joints = clean[..., 0] > 130
    assert found.share[joints].mean() > found.share[~joints].mean() + 0.03, "joints repeat, bricks are flat"


def test_the_command(
    tmp_path: Path,
    make_weights: MakeWeights,
    random: np.random.Generator,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = save(tmp_path / "a.png", random.integers(0, 256, (30, 20, 3), np.uint8))
    command = ("explain", source, "-o", tmp_path / "a.svg", "--weights", make_weights())
    code, out, err = call(capsys, monkeypatch, *command, "--at", "3,4", "--at", "19,29")
    assert (code, err) == (0, "")
    assert "block 1: fusion weight of the non-local branch 0." in out
    text = (tmp_path / "a.svg").read_text()
    assert text.startswith("<?xml")
    assert call(capsys, monkeypatch, *command)[2].strip().endswith("a.svg: exists; pass --overwrite to replace it")
    others = [call(capsys, monkeypatch, *command, "--overwrite", *more) for more in (("--noise", 50), ("--sigma", 50))]
    assert all(code == 0 for code, *_ in others)
    assert len({out, *(other[1] for other in others)}) == 3, "noise and sigma change the figures"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--at", "30,1"], "--at: expected a place in the picture, 0,0 to 19,29, got 30,1"),
        (["--noise", "-5"], "noise: expected 0 to 75, got -5.0"),
        (["--noise", "200"], "noise: expected 0 to 75, got 200.0"),
        (["--noise", "nan"], "noise: expected 0 to 75, got nan"),
        (["--at", "a,1"], "--at: expected X,Y in pixels, such as 120,80, got 'a,1'"),
        (["-o", "figure.gif"], "figure.gif: expected a name ending in one of .png .pdf .svg, got '.gif'"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    make_weights: MakeWeights,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = save(tmp_path / "a.png", np.zeros((30, 20, 3), np.uint8))
    command = ("explain", source, "-o", tmp_path / "a.png.png", "--weights", make_weights(), *arguments)
    code, out, err = call(capsys, monkeypatch, *command)
    assert (code, out) == (2, "")
    assert err == f"synergic: {message}\n"


def test_figures_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("synergic.figures.find_spec", lambda _: None)
    code, _, err = call(capsys, monkeypatch, "explain", tmp_path / "a.png", "-o", tmp_path / "b.png")
    assert code == 2
    assert "figures need matplotlib, got no such package; pip install 'synergic[figures]'" in err
