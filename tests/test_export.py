import json
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import synergic.export as module
from conftest import save, tiny_card, tiny_network
from synergic import Restorer, SynergicError
from synergic.attention import patch_attention
from synergic.cli import command
from synergic.engine import FORMAT, OnnxModel, OnnxRestorer
from synergic.export import FIXED, SIZES, attention_in_onnx, export, quiet
from synergic.images import read_pixels
from synergic.weights import save_weights

MakeWeights = Callable[..., Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[tuple[int, int], float]]:
    """Colour weights that take sigma, their model, and how far the two are apart."""
    folder = tmp_path_factory.mktemp("export")
    weights, model = folder / "color.safetensors", folder / "color.onnx"
    save_weights(weights, tiny_network(3, window=8, halo=4, gate_window=24), tiny_card("color"))
    return weights, model, export(weights, model)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Colour weights and their blind package for darktable."""
    folder = tmp_path_factory.mktemp("package")
    weights, package = folder / "tiny.safetensors", folder / "tiny.dtmodel"
    save_weights(weights, tiny_network(3, window=32), tiny_card("tiny"))
    errors = export(weights, package, darktable=True, blind=True)
    assert list(errors) == [*SIZES, FIXED]
    return weights, package


class Attention(nn.Module):
    """The operator alone."""

    def __init__(self, **sizes: int | None) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = self.sizes
        return torch.ops.synergic.patch_attention(
            q, k, v, s["patch_size"], s["stride"], s["key_stride"], s["window"], s["halo"]
        )


@pytest.mark.parametrize(
    ("patch_size", "stride", "key_stride", "window", "halo"),
    [(7, 4, 4, 16, 8), (5, 2, 1, 8, 2), (1, 1, 1, 8, 3), (7, 4, 2, None, 0)],
)
def test_attention_in_onnx_operators_is_patch_attention(
    patch_size: int, stride: int, key_stride: int, window: int | None, halo: int
) -> None:
    """Similarities are large, so that every key that is missing, or seen where it should not be, shows."""
    sizes = {"patch_size": patch_size, "stride": stride, "key_stride": key_stride, "window": window, "halo": halo}
    free = {1: "height", 2: "width"}
    example = tuple(torch.zeros(2, 30, 37, channels) for channels in (4, 4, 3))
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            Attention(**sizes).eval(),
            example,
            dynamo=True,
            dynamic_shapes=(free, free, free),
            opset_version=module.OPSET,
            custom_translation_table={torch.ops.synergic.patch_attention.default: attention_in_onnx},
            verbose=False,
        )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    generator = torch.Generator().manual_seed(0)
    for height, width in [(1, 1), (3, 8), (14, 20), (32, 31), (33, 9), (40, 61), (1, 900)]:
        q, k, v = (torch.randn(2, height, width, channels, generator=generator) for channels in (4, 4, 3))
        names = [entry.name for entry in session.get_inputs()]
        got = session.run(None, dict(zip(names, (q.numpy(), k.numpy(), v.numpy()), strict=True)))[0]
        wanted = patch_attention(q, k, v, scale=1.0, **sizes)  # type: ignore[arg-type]
        np.testing.assert_allclose(got, wanted.numpy(), atol=2e-5, err_msg=f"{height} x {width}")


def test_an_export_equals_its_network(exported: tuple[Path, Path, dict[tuple[int, int], float]]) -> None:
    _, model, errors = exported
    assert tuple(errors) == SIZES
    assert max(errors.values()) < 1e-5
    assert str(Path(module.__file__).parents[2]).encode() not in model.read_bytes(), "the paths of this machine"
    parsed = onnx.load(model)
    assert {entry.version for entry in parsed.opset_import if not entry.domain} == {18}
    assert {entry.domain for entry in parsed.opset_import} <= {"", "pkg.onnxscript.torch_lib.common"}
    metadata = {entry.key: json.loads(entry.value) for entry in parsed.metadata_props if entry.key != "format"}
    assert metadata["card"]["name"] == "color"
    assert metadata["config"]["window"] == 8


@pytest.mark.parametrize("shape", [(1, 1, 3), (40, 33, 3), (20, 31, 1), (300, 260, 3)])
@pytest.mark.parametrize("options", [{}, {"sigma": 30.0}, {"strength": 0.25, "ensemble": True}])
def test_the_onnx_engine_restores_as_the_network_does(
    exported: tuple[Path, Path, dict[tuple[int, int], float]],
    random: np.random.Generator,
    shape: tuple[int, ...],
    options: dict[str, Any],
) -> None:
    weights, model, _ = exported
    image, options = random.random(shape, np.float32), dict(options)
    how: dict[str, Any] = {"tile_size": 128, "ensemble": options.pop("ensemble", False)}
    wanted = Restorer.from_pretrained(weights, device="cpu", precision="float32", **how)(image, **options)
    got = OnnxRestorer.from_file(model, **how)(image, **options)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert np.abs(wanted - image).max() > 1e-3


def test_a_gray_blind_model_restores_channel_by_channel(tmp_path: Path, random: np.random.Generator) -> None:
    weights, model = tmp_path / "gray.safetensors", tmp_path / "gray.onnx"
    save_weights(weights, tiny_network(1, window=32), tiny_card("gray"))
    export(weights, model, blind=True)
    image = random.random((90, 101, 3), np.float32)
    wanted = Restorer.from_pretrained(weights, device="cpu", precision="float32")(image)
    restorer = OnnxRestorer.from_file(model, ensemble=False)
    np.testing.assert_allclose(restorer(image), wanted, atol=1e-5)
    with pytest.raises(SynergicError, match="sigma: gray .denoise. works without"):
        restorer(image, sigma=25)
    assert not restorer.conditioned


def test_a_package_is_what_darktable_reads(packaged: tuple[Path, Path]) -> None:
    """A zip whose one folder is named as the id; free axes named height and width; planes of sRGB in 0..1."""
    with zipfile.ZipFile(packaged[1]) as archive:
        assert archive.namelist() == ["synergic-tiny/config.json", "synergic-tiny/model.onnx"]
        config = json.loads(archive.read("synergic-tiny/config.json"))
        model = archive.read("synergic-tiny/model.onnx")
    session = onnxruntime.InferenceSession(model)
    wanted = {"id": "synergic-tiny", "task": "denoise", "backend": "onnx", "num_inputs": 1}
    assert {key: config[key] for key in wanted} == wanted
    assert config["name"]
    assert config["description"]
    described = [(entry.name, entry.type, entry.shape[2:]) for entry in session.get_inputs()]
    assert described == [("input", "tensor(float)", ["height", "width"])]
    tile = np.random.default_rng(0).random((1, 3, 64, 80), np.float32)
    assert session.run(["output"], {"input": tile})[0].shape == (1, 3, 64, 80)


@pytest.mark.parametrize("name", ["../../../etc/evil", "my/photo", "..", "a b"])
def test_a_package_unpacks_into_one_folder_whatever_the_name(name: str) -> None:
    identifier = module.darktable_config(tiny_card(name), inputs=1)["id"]
    assert re.fullmatch(r"synergic-[\w.-]*", identifier)


def test_weights_are_not_replaced_by_their_export(make_weights: MakeWeights) -> None:
    weights = str(make_weights())
    before = Path(weights).read_bytes()
    with pytest.raises(SynergicError, match="expected an output apart from the inputs, got one of them"):
        command(
            ["export", "--weights", weights, "-o", weights, "--for", "spandrel", "--overwrite"], standalone_mode=False
        )
    assert Path(weights).read_bytes() == before


def test_a_package_opens_at_a_fixed_size(packaged: tuple[Path, Path]) -> None:
    """darktable tells ONNX Runtime the size of its tiles, which then infers every shape in the graph."""
    with zipfile.ZipFile(packaged[1]) as archive:
        model = archive.read("synergic-tiny/model.onnx")
    tile = np.random.default_rng(0).random((1, 3, 256, 256), np.float32)
    free, fixed = (OnnxModel.from_bytes(model, "model", side=side)(tile, 0.0) for side in (None, 256))
    np.testing.assert_allclose(fixed, free, atol=1e-6)


def test_a_model_told_sigma_goes_beside_its_config(
    exported: tuple[Path, Path, dict[tuple[int, int], float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, model, _ = exported
    monkeypatch.setattr(module, "traced", lambda *_: model.read_bytes())
    export(weights, tmp_path / "model.onnx", darktable=True)
    assert json.loads((tmp_path / "config.json").read_text())["num_inputs"] == 2
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [entry.name for entry in session.get_inputs()] == ["input", "sigma"]
    tile = np.random.default_rng(0).random((1, 3, 64, 80), np.float32)
    outputs = [session.run(None, {"input": tile, "sigma": np.full_like(tile[:, :1], s)})[0] for s in (0.1, 0.2)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4
    with pytest.raises(SynergicError, match="other.onnx: expected the name model.onnx, which darktable opens, or"):
        export(weights, tmp_path / "other.onnx", darktable=True)
    export(weights, tmp_path / "model.onnx", darktable=True, overwrite=True)
    (tmp_path / "model.onnx").unlink()
    for theirs in ('{"mine": 1}', "[]", "no JSON"):
        (tmp_path / "config.json").write_text(theirs)
        with pytest.raises(SynergicError, match="config.json: expected none, or an export's, got another"):
            export(weights, tmp_path / "model.onnx", darktable=True, overwrite=True)
        assert (tmp_path / "config.json").read_text() == theirs


def test_a_model_that_differs_is_not_written(
    exported: tuple[Path, Path, dict[tuple[int, int], float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny_network(3, window=8, halo=4)
    with torch.no_grad():
        other.tail.bias.add_(1e-3)  # type: ignore[union-attr]
    save_weights(tmp_path / "other.safetensors", other, tiny_card("other"))
    monkeypatch.setattr(module, "traced", lambda *_: exported[1].read_bytes())
    with pytest.raises(SynergicError, match=r"expected the network's output to a relative 0.0001, got .*e-0[34] at"):
        export(tmp_path / "other.safetensors", tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["other.safetensors"]


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ({}, {}, "model.pth: expected a name that ends in .onnx"),
        (
            {"nonlocal_attention": "pixel", "window": None},
            {"blind": False},
            "in windows, got that of every pixel with all",
        ),
        ({"colors": 1, "window": 8}, {"darktable": True}, "expected colour weights, got gray ones"),
        ({"conditioned": False, "window": 8}, {"blind": True}, "blind: expected weights that take a strength, got"),
        (
            {"colors": 3, "window": None},
            {"darktable": True},
            "expected attention in windows, got it over the whole picture",
        ),
        (
            {"colors": 3, "window": 8, "task": "jpeg"},
            {"darktable": True},
            "expected weights that take sigma, got quality",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused(
    make_weights: MakeWeights, tmp_path: Path, weights: dict[str, object], options: dict[str, bool], message: str
) -> None:
    target = tmp_path / ("model.onnx" if options else "model.pth")
    with pytest.raises(SynergicError, match=message):
        export(make_weights(**weights), target, **options)


def foreign(path: Path, **changes: Any) -> Path:
    """An ONNX file that says x + y, with metadata and y's place as given."""
    y = onnx.helper.make_tensor("y", onnx.TensorProto.FLOAT, [1], [1.0])
    if "location" in changes:
        y.ClearField("float_data")
        y.data_location = onnx.TensorProto.EXTERNAL
        y.external_data.add(key="location", value=str(changes["location"]))
    free = ["n"]
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, free)]
    outputs = [onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, free)]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "y"], ["z"])], "g", inputs, outputs, [y])
    model = onnx.helper.make_model(graph)
    onnx.helper.set_model_props(model, changes.get("metadata", {}))
    path.write_bytes(model.SerializeToString())
    return path


