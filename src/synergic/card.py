"""What weights say of themselves, what a network is told, and which weights are published. Does without PyTorch."""

from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal, Self

from synergic.errors import SynergicError, first_line, needs

Task = Literal["denoise", "photo", "jpeg"]

UNKNOWN_STRENGTH = -1.0
"""The strength plane's value when the strength is not known; trained like any other value."""
HUB = "hub:"
"""Weights of a repository of the Hugging Face Hub are named by this and owner/name."""
HUB_FILE = "weights.safetensors"
"""The file of such a repository that is read."""
MAX_BYTES = 1 << 30
"""The largest file that is opened as weights or as a model: two hundred times the published ones."""


@dataclass(frozen=True)
class Card:
    """What a weights file says of itself."""

    name: str
    """Name under which it is published, such as gray-denoise."""
    task: Task
    """The degradation it removes."""
    data: str
    """Pictures it was trained on."""
    licence: str
    """Licence of that data."""
    steps: int
    """Training steps behind these weights, those of the weights they started from included."""
    seconds: float
    """Wall-clock seconds of these steps."""
    hardware: str
    """What it was trained on, first to last, that of the weights they started from included."""
    recipe: dict[str, Any]
    """The complete training recipe: seed, crop and batch size, learning rate and the rest."""
    scores: dict[str, float] = field(default_factory=dict)
    """Measured PSNR in dB by protocol, such as {"Set12, sigma 25": 30.44}."""
    protocol: str = ""
    """How the scores were measured."""
    limits: str = ""
    """Known limits."""

    def unmeasured(self) -> Self:
        """Of weights that were made of these: no score, and no limit, is known of them."""
        return replace(self, scores={}, protocol="", limits="")


def told_strength(card: Card, conditioned: bool, sigma: float | None, quality: int | None) -> float:
    """What the network is told: sigma/255, quality/100 or UNKNOWN_STRENGTH. Raises SynergicError for both at once, for
    what the weights cannot use, and for a sigma outside 0-255 or a quality outside 1-100."""
    if sigma is not None and quality is not None:
        raise SynergicError("sigma and quality: expected one of them, got both")
    for name, value in (("sigma", sigma), ("quality", quality)):
        if value is None:
            continue
        if not conditioned or (name == "quality") != (card.task == "jpeg"):
            raise SynergicError(f"{name}: {card.name} ({card.task}) works without; leave it out")
        return share_of_range(name, value)
    return UNKNOWN_STRENGTH


def share_of_range(name: str, value: float) -> float:
    """A sigma, noise (a sigma that is added) or quality as a share of its greatest. Raises SynergicError outside its
    range."""
    least, most = {"sigma": (0, 255), "noise": (0, 75), "quality": (1, 100)}[name]
    if not least <= value <= most:
        raise SynergicError(f"{name}: expected {least} to {most}, got {value}")
    return value / most


def published_weights() -> dict[str, Path]:
    """Weights inside the package, by name."""
    folder = Path(str(files("synergic") / "published"))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def weights_for(task: Task, colors: int) -> str:
    """The published weights that serve a task on gray (1) or colour (3) pictures best."""
    own, other = ("gray", "color") if colors == 1 else ("color", "gray")
    candidates = [task, f"{own}-{task}", f"{other}-{task}"]
    published = published_weights()
    for name in candidates:
        if name in published:
            return name
    raise SynergicError(
        f"task {task}: expected published weights for it, got only {', '.join(published)}; pass --weights"
    )


def find_weights(name_or_path: str | Path) -> Path:
    """The file of published weights ("photo"), of weights on the Hub ("hub:owner/name"), or the file itself. Raises
    SynergicError if there is none."""
    if str(name_or_path).startswith(HUB):
        return weights_from_hub(str(name_or_path))
    published = published_weights()
    if str(name_or_path) in published:
        return published[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        names = ", ".join(published) or "none yet"
        raise SynergicError(
            f"{name_or_path}: expected a weights file or a published name, got neither; published: {names}"
        )
    return path


def weights_from_hub(name: str) -> Path:
    """The weights file of "hub:owner/name", downloaded once. "hub:owner/name@revision": of a branch, tag or commit."""
    with needs("hub", name):
        from huggingface_hub import hf_hub_download
    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        return Path(hf_hub_download(repository, HUB_FILE, revision=revision or None))
    except Exception as error:  # not there, not allowed, no such name, no network: it has no common class for them
        raise SynergicError(f"{name}: expected a repository with {HUB_FILE}, got none ({first_line(error)})") from None


def check_file(path: Path, kind: str) -> None:
    """Refuse what is no regular file, for a device may never end, and what is larger than any weights. kind: what was
    expected of it."""
    try:
        status = path.stat()
    except OSError as error:
        raise SynergicError(f"{path}: expected {kind}, got {error.strerror}; check the path and its rights") from None
    if not S_ISREG(status.st_mode):
        raise SynergicError(f"{path}: expected {kind}, got no regular file; check the path")
    if status.st_size > MAX_BYTES:
        raise SynergicError(f"{path}: expected {kind} of at most {MAX_BYTES:,} bytes, got {status.st_size:,}")
