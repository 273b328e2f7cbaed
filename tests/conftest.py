"""Fixtures: small weights, small pictures, small runs, the data folder where there is one."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from synergic import Restorer
from synergic.card import Card, Task
from synergic.images import Picture, write_picture
from synergic.interruptions import SIGNALS
from synergic.network import SATNet, SATNetConfig
from synergic.weights import save_weights

os.environ["OMP_NUM_THREADS"] = "1"  # the tensors of the tests are small: here, and in processes that tests start
torch.set_num_threads(1)

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The command takes signals to the end of its process, which here goes on."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def find_chromium() -> str:
    """Debian's Chromium. Without it a test is skipped; where CI is set, it fails."""
    found = shutil.which("chromium")
    if found is None:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("chromium: expected it for tests of pages, got none; apt-get install chromium")
    return found


@pytest.fixture
def data() -> Path:
    """The folder of benchmark pictures, beside the repository."""
    if not DATA.is_dir():
        pytest.skip("the benchmark pictures are not beside the repository (../shared/data)")
    return DATA


def tiny_network(colors: int = 1, conditioned: bool = True, **changes: object) -> SATNet:
    """A small random network that does something: its residual is not zero anywhere."""
    small = {"channels": 8, "blocks": 1, "depth": 1, "embedding": 4, "downscale": 2, "extraction": "residual"}
    config = SATNetConfig(colors=colors, conditioned=conditioned, **(small | changes))  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = SATNet(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return network


def tiny_card(name: str = "tiny", task: Task = "denoise") -> Card:
    """A card that says what it is."""
    return Card(name, task, data="none", licence="CC0", steps=0, seconds=0.0, hardware="none", recipe={"seed": 1})


class Identity(SATNet):
    """A network that changes nothing, where files and memory are what is tested."""

    def forward(self, degraded: Tensor, strength: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return degraded


def identity_restorer() -> Restorer:
    """A restorer that changes nothing, whatever the strength."""
    config = SATNetConfig(channels=4, blocks=1, depth=1)
    return Restorer(Identity(config), tiny_card("identity"), torch.device("cpu"), torch.float32)


@pytest.fixture
def make_weights(tmp_path: Path) -> Callable[..., Path]:
    """Writes weights of a tiny network; returns their path."""

    def make(task: Task = "denoise", colors: int = 1, conditioned: bool = True, **changes: object) -> Path:
        path = tmp_path / f"{task}-{colors}-{conditioned}.safetensors"
        save_weights(path, tiny_network(colors, conditioned, **changes), tiny_card(path.stem, task))
        return path

    return make


@pytest.fixture
def random() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(0)


@pytest.fixture
def no_nnpack(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN convolves whatever the processor prefers: NNPACK's rounding depends on where its tiles fall."""
    monkeypatch.setattr("synergic.restore.gains_from_nnpack", lambda *_: False)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the Hub: what is uploaded lies in the layout of its cache, and nothing else is reachable."""
    from huggingface_hub import HfApi, constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def create_repo(_: HfApi, repo_id: str, **__: Any) -> Any:
        class Address:
            pass

        address = Address()
        address.repo_id = repo_id  # type: ignore[attr-defined]
        return address

    def upload_folder(_: HfApi, *, repo_id: str, folder_path: Path, **__: Any) -> str:
        commit = "0" * 40
        repository = cache / f"models--{repo_id.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        (repository / "snapshots").mkdir()
        folder_path.rename(repository / "snapshots" / commit)
        return f"commit/{commit}"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return cache


@pytest.fixture(scope="module")
def spandrel() -> Iterator[Any]:
    """spandrel, knowing SAT-Net."""
    with pytest.MonkeyPatch.context() as patched:
        if find_spec("spandrel") is None:
            patched.setitem(sys.modules, "spandrel", import_module("spandrel_stand_in"))
        from synergic.spandrel import install

        install()
        install()  # a second time does nothing
        yield sys.modules["spandrel"]
        del sys.modules["synergic.spandrel"]


def save(path: Path, pixels: np.ndarray) -> Path:
    """Write pixels H W C as a picture."""
    write_picture(path, Picture(pixels, None, {}, None))
    return path


def tiny_recipe(folder: Path, **changes: object) -> Path:
    """The recipe of a tiny run, and its pictures (random blocks), in a folder. changes: of its keys; `network` and
    `degradation` add to theirs."""
    draw = np.random.default_rng(0)
    for kind, count, side in (("train", 3, 20), ("val", 2, 5)):  # a validation looks at 64 crops
        (folder / kind).mkdir()
        for i in range(count):
            blocks = draw.integers(0, 256, (side, side), np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(blocks).save(folder / kind / f"{i}.png")  # forks come after: no libvips
    tables: dict[str, dict[str, object]] = {
        "network": {"conditioned": True, "channels": 8, "blocks": 1, "depth": 1, "embedding": 4},
        "degradation": {"sigma_min": 20.0, "sigma_max": 30.0},
    }
    for name, values in tables.items():
        values.update(changes.pop(name, {}))  # type: ignore[call-overload]
    keys = {
        "name": "tiny",
        "task": "denoise",
        "pictures": str(folder / "train"),
        "validation": str(folder / "val"),
        "data": "random blocks",
        "licence": "CC0",
        "crop_size": 32,
        "batch_size": 2,
        "validate_every": 2,
        "warmup": 2,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in (keys | changes).items()]
    for name, values in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    path = folder / "tiny.toml"
    path.write_text("\n".join(lines))
    return path
