"""Training, as one visible loop."""

import csv
import json
import os
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from pydantic import Field
from torch import Tensor, nn
from torch.multiprocessing import get_all_start_methods
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from synergic.card import Card, Task
from synergic.config import Amount, Count, Positive, Share, Whole, read_config
from synergic.data import Batch, Crops, read_folder, read_pairs, scaled, to_uint8
from synergic.degradations import JPEG, CameraNoise, GaussianNoise
from synergic.errors import SynergicError
from synergic.files import check_folder, remove_unfinished, write_text
from synergic.hardware import describe, pick_device, pick_precision, training_layout
from synergic.metrics import psnr
from synergic.muon import Muon
from synergic.network import EDITIONS, SATNet, SATNetConfig, count_parameters
from synergic.restore import turned, turned_back
from synergic.weights import load_weights, open_safetensors, save_tensors, save_weights

ACCELERATORS = ("auto", "cpu", "cuda", "mps")
DEGRADATIONS: dict[Task, type[GaussianNoise | CameraNoise | JPEG]] = {
    "denoise": GaussianNoise,
    "photo": CameraNoise,
    "jpeg": JPEG,
}


@dataclass(frozen=True)
class Recipe:
    """One training run. Read from TOML: `[network]` overrides the edition's fields, `[degradation]` the task's; "none"
    stands for None."""

    name: str
    """Name of the weights."""
    task: Task
    """What is removed."""
    network: SATNetConfig
    """The network; in the file, the key `edition` chooses where it starts from."""
    degradation: GaussianNoise | CameraNoise | JPEG
    """How clean pictures are degraded."""
    pictures: Path
    """Folder of clean training pictures."""
    validation: Path
    """Folder of other clean pictures, to validate on."""
    data: str
    """The training pictures in words, for the weights' card."""
    licence: str
    """Their licence, for the weights' card."""
    steps: Count
    """Length of the run."""
    seconds: Positive | None = None
    """Its length where a machine is lent for a time: the learning rate then falls with the time, and the run ends with
    it or with its steps, whichever comes first."""
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)
    """Every clean picture is trained and validated on at each of these sizes, as often at one as at another; smaller
    ones are sharper from pixel to pixel. Pairs stay as they are."""
    patterns: Share = 0.0
    """Share of the training crops that made-up stripes or weaves are laid over."""
    sharpened: Share = 0.0
    """Share of the training crops that are sharpened first: what is sharp from pixel to pixel is then no noise."""
    gray: Share = 0.0
    """Share of a colour network's training crops that are gray, and their degradation with them, as in a scan; half of
    these are toned in a colour, as sepia prints are."""
    crop_size: Count = 64
    """Side of a training crop, in pixels."""
    batch_size: Count = 16
    """Crops a step, over all processes."""
    accumulate: Count = 1
    """Parts that each process computes one after another: memory falls, the step stays the same."""
    loss: Literal["charbonnier", "l1", "mse", "log_mse"] = "charbonnier"
    """charbonnier learns fast; log_mse is what is measured, every crop's decibels alike, for a run that goes on."""
    teacher: str | None = None
    """Published weights, a weights file or hub:owner/name that restore every crop as well; with log_mse. The network
    is drawn to what they restore: most of what the clean picture would add is noise that no network can know of, and
    small batches do not average it away. A teacher is as good as its ensemble of 8 views, all of which it sees. The
    new card names their data and licence as well."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """muon steps the weight matrices of the blocks, AdamW the rest; adamw steps all."""
    learning_rate: Positive = 1.5e-3
    """Greatest learning rate."""
    warmup: Whole = 200
    """Steps over which the learning rate rises from zero."""
    cooldown: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of the run, at its end, over which the learning rate falls to zero."""
    weight_decay: Amount = 1e-4
    """Share of a weight that decays with every step, times the learning rate."""
    clip: Positive = 1.0
    """Greatest norm of the gradient."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998
    """Decay of the moving average of the weights; the average is what is validated and saved."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 1
    """Seed of the initial weights and of every batch."""
    pairs: Path | None = None
    """Folder of degraded pictures with names of clean training pictures; a clean one that has no pair is degraded."""
    validation_pairs: Path | None = None
    """The same for validation."""
    frozen_norm: bool = False
    """BatchNorm keeps the means and variances that it has, for a run that goes on: what is trained is then what
    restores. Those of a batch differ from them, the more the fewer crops it has and the more their levels differ."""
    init: str | None = None
    """Published weights, a weights file or hub:owner/name to start from; tensors of another shape start fresh. The
    new card names their data and licence as well."""
    validate_every: Count = 500
    """Steps between validations; the state is saved with each."""
    workers: Whole = 0
    """Processes that prepare batches; 0 prepares them in the loop."""


