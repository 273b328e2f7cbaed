"""Weights files made to run code, to read elsewhere, or to ask for more than they hold: one line, nothing happens."""

import io
import json
import os
import pickle
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from conftest import tiny_card, tiny_network
from synergic.card import MAX_BYTES
from synergic.engine import OnnxRestorer
from synergic.errors import SynergicError
from synergic.weights import FORMAT, load_weights, read_header

WATCHERS: list[list[str]] = []
"""Each takes down the files that Python opens; a hook can be set, but not taken away."""


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        for opened in WATCHERS:
            opened.append(str(arguments[0]))


sys.addaudithook(watch)


class Bomb:
    """Runs code when it is unpickled: it touches the file `ran` in the current folder."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.system, ("touch ran",)


def torch_file(**options: bool) -> bytes:
    file = io.BytesIO()
    torch.save({"head.weight": Bomb()}, file, **options)
    return file.getvalue()


def zip_of_code() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("__main__.py", "open('ran', 'w')")
        archive.writestr("../ran", "")
    return file.getvalue()


def tar_that_climbs() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../ran"))
    return file.getvalue()


def numpy_with_objects() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Bomb()]), allow_pickle=True)
    return file.getvalue()


def onnx_with_data_elsewhere() -> bytes:
    """A model whose only tensor lies in ../secret (onnx.proto: graph 7, initializer 5, external_data 13)."""

    def field(number: int, body: bytes) -> bytes:
        return bytes([number << 3 | 2, len(body)]) + body

    location = field(1, b"location") + field(2, b"../secret")
    tensor = field(8, b"head.weight") + field(13, location) + bytes([14 << 3, 1])
    return bytes([1 << 3, 10]) + field(7, field(5, tensor))


def tensors_file(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file by the specification: length of the header, header, tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(start: int, stop: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape or [(stop - start) // 4], "data_offsets": [start, stop]}


def network_file(
    config: dict[str, object] | str | None = None, card: str | None = None, change: Callable[..., object] = id
) -> bytes:
    """Weights as we write them, with a changed configuration (fields, or the whole text), card, or tensors."""
    network = tiny_network()
    own = json.dumps(asdict(network.config) | (config if isinstance(config, dict) else {}))
    own_card = json.dumps(asdict(tiny_card()))
    texts = {"config": config if isinstance(config, str) else own, "card": card or own_card}
    tensors = {key: tensor.detach().contiguous() for key, tensor in network.state_dict().items()}
    change(tensors)
    return save(tensors, {"format": FORMAT, **texts})


def not_finite(tensors: dict[str, torch.Tensor]) -> None:
    tensors["head.weight"][0, 0, 0, 0] = float("nan")


def doubles(tensors: dict[str, torch.Tensor]) -> None:
    tensors["head.weight"] = tensors["head.weight"].double()


FOREIGN = {
    "pickle": pickle.dumps(Bomb()),
    "torch, zip": torch_file(),
    "torch, legacy": torch_file(_use_new_zipfile_serialization=False),
    "zip of code": zip_of_code(),
    "tar that climbs": tar_that_climbs(),
    "numpy with objects": numpy_with_objects(),
    "ONNX with data elsewhere": onnx_with_data_elsewhere(),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(500),
    "Python": b"import os; os.system('touch ran')",
    "nothing": b"",
    "header of 2^63 bytes": tensors_file({}, length=1 << 63),
    "header beyond the end": tensors_file({}, length=1000),
    "header that is no JSON": tensors_file(b"{'x': 1}"),
    "header that is a list": tensors_file([1, 2]),
    "header nested deep": tensors_file(b'{"x":' * 100_000),
    "tensors beyond the end": tensors_file({"x": entry(0, 4000)}, bytes(4)),
    "tensors that overlap": tensors_file({"x": entry(0, 8), "y": entry(4, 12)}, bytes(12)),
    "tensors with a gap": tensors_file({"x": entry(0, 4), "y": entry(8, 12)}, bytes(12)),
    "shape of 2^80 values": tensors_file({"x": entry(0, 4, [1 << 40, 1 << 40])}, bytes(4)),
    "shape below zero": tensors_file({"x": entry(0, 4, [-1])}, bytes(4)),
    "type that is none": tensors_file({"x": entry(0, 4, [1], "EVIL")}, bytes(4)),
}
OURS = {
    "configuration of 10^9 channels": network_file({"channels": 10**9}),
    "configuration of 10^9 blocks": network_file({"blocks": 10**9}),
    "configuration of 10^9 windows": network_file({"window": 4 * 10**8, "halo": 0}),
    "scale that is no number": network_file({"similarity_scale": float("nan")}),
    "configuration that is a list": network_file("[]"),
    "configuration nested deep": network_file("[" * 100_000),
    "number of 10,000 digits": network_file('{"channels": ' + "9" * 10_000 + "}"),
    "card that is a list": network_file(card="[]"),
    "tensors of another type": network_file(change=doubles),
    "tensors that are not finite": network_file(change=not_finite),
}
assert len(FOREIGN) + len(OURS) > 20


@pytest.mark.parametrize("name", [*FOREIGN, *OURS])
def test_malicious_weights_are_one_line_and_nothing_happens(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(1000))
    path = folder / "evil.safetensors"
    path.write_bytes((FOREIGN | OURS)[name])
    monkeypatch.chdir(folder)
    WATCHERS.append(opened)
    with pytest.raises(SynergicError) as error:
        load_weights(path)
    WATCHERS.clear()
    line = str(error.value)
    assert line.startswith(str(path)) and len(line.splitlines()) == 1 and len(line) < 600, line[:1000]
    if name in FOREIGN:  # by the header alone
        assert "expected a safetensors file, got one that does not open" in line
    within = {Path(name).resolve() for name in opened if Path(name).resolve().is_relative_to(tmp_path)}
    assert within <= {path}, "it reads itself alone"
    assert sorted(tmp_path.rglob("*")) == [folder, path, tmp_path / "secret"], "nothing was run or unpacked"


def test_what_is_no_file_or_too_large_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.safetensors"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # holes, no disk
    with pytest.raises(SynergicError, match=r"of at most 1,073,741,824 bytes, got 1,073,741,825"):
        load_weights(large)
    with pytest.raises(SynergicError, match=r"a model written by .* of at most 1,073,741,824 bytes, got"):
        OnnxRestorer.from_file(large)
    for path, said in (
        (tmp_path / "missing", "No such file"),
        (tmp_path, "no regular file"),
        ("/dev/zero", "no regul"),
    ):
        with pytest.raises(SynergicError, match=f"{path}: expected a safetensors file, got {said}"):
            read_header(Path(path))
        with pytest.raises(SynergicError, match=f"{path}: expected a model written by `synergic export`, got {said}"):
            OnnxRestorer.from_file(path)
    for path in (tmp_path, tmp_path / "missing", Path(os.devnull)):
        with pytest.raises(SynergicError, match="expected a weights file or a published name"):
            load_weights(path)
    (tmp_path / "link.safetensors").symlink_to("/etc/passwd")
    with pytest.raises(SynergicError, match="expected a safetensors file"):
        load_weights(tmp_path / "link.safetensors")