def test_files_that_are_no_exports_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.onnx"
    ours = {"format": FORMAT}

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(SynergicError, match="evil.onnx: expected an ONNX model, got a file that does not open as one"):
        OnnxRestorer.from_file(path)
    assert not (tmp_path / "ran").exists()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"x")
    with pytest.raises(SynergicError, match="expected an ONNX model"):
        OnnxRestorer.from_file(path)
    with pytest.raises(SynergicError, match="expected a model of format synergic-onnx-1, got none"):
        OnnxRestorer.from_file(foreign(path))
    for location in ("/etc/hostname", "../weights.bin", "weights.bin"):
        with pytest.raises(SynergicError, match="expected a model in one file, got one that reads others"):
            OnnxRestorer.from_file(foreign(path, metadata=ours, location=location))
    with pytest.raises(SynergicError, match="expected a configuration and a card, got none"):
        OnnxRestorer.from_file(foreign(path, metadata=ours))
    for config in (
        "{}",
        "[]",
        '{"colors": 2, "downscale": 1, "window": 8}',
        '{"colors": 1, "downscale": 0, "window": 8}',
        '{"colors": Infinity, "downscale": 1, "window": 8}',
        '{"colors": 1, "downscale": 2.0, "window": 8}',
        '{"colors": 1, "downscale": "ab", "window": 1000000000000000000}',
        '{"colors": true, "downscale": 1, "window": 8}',
    ):
        with pytest.raises(SynergicError, match="expected a configuration and a card, got none"):
            OnnxRestorer.from_file(foreign(path, metadata=ours | {"config": config, "card": "{}"}))
    config = '{"colors": 1, "downscale": 1, "window": 8}'
    with pytest.raises(SynergicError, match="expected inputs named input and sigma or quality, got x"):
        OnnxRestorer.from_file(foreign(path, metadata=ours | {"config": config, "card": "{}"}))
    with pytest.raises(SynergicError, match="missing.onnx: expected a model written by `synergic export`, got No such"):
        OnnxRestorer.from_file(tmp_path / "missing.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "device: expected auto or cpu with the onnx engine, got 'cuda'"),
        ({"precision": "bfloat16"}, "precision: expected auto or float32 with the onnx engine, got 'bfloat16'"),
        ({"tile_size": 64}, "tile size: expected at least 128, got 64"),
    ],
)
def test_the_onnx_engine_refuses_what_it_cannot_do(options: dict[str, object], message: str) -> None:
    with pytest.raises(SynergicError, match=message):
        OnnxRestorer.from_file("model.onnx", **options)  # type: ignore[arg-type]