def read_recipe(path: Path, changes: Mapping[str, str] | None = None) -> Recipe:
    """A recipe from TOML with changes such as {"network.depth": "4"}. Unknown keys raise SynergicError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: no TOML, or no text
        raise SynergicError(f"{path}: expected a recipe in TOML, got {error}") from None
    for key, text in (changes or {}).items():
        *tables, name = key.split(".")
        table = values
        for part in tables:
            table = table_of(table, part, path)
        table[name] = _toml_value(text)
    return recipe_from(values, path)


def table_of(values: dict[str, Any], key: str, source: object) -> dict[str, Any]:
    """The table of that name, an empty one unless it is there. Raises SynergicError for anything else."""
    table = values.setdefault(key, {})
    if not isinstance(table, dict):
        raise SynergicError(f"{source}: {key}: expected a table, got {table!r}")
    return table


def recipe_from(values: dict[str, Any], source: object) -> Recipe:
    """A recipe from TOML's tables: the edition resolved, the degradation of the task chosen."""
    edition, task = values.pop("edition", "half"), values.get("task")
    if not isinstance(edition, str) or edition not in EDITIONS:
        raise SynergicError(f"{source}: edition: expected one of {', '.join(EDITIONS)}, got {edition!r}")
    if not isinstance(task, str) or task not in DEGRADATIONS:
        raise SynergicError(f"{source}: task: expected one of {', '.join(DEGRADATIONS)}, got {task!r}")
    changes = {key: None if value == "none" else value for key, value in table_of(values, "network", source).items()}
    values["network"] = read_config(SATNetConfig, asdict(EDITIONS[edition]) | changes, f"{source}: network")
    degradation = table_of(values, "degradation", source)
    values["degradation"] = read_config(DEGRADATIONS[task], degradation, f"{source}: degradation")
    optional = {field.name for field in fields(Recipe) if field.default is None}
    absent = dict.fromkeys(key for key in optional & values.keys() if values[key] == "none")
    return read_config(Recipe, values | absent, source)


def as_json(values: dict[str, Any]) -> dict[str, Any]:
    """As a card keeps them: paths as text, tuples as lists."""
    return json.loads(json.dumps(values, default=str))


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string


def train(
    recipe: Recipe,
    run: Path,
    *,
    resume: bool = False,
    max_seconds: float | None = None,
    accelerator: str = "auto",
    precision: str = "auto",
) -> None:
    """Train into the folder `run`: weights.safetensors (the moving average), state.safetensors, log.csv, events.

    Stops after `recipe.steps` or `recipe.seconds`, or once `max_seconds` have passed. `resume` goes on from the saved
    state, bit for bit as if it had never stopped. A loss that is not finite raises SynergicError; the last good state
    stays on disk. Under torchrun all its processes train together, each on its share of every batch.
    """
    device = pick_device(accelerator)
    chosen = pick_precision(precision, device)
    fabric = launch(accelerator, chosen)
    check_parts(recipe, fabric.world_size)
    state = State(recipe, run, fabric, resume, training_layout(device, chosen))
    training, validation = training_batches(recipe, state.step, fabric), validation_batches(recipe)
    fabric.print(f"{recipe.name}: {count_parameters(state.network):,} parameters, {state.hardware}")
    if progress(recipe, state.step, state.seconds) >= 1:  # resumed after its end
        return
    begun = saved = time.monotonic()
    losses = []
    for batch in training:
        seconds = state.seconds + time.monotonic() - saved
        if recipe.seconds is not None:
            seconds = fabric.broadcast(seconds)  # one clock for all processes
        rate = learning_rate(recipe, state.step, state.warm_from, seconds)
        for group in chain.from_iterable(optimizer.param_groups for optimizer in state.optimizers):
            group["lr"] = rate
        loss = torch.zeros((), device=fabric.device)
        for part, (degraded, clean, strength) in enumerate(parts(fabric.to_device(batch), recipe.accumulate), 1):
            with fabric.no_backward_sync(state.model, enabled=part < recipe.accumulate):
                restored = state.model(degraded, strength if recipe.network.conditioned else None).float()
                taught = state.taught(degraded, strength)
                part_loss = LOSSES[recipe.loss](restored, clean, *taught) / recipe.accumulate
                fabric.backward(part_loss)
            loss += part_loss.detach()
        norm = clip_grad_norm_(state.network.parameters(), recipe.clip)
        if not torch.isfinite(loss + norm):
            saved_state = f"the last good state is {state.path}; go on from it with --resume and"
            raise SynergicError(
                f"step {state.step}: expected a finite loss, got {loss.item()} (gradient norm {norm.item()}); "
                f"{saved_state if state.path.exists() else 'start anew with'} a lower learning_rate"
            )
        for optimizer in state.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        state.average.update_parameters(state.network)
        state.step += 1
        losses.append(loss)

        over = progress(recipe, state.step, seconds) >= 1
        out_of_time = max_seconds is not None and fabric.broadcast(time.monotonic() - begun >= max_seconds)
        if state.step % recipe.validate_every == 0 or over or out_of_time:
            state.log(
                learning_rate=rate,
                loss=mean_over_processes(torch.stack(losses).mean(), fabric),
                steps_per_second=len(losses) / (time.monotonic() - saved),
                validation_psnr=validate(state.averaged, validation, fabric),
            )
            state.save(seconds=time.monotonic() - saved)
            saved, losses = time.monotonic(), []
        if over or out_of_time:
            break