def test_commands_end_to_end(
    exported: tuple[Path, Path, dict[tuple[int, int], float]],
    tmp_path: Path,
    random: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights, model, _ = exported
    monkeypatch.setattr(module, "traced", lambda *_: model.read_bytes())
    copy = tmp_path / "copy.onnx"
    command(["export", "--weights", str(weights), "-o", str(copy)], standalone_mode=False)
    assert "500 x 300 pixels: relative error" in capsys.readouterr().out
    source = save(tmp_path / "a.png", random.integers(0, 256, (50, 70, 3), np.uint8))
    for engine, file in (("onnx", copy), ("torch", weights)):
        arguments = ["restore", str(source), "-o", str(tmp_path / engine), "--weights", str(file), "--engine", engine]
        with pytest.raises(SystemExit, match="0"):
            command([*arguments, "--precision", "float32", "--device", "cpu"], standalone_mode=False)
    difference = read_pixels(tmp_path / "onnx" / "a.png").astype(int) - read_pixels(tmp_path / "torch" / "a.png")
    assert np.abs(difference).max() <= 1
    with pytest.raises(SynergicError, match="engine onnx: expected --weights with a model"):
        command(["restore", str(source), "-o", str(tmp_path / "o"), "--engine", "onnx"], standalone_mode=False)


def test_the_onnx_engine_does_without_pytorch(
    exported: tuple[Path, Path, dict[tuple[int, int], float]], tmp_path: Path, random: np.random.Generator
) -> None:
    """The command restores where PyTorch and all that only it needs cannot be imported."""
    source = save(tmp_path / "a.png", random.integers(0, 256, (50, 70, 3), np.uint8))
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(['torch', 'safetensors', 'onnxscript', 'matplotlib'])\n"
        "from synergic.cli import main\n"
        "main()\n"
    )
    options = ["--engine", "onnx", "--weights", str(exported[1]), "--sigma", "20", "--json"]
    command_line = [sys.executable, "-c", code, "restore", str(source), "-o", str(tmp_path / "b.png"), *options]
    ran = subprocess.run(command_line, check=True, capture_output=True, text=True)
    told = json.loads(ran.stdout)
    assert (told["status"], told["weights"], told["task"]) == ("restored", "color", "denoise")
    restored = Restorer.from_pretrained(exported[0], device="cpu", precision="float32")(read_pixels(source), sigma=20)
    assert np.abs(read_pixels(tmp_path / "b.png").astype(int) - restored).max() <= 1


def test_running_out_of_memory_halves_the_tile(
    exported: tuple[Path, Path, dict[tuple[int, int], float]], random: np.random.Generator
) -> None:
    class Full:
        """A session in a machine with memory for 128 pixels."""

        def run(self, _: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            if inputs["input"].shape[2] > 128:
                raise RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 9")
            return [inputs["input"] + 1 / 4]

    restorer = OnnxRestorer.from_file(exported[1], tile_size=256)
    small = replace(restorer, model=replace(restorer.model, session=Full()))
    image = random.random((300, 200, 3), np.float32)
    np.testing.assert_allclose(small(image), image + 1 / 4, atol=1e-6)