def launch(accelerator: str, precision: torch.dtype) -> Fabric:
    """Devices, precision and processes: one process, or those that torchrun has started, on one machine or more."""
    if accelerator not in ACCELERATORS:
        raise SynergicError(f"accelerator: expected one of {', '.join(ACCELERATORS)}, got {accelerator!r}")
    processes, here = (int(os.environ.get(key, "1")) for key in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    fabric = Fabric(
        accelerator=accelerator,
        strategy="ddp" if processes > 1 else "auto",
        devices=here,
        num_nodes=processes // here,
        precision="bf16-mixed" if precision == torch.bfloat16 else "32-true",
    )
    fabric.launch()
    torch.backends.cudnn.benchmark = True  # crops are of one size: what is fastest for one is for all
    return fabric


def check_parts(recipe: Recipe, processes: int) -> None:
    """Refuse a batch that does not split evenly: the mean of the parts' means would not be the batch's."""
    if recipe.accumulate < 1 or recipe.batch_size % (processes * recipe.accumulate):
        raise SynergicError(
            f"batch_size: expected a multiple of {processes} processes times accumulate = {recipe.accumulate}, "
            f"got {recipe.batch_size}; change batch_size or accumulate"
        )


def parts(batch: Batch, count: int) -> Iterator[Batch]:
    """A batch in `count` parts of one size."""
    degraded, clean, strength = (tensor.chunk(count) for tensor in batch)
    return zip(degraded, clean, strength, strict=True)


def mean_over_processes(value: Tensor, fabric: Fabric) -> float:
    """The mean of every process's value."""
    mean = fabric.all_reduce(value, reduce_op="mean")
    assert isinstance(mean, Tensor)
    return mean.item()


def length(recipe: Recipe) -> str:
    """How long a run is to be, in words."""
    return f"{recipe.steps} steps or {recipe.seconds} seconds"


def progress(recipe: Recipe, step: int, seconds: float) -> float:
    """How much of a run is over: of its steps or of its seconds, whichever is more."""
    return max(step / recipe.steps, seconds / recipe.seconds if recipe.seconds else 0.0)


def learning_rate(recipe: Recipe, step: int, warm_from: int = 0, seconds: float = 0.0) -> float:
    """Linear warm-up from step `warm_from` on, constant, then linear to zero over the last `cooldown` of the run."""
    rising = (step - warm_from + 1) / max(recipe.warmup, 1)
    falling = (1 - progress(recipe, step, seconds)) / recipe.cooldown
    return recipe.learning_rate * max(0.0, min(1.0, rising, falling))


def optimizers(network: SATNet, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """What steps which parameters: see `Recipe.optimizer`."""
    matrices: list[nn.Parameter] = []
    if recipe.optimizer == "muon":
        matrices = [parameter for parameter in network.blocks.parameters() if parameter.ndim > 1]
    chosen = {id(parameter) for parameter in matrices}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in chosen]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    adamw = torch.optim.AdamW(rest, rate, weight_decay=decay, fused=True)
    return [adamw, Muon(matrices, rate, weight_decay=decay)] if matrices else [adamw]


def charbonnier(restored: Tensor, clean: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(error^2 + epsilon^2): near L1, smooth at zero."""
    return (restored - clean).square().add(epsilon**2).sqrt().mean()


def log_mse(restored: Tensor, clean: Tensor, taught: Tensor | None = None, *, floor: float = 1e-5) -> Tensor:
    """Mean over the crops of log(mean squared error + floor): PSNR itself, up to 50 dB.

    With what a teacher restored, the error is that against the teacher plus the teacher's own: the same in the mean,
    if the teacher is the best guess (their product's mean is zero then), with far less noise in the gradient.
    """
    if taught is None:
        error = mse_of_crops(restored, clean)
    else:
        error = mse_of_crops(restored, taught) + mse_of_crops(taught, clean)
    return error.add(floor).log().mean()


def mse_of_crops(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared difference of each crop: N C H W each -> N."""
    return (x - y).square().flatten(1).mean(1)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "charbonnier": charbonnier,
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    "log_mse": log_mse,
}


def teach(teacher: SATNet, degraded: Tensor, strength: Tensor, view: int) -> Tensor:  # N C H W and N -> N C H W
    """What a teacher restores of a view of the crops, turned back. Over the eight views the mean is that of its
    ensemble, which is better than it is."""
    restored = teacher(turned(degraded, view), strength if teacher.config.conditioned else None)
    return turned_back(restored, view).float()


def training_batches(recipe: Recipe, step: int, fabric: Fabric) -> DataLoader[Batch]:
    """Batches from `step` on; this process's share of each."""
    crops = training_crops(recipe, fabric.global_rank, fabric.world_size)
    return DataLoader(
        crops,
        batch_size=None,
        sampler=range(step, recipe.steps),
        num_workers=recipe.workers,
        multiprocessing_context=start_method() if recipe.workers else None,
    )


def training_crops(recipe: Recipe, rank: int = 0, world_size: int = 1) -> Crops:
    """What a recipe trains on, batch by batch: the share of one of so many processes."""
    return Crops(
        read_pictures(recipe.pictures, recipe, recipe.pairs, crop_size=recipe.crop_size),
        recipe.degradation,
        crop_size=recipe.crop_size,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        patterns=recipe.patterns,
        sharpened=recipe.sharpened,
        gray=recipe.gray,
        rank=rank,
        world_size=world_size,
    )


def start_method() -> str:
    """How worker processes begin: the image library does not survive a fork, and Windows knows no server of forks."""
    return "forkserver" if "forkserver" in get_all_start_methods() else "spawn"


def validation_batches(recipe: Recipe, crop_size: int = 128, batch_size: int = 8, batches: int = 8) -> list[Batch]:
    """The same few batches in every run: seed 0, whatever the recipe's. Pictures may be smaller than a crop."""
    pictures = read_pictures(recipe.validation, recipe, recipe.validation_pairs)
    crop_size = min(crop_size, *(length for pixels in pictures for length in pixels.shape[:2]))
    crops = Crops(pictures, recipe.degradation, crop_size=crop_size, batch_size=batch_size, seed=0)
    return [crops[step] for step in range(batches)]


def read_pictures(folder: Path, recipe: Recipe, pairs: Path | None = None, crop_size: int = 1) -> list[np.ndarray]:
    """What `Crops` takes: clean pictures H W C at each of the recipe's scales, and pairs H W 2C as they are. Raises
    SynergicError for a picture that is smaller than a crop at one of them."""
    colors = recipe.network.colors
    paired = {} if pairs is None else read_pairs(folder, pairs, colors)
    clean = {name: of for name, of in read_folder(folder, colors, eight_bit=False) if name not in paired}
    for named, scale in ((clean, min(recipe.scales)), (paired, 1)):
        for name, pixels in named.items():
            height, width = pixels.shape[:2]
            least = max(1, round(min(height, width) * scale))
            if least < crop_size:
                at = "" if scale == 1 else f", {least} pixels at scale {scale:g}"
                raise SynergicError(
                    f"{folder}: {name}: expected sides of at least the crop_size of {crop_size}, got {height} x {width}"
                    f"{at}; leave it out, or set a smaller crop_size"
                )
    return [scaled(pixels, scale) for scale in recipe.scales for pixels in clean.values()] + list(paired.values())


@torch.no_grad()
def validate(network: SATNet, batches: list[Batch], fabric: Fabric) -> float:
    """Mean PSNR in dB over the crops, restored as in training's precision, clipped and rounded to 8 bit."""
    network.eval()
    scores = []
    for degraded, clean, strength in (fabric.to_device(batch) for batch in batches):
        with fabric.autocast():
            restored = network(degraded, strength if network.config.conditioned else None)
        scores += [psnr(to_uint8(x), to_uint8(y)) for x, y in zip(restored.float(), clean, strict=True)]
    network.train()
    return sum(scores) / len(scores)


FACTS = {
    "step": int,
    "seconds": float,
    "earlier_steps": int,
    "earlier_seconds": float,
    "length": str,
    "warm_from": int,
}
"""What a state knows besides its tensors."""
PLACES = ("pictures", "validation", "pairs", "validation_pairs", "workers", "accumulate")
"""Keys of a recipe that may change while it runs: where it runs, not what it does."""
STEERING = ("steps", "seconds", "learning_rate", "warmup", "cooldown", "clip", "validate_every")
"""Keys that may be changed when a run goes on: how long, how fast."""


class State:
    """What a run holds between two steps, and its files."""

    def __init__(self, recipe: Recipe, run: Path, fabric: Fabric, resume: bool, layout: torch.memory_format) -> None:
        self.recipe, self.run, self.path, self.fabric = recipe, run, run / "state.safetensors", fabric
        check_folder(run)
        remove_unfinished(run)
        written = [file for file in (self.path, run / "weights.safetensors", run / "log.csv") if file.exists()]
        if written and not resume:
            raise SynergicError(
                f"{run}: expected a new folder, got one with {written[0].name}; pass --resume or another -o"
            )
        torch.manual_seed(recipe.seed)
        self.network = SATNet(recipe.network)
        self.earlier_steps, self.earlier_seconds = 0, 0.0  # behind what it started from
        self.earlier_data = self.earlier_licence = self.earlier_hardware = ""
        if recipe.init is not None and not resume:
            card, fitting = start_from(self.network, recipe.init)
            fabric.print(fitting)
            self.earlier_steps, self.earlier_seconds = card.steps, card.seconds
            self.remember(card)
        for norm in (module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.train(not recipe.frozen_norm)
        self.network.to(fabric.device, memory_format=layout)  # type: ignore[call-overload]
        self.teacher = None
        if recipe.teacher is not None:
            self.teacher, card = read_teacher(recipe, recipe.teacher)
            self.teacher.to(fabric.device, memory_format=layout)  # type: ignore[call-overload]
            self.earlier_data = joined(self.earlier_data, card.data)
            self.earlier_licence = joined(self.earlier_licence, card.licence)
        ema = get_ema_multi_avg_fn(recipe.ema)
        self.average = AveragedModel(self.network, multi_avg_fn=ema, use_buffers=True)
        self.model, *self.optimizers = fabric.setup(self.network, *optimizers(self.network, recipe))
        self.step, self.seconds, self.row = 0, 0.0, dict[str, float]()
        self.length, self.warm_from = length(recipe), 0
        if resume:
            self.load()

    def remember(self, card: Card) -> None:
        """Name on later cards what an earlier one names."""
        self.earlier_data, self.earlier_licence, self.earlier_hardware = card.data, card.licence, card.hardware

    @torch.no_grad()
    def taught(self, degraded: Tensor, strength: Tensor) -> list[Tensor]:  # N C H W and N -> N C H W
        """What the teacher restores; nothing without one."""
        if self.teacher is None:
            return []
        with self.fabric.autocast():
            return [teach(self.teacher, degraded, strength, view=self.step % 8)]

    @property
    def averaged(self) -> SATNet:
        """The network with the moving average of the weights."""
        assert isinstance(self.average.module, SATNet)
        return self.average.module

    @property
    def hardware(self) -> str:
        """What trains, in a few words; processes are taken to be alike."""
        one, count = describe(self.fabric.device), self.fabric.world_size
        return one if count == 1 else f"{count} processes, each {one}"

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name: the network's, the average's, the optimizer's moments."""
        named = {f"network.{key}": tensor for key, tensor in self.network.state_dict().items()}
        named |= {f"average.{key}": tensor for key, tensor in self.average.state_dict().items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, moments in optimizer.state_dict()["state"].items():
                named |= {f"optimizer.{number}.{index}.{key}": tensor for key, tensor in moments.items()}
        return named

    def save(self, seconds: float) -> None:
        """Write state, weights and the log's row; `seconds` were spent since the last time.

        The state comes first, whole or not at all: the rest follows from it, and is written when a run that was killed
        in between is resumed.
        """
        self.seconds += seconds
        if not self.fabric.is_global_zero:
            return
        tensors = {
            key: tensor.cpu().clone(memory_format=torch.contiguous_format) for key, tensor in self.tensors().items()
        }
        facts = {key: str(getattr(self, key)) for key in FACTS}
        facts |= {"row": json.dumps(self.row), "card": json.dumps(asdict(self.card()))}
        save_tensors(self.path, tensors, facts)
        self.write_results()

    def load(self) -> None:
        """Go on from the saved state."""
        if not self.path.exists():
            raise SynergicError(f"{self.path}: expected a training state to resume, found none; start without --resume")
        with open_safetensors(self.path) as file:
            metadata, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        try:
            self.row, card = json.loads(metadata["row"]), read_config(Card, json.loads(metadata["card"]), self.path)
            check_recipe(self.recipe, card, self.run, (*PLACES, *STEERING))
            self.take(metadata, tensors)
        except SynergicError:
            raise
        except (KeyError, ValueError, RuntimeError):  # a tensor that is not there, no number, another shape
            raise SynergicError(
                f"{self.path}: expected the state of a run of this recipe, got another's or a damaged one; "
                "resume with the recipe that the run was started with"
            ) from None
        self.remember(card)
        logged = [row["step"] for row in read_log(self.run)]
        if self.fabric.is_global_zero and str(self.step) not in logged:  # killed before it was
            self.write_results()

    @torch.no_grad()
    def take(self, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
        """Become the state that these tensors hold."""
        for key, kind in FACTS.items():
            setattr(self, key, kind(metadata[key]))
        if self.length != length(self.recipe):  # another schedule: a rate that jumped up would throw the run back
            self.length, self.warm_from = length(self.recipe), self.step
        self.network.load_state_dict(_below(tensors, "network."))
        self.average.load_state_dict(_below(tensors, "average."))
        for number, optimizer in enumerate(self.optimizers):
            values = optimizer.state_dict()
            for index, parameter in enumerate(chain.from_iterable(g["params"] for g in optimizer.param_groups)):
                own = _below(tensors, f"optimizer.{number}.{index}.")
                if not own:
                    raise KeyError(f"optimizer.{number}.{index}")
                for key, moment in own.items():  # the fused AdamW needs them in the parameter's memory order
                    alike = moment.shape == parameter.shape  # the rest are copied too: Windows replaces no mapped file
                    own[key] = torch.empty_like(parameter).copy_(moment) if alike else moment.clone()
                values["state"][index] = own
            optimizer.load_state_dict(values)

    def log(self, **values: float) -> None:
        """Print the figures of this step; `save` writes them, so that the log never runs ahead of the state."""
        self.row = {"step": self.step, **values}
        self.fabric.print("  ".join(f"{key} {value:.6g}" for key, value in self.row.items()))

    def write_results(self) -> None:
        """The weights, whole or not at all, and then the log's row."""
        save_weights(self.run / "weights.safetensors", self.averaged, self.card())
        row = self.row | {"seconds": round(self.seconds, 1)}
        lines = log_lines(self.run) or [",".join(row)]
        text = "".join(f"{line}\n" for line in (*lines, ",".join(map(str, row.values()))))
        write_text(self.run / "log.csv", text, overwrite=True)
        with SummaryWriter(str(self.run)) as events:
            for key, value in row.items():
                events.add_scalar(key, value, self.step)

    def card(self) -> Card:
        recipe = as_json(asdict(self.recipe))
        return Card(
            name=self.recipe.name,
            task=self.recipe.task,
            data=joined(self.earlier_data, self.recipe.data),
            licence=joined(self.earlier_licence, self.recipe.licence),
            steps=self.earlier_steps + self.step,
            seconds=round(self.earlier_seconds + self.seconds, 1),
            hardware=joined(self.earlier_hardware, self.hardware),
            recipe=recipe,
        )


def check_recipe(recipe: Recipe, card: Card, run: Path, free: Iterable[str]) -> None:
    """Refuse to go on with a run whose card names another recipe; keys that are `free` may differ."""
    for key, asked, found in differences(as_json(asdict(recipe)), recipe_of(card), free):
        raise SynergicError(f"{run}: {key}: expected {found!r} as it began, got {asked!r}; pass another -o")


def differences(recipe: dict[str, Any], other: dict[str, Any], free: Iterable[str]) -> Iterator[tuple[str, Any, Any]]:
    """Where two recipes, as cards keep them, differ, but for keys that are `free`: key, of a table as "network.depth",
    and both values."""
    one, two = (
        of | {f"{table}.{key}": value for table in ("network", "degradation") for key, value in of[table].items()}
        for of in (recipe, other)
    )
    passed = {"network", "degradation", *free}
    yield from ((key, one[key], two.get(key)) for key in one if key not in passed and one[key] != two.get(key))


def recipe_of(card: Card) -> dict[str, Any]:
    """What weights were trained by; keys that recipes did not have yet are at their defaults."""
    known = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
    recipe = as_json(known) | card.recipe
    kinds = {"network": SATNetConfig, "degradation": DEGRADATIONS[recipe["task"]]}
    return recipe | {table: as_json(asdict(kind())) | recipe[table] for table, kind in kinds.items()}


def read_log(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's log."""
    return list(csv.DictReader(log_lines(folder)))


def log_lines(folder: Path) -> list[str]:
    """The lines of a run's log, but for a last one that was cut short: earlier versions wrote it line by line."""
    path = folder / "log.csv"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def read_teacher(recipe: Recipe, teacher: str) -> tuple[SATNet, Card]:
    """The network that teaches, and its card; SynergicError for one that cannot, or a loss that does not listen."""
    network, card = load_weights(teacher)
    asked = {"loss": "log_mse", "task": card.task, "network.colors": network.config.colors}
    own = {"loss": recipe.loss, "task": recipe.task, "network.colors": recipe.network.colors}
    for key, value in asked.items():
        if own[key] != value:
            raise SynergicError(f"{key}: expected {value!r} with the teacher {teacher}, got {own[key]!r}")
    return network, card


def joined(earlier: str, own: str) -> str:
    """What trained the weights first, or what they were trained on, and what then; each named once."""
    return "; ".join(dict.fromkeys([*earlier.split("; "), *own.split("; ")])) if earlier else own


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name begins with the prefix, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def start_from(network: SATNet, init: str) -> tuple[Card, str]:
    """Copy the tensors of other weights that have the same name and shape. Returns their card, and a line that says
    how many fitted."""
    given, card = load_weights(init)
    own, others = network.state_dict(), given.state_dict()
    fitting = {key: tensor for key, tensor in others.items() if key in own and own[key].shape == tensor.shape}
    network.load_state_dict(own | fitting)
    fresh = ", ".join(sorted(own.keys() - fitting.keys())) or "none"
    return card, f"{len(fitting)} of {len(own)} tensors from {init}; fresh: {fresh}"
