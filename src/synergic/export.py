"""ONNX: a network for other programs, checked against the network itself in numbers.

The graph takes any height and width. Non-local attention and the gates' pooling are operators of the traced network,
and are written in ONNX operators by hand below: windows are counted when the model runs, which tracing cannot express.
They compute what attention.py and pooling.py do; the check of every export holds them together.
"""

import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from math import ceil, lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import onnxscript
import torch
from onnx_ir import DataType
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript import FLOAT, INT64
from torch import Tensor, library, nn

from synergic.attention import patch_attention
from synergic.card import UNKNOWN_STRENGTH, Card
from synergic.engine import FORMAT, OnnxModel
from synergic.errors import SynergicError
from synergic.files import check_free, whole_file, write_text
from synergic.network import BranchGate, NonLocalAttention, SATNet, SATNetConfig, fold_batch_norm
from synergic.pooling import STEP, between_windows, window_means
from synergic.weights import load_weights

OPSET = 18
op: Any = onnxscript.opset18
if TYPE_CHECKING:
    FLOATS: TypeAlias = Any
    INTS: TypeAlias = Any
else:  # of any rank; FLOAT and INT64 alone are numbers, and said so in the graph
    FLOATS, INTS = FLOAT[...], INT64[...]
SIZES = (1, 1), (7, 5), (65, 97), (256, 256), (300, 500)
"""Heights and widths at which an export is compared with its network: odd, smaller than a patch, than a window."""
FIXED = 192, 192
"""A tile of darktable, which fixes the size before it loads a model."""
TOLERANCE = 1e-4
"""Largest difference from the network, relative to the largest value of its output."""


def export(
    name_or_path: str | Path,
    target: Path | str,
    *,
    darktable: bool = False,
    blind: bool = False,
    overwrite: bool = False,
) -> dict[tuple[int, int], float]:
    """Write weights as an ONNX model and compare it with the network. Returns the relative error by height and width.

    name_or_path: published weights ("photo"), a weights file, or weights on the Hub ("hub:owner/name").
    target: MODEL.onnx; with `darktable`, either NAME.dtmodel, the archive that its preferences import, or a model.onnx,
    with the config.json that darktable needs put beside it. The file appears whole and checked, or not at all:
    a relative error above `TOLERANCE` raises SynergicError.
    blind: leave out the strength plane, for programs that do not know it; the model then works with unknown strength.
    """
    target, wanted = Path(target), (".onnx", ".dtmodel") if darktable else (".onnx",)
    if target.suffix not in wanted:
        raise SynergicError(f"{target}: expected a name that ends in {' or '.join(wanted)}")
    beside = target.with_name("config.json") if darktable and target.suffix == ".onnx" else target
    if beside != target and target.name != "model.onnx":
        raise SynergicError(f"{target}: expected the name model.onnx, which darktable opens, or NAME.dtmodel")
    for path in {target, beside}:
        check_free(path, overwrite)
    if beside != target and beside.exists() and not is_for_darktable(beside):
        raise SynergicError(f"{beside}: expected none, or an export's, got another file; choose another folder")
    network, card = load_weights(name_or_path)
    check_for_onnx(network.config, card, blind)
    if darktable:
        check_for_darktable(network.config, card, blind)
    model = traced(fold_batch_norm(deepcopy(network)), card, blind)
    errors = parity(network, OnnxModel.from_bytes(model, target))
    if darktable:
        errors |= parity(network, OnnxModel.from_bytes(model, target, side=FIXED[0]), sizes=[FIXED])
    for (height, width), error in errors.items():
        if not error <= TOLERANCE:  # not a number, too
            raise SynergicError(
                f"{target}: expected the network's output to a relative {TOLERANCE:g}, got {error:.1e} at "
                f"{width} x {height} pixels; nothing was written"
            )
    config = darktable_config(card, inputs=2 if network.config.conditioned and not blind else 1)
    described = json.dumps(config, indent=1)
    with whole_file(target, overwrite=overwrite) as unfinished:
        if target.suffix == ".onnx":
            unfinished.write_bytes(model)
        else:
            with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(f"{config['id']}/config.json", described)
                archive.writestr(f"{config['id']}/model.onnx", model)
    if beside != target:
        write_text(beside, described, overwrite=overwrite)
    return errors


def check_for_onnx(config: SATNetConfig, card: Card, blind: bool) -> None:
    """Refuse a model that could not hold its similarities, and leaving out a strength that is not there."""
    if config.nonlocal_attention == "pixel" and config.window is None:
        raise SynergicError(
            f"{card.name}: expected attention in windows, got that of every pixel with all others, for whose "
            "similarities a model has no memory; set network.window when training"
        )
    if blind and not config.conditioned:
        raise SynergicError(f"blind: expected weights that take a strength, got {card.name}; leave it out")


def is_for_darktable(config: Path) -> bool:
    """Is this file one that `export` wrote? Weights of the Hub have another of this name."""
    try:
        return str(json.loads(config.read_text())["id"]).startswith("synergic-")
    except (OSError, ValueError, TypeError, KeyError):
        return False


def traced(network: SATNet, card: Card, blind: bool) -> bytes:
    """The network as an ONNX model: one file that describes itself, as weights do."""
    exported = ExportedNetwork(network, blind).eval()
    colors = network.config.colors
    plane = ("quality" if card.task == "jpeg" else "sigma",) if exported.takes_strength else ()
    height, width = 131, 203  # any: both are free
    example = (torch.zeros(1, 3, height, width), torch.zeros(1, 1, height, width))[: 1 + len(plane)]
    free = {2: "height", 3: "width"}
    shapes = ({1: "channels", **free} if colors == 1 else free, free)[: len(example)]
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            exported,
            example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["input", *plane],
            output_names=["output"],
            opset_version=OPSET,
            custom_translation_table={
                torch.ops.synergic.patch_attention.default: attention_in_onnx,
                torch.ops.synergic.window_means.default: window_means_in_onnx,
                torch.ops.synergic.between_windows.default: between_windows_in_onnx,
            },
            verbose=False,
        )
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # stack traces, with the paths of this machine
    metadata = {"format": FORMAT, "config": json.dumps(asdict(network.config)), "card": json.dumps(asdict(card))}
    program.model.metadata_props.update(metadata)
    return program.model_proto.SerializeToString()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep from the user what the exporter says of its own parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


@torch.inference_mode()
def parity(network: SATNet, model: OnnxModel, sizes: Sequence[tuple[int, int]] = SIZES) -> dict[tuple[int, int], float]:
    """The largest relative error of a model at each of the sizes, with the strength known and unknown.

    Relative error: the largest difference over the largest value of the network's output. The picture is waves, which
    repeat, under noise.
    """
    generator = torch.Generator().manual_seed(0)
    strengths = [25 / 255, UNKNOWN_STRENGTH] if model.plane else [UNKNOWN_STRENGTH]
    errors = {}
    for height, width in sizes:
        waves = torch.sin(torch.arange(height) / 3)[:, None] * torch.sin(torch.arange(width) / 5)
        noise = torch.randn(1, network.config.colors, height, width, generator=generator)
        degraded = 0.5 + 0.3 * waves + 0.1 * noise
        found = []
        for strength in strengths:
            told = torch.tensor([strength]) if network.config.conditioned else None
            wanted, got = network(degraded, told), torch.from_numpy(model(degraded.numpy(), strength))
            found.append((wanted - got).abs().max() / wanted.abs().max())
        errors[height, width] = float(torch.stack(found).max())  # not a number if one is
    return errors


def check_for_darktable(config: SATNetConfig, card: Card, blind: bool) -> None:
    """Refuse weights that darktable cannot use as they are."""
    if config.colors == 1:
        raise SynergicError(
            f"{card.name}: expected colour weights, got gray ones, which take three times the memory for darktable's "
            "three channels; use color-denoise or photo"
        )
    if config.nonlocal_attention is not None and config.window is None:
        raise SynergicError(
            f"{card.name}: expected attention in windows, got it over the whole picture, which darktable's tiles of "
            "2048 pixels have no memory for; use weights with a window"
        )
    if card.task == "jpeg" and config.conditioned and not blind:
        raise SynergicError(f"{card.name}: expected weights that take sigma, got quality; pass --blind")


def darktable_config(card: Card, inputs: int) -> dict[str, Any]:
    """What darktable reads of a model for its neural restore module."""
    name = re.sub(r"[^\w.-]+", "-", card.name).strip(".-")  # a folder of this name is unpacked
    return {
        "id": f"synergic-{name}",
        "name": f"synergic {card.name}",
        "description": "SAT-Net, the Synergic Attention Network, " + ("blind" if inputs == 1 else "told sigma"),
        "task": "denoise",
        "backend": "onnx",
        "version": "1.0",
        "num_inputs": inputs,
        "model_card": {
            "paper": "https://doi.org/10.1109/ICASSP39728.2021.9413484",
            "training_data": card.data,
            "training_data_license": card.licence,
            "notes": card.limits,
        },
    }


class ExportedNetwork(nn.Module):
    """What the model computes: 1 C H W in [0, 1] and its strength plane 1 1 H W -> restored, 1 C H W, not clamped.

    A colour network takes C = 3; a gray network any C, each channel for itself. The strength is one number for the
    whole picture, read from the plane's first value; a blind model has no such plane and works with unknown strength.
    """

    def __init__(self, network: SATNet, blind: bool) -> None:
        super().__init__()
        self.network = deepcopy(network)
        self.takes_strength = network.config.conditioned and not blind
        for module in self.network.modules():
            if isinstance(module, NonLocalAttention):
                module.__class__ = ExportedAttention
            elif isinstance(module, BranchGate) and module.window is not None:
                module.__class__ = ExportedGate

    def forward(self, degraded: Tensor, plane: Tensor | None = None) -> Tensor:
        gray = self.network.config.colors == 1
        x = degraded.transpose(0, 1) if gray else degraded
        strength = plane[:, 0, 0, 0].expand(x.shape[0]) if plane is not None else None
        restored = self.network(x, strength)
        return restored.transpose(0, 1) if gray else restored


class ExportedAttention(NonLocalAttention):
    """`NonLocalAttention` whose attention is one operator of the traced graph."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # N H W E -> N H W E
        c = self.config
        return _operator(q * self.scale, k, v, *c.patches, c.window, c.halo)


class ExportedGate(BranchGate):
    """A `BranchGate` with windows, whose pooling is two operators of the traced graph."""

    def weight(self, first: Tensor, second: Tensor) -> Tensor:  # N C H W each -> N C H W
        assert self.window is not None
        summed = first + second
        weights = self.weights(_window_means(summed, self.window))
        return _between_windows(weights[0], summed, self.window)


@library.custom_op("synergic::window_means", mutates_args=())
def _window_means(x: Tensor, size: int) -> Tensor:
    """`window_means` as an operator that tracing does not look into."""
    return window_means(x, size)


@_window_means.register_fake
def _(x: Tensor, size: int) -> Tensor:
    n, channels, *lengths = x.shape
    h, w = (torch.sym_max(0, length - size + STEP - 1) // STEP + 1 for length in lengths)
    return x.new_empty(n, h, w, channels)


@library.custom_op("synergic::between_windows", mutates_args=())
def _between_windows(values: Tensor, like: Tensor, size: int) -> Tensor:
    """`between_windows`, likewise, for the positions of `like`, N C H W."""
    height, width = like.shape[2:]
    return between_windows(values, height, width, size)


@_between_windows.register_fake
def _(values: Tensor, like: Tensor, size: int) -> Tensor:  # noqa: ARG001
    return values.new_empty(like.shape)


def window_means_in_onnx(x: Any, size: int) -> Any:
    """`pooling.window_means` in ONNX operators: N C H W -> N h w C."""
    rows, columns = (_averaging(_size(x, axis), size) for axis in (2, 3))
    means = op.MatMul(op.MatMul(rows, x), op.Transpose(columns, perm=[1, 0]))  # N C h w
    return op.Transpose(means, perm=[0, 2, 3, 1])


def between_windows_in_onnx(values: Any, like: Any, size: int) -> Any:
    """`pooling.between_windows` in ONNX operators: N h w C -> N C H W."""
    rows, columns = (_interpolation(_size(like, axis), size) for axis in (2, 3))
    channels_first = op.Transpose(values, perm=[0, 3, 1, 2])  # N C h w
    return op.MatMul(op.MatMul(rows, channels_first), op.Transpose(columns, perm=[1, 0]))


def _averaging(length: Any, size: int) -> Any:
    """`pooling.averaging`: h H."""
    within = op.Min(length, op.Constant(value_int=size))
    after_start = op.Sub(_range(length), op.Unsqueeze(_window_starts(length, size), _shape(1)))
    inside = op.And(op.GreaterOrEqual(after_start, op.Constant(value_int=0)), op.Less(after_start, within))
    return op.Div(op.Cast(inside, to=DataType.FLOAT), op.Cast(within, to=DataType.FLOAT))


def _interpolation(length: Any, size: int) -> Any:
    """`pooling.interpolation`: H h."""
    starts = op.Cast(_window_starts(length, size), to=DataType.FLOAT)
    count = op.Shape(starts)
    before, after = op.Slice(starts, _shape(0), count - 1, _shape(0)), op.Slice(starts, _shape(1), count, _shape(0))
    half = op.Cast(op.Min(length, op.Constant(value_int=size)), to=DataType.FLOAT) * 0.5
    behind = op.Unsqueeze(op.Cast(_range(length), to=DataType.FLOAT) + 0.5 - half, _shape(1)) - before  # H h-1
    passed = op.Clip(behind / (after - before), 0.0, 1.0)
    return op.Pad(passed, _shape(0, 1, 0, 0), 1.0) - op.Pad(passed, _shape(0, 0, 0, 1))


def _window_starts(length: Any, size: int) -> Any:
    """`pooling.window_starts`."""
    last = op.Max(op.Constant(value_int=0), op.Sub(length, op.Constant(value_int=size)))
    count = _ceil_div(last, STEP) + 1
    return op.Min(_range(count) * STEP, last)


@library.custom_op("synergic::patch_attention", mutates_args=())
def _operator(
    q: Tensor, k: Tensor, v: Tensor, patch_size: int, stride: int, key_stride: int, window: int | None, halo: int
) -> Tensor:
    """`patch_attention` as an operator that tracing does not look into."""
    sizes = {"patch_size": patch_size, "stride": stride, "key_stride": key_stride, "window": window, "halo": halo}
    return patch_attention(q, k, v, scale=1.0, **sizes)  # type: ignore[arg-type]


@_operator.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *sizes: int) -> Tensor:  # noqa: ARG001
    return v.new_empty(v.shape)


def attention_in_onnx(
    q: Any, k: Any, v: Any, patch_size: int, stride: int, key_stride: int, window: int | None = None, halo: int = 0
) -> Any:
    """`patch_attention` in ONNX operators; q is scaled already.

    Shape letters beside those of attention.py: R rows and S columns of windows; a b query patches, c d key patches of a
    window; i j pixels of a patch. Sizes are int64 scalars that the model computes as it runs.
    """
    step = lcm(stride, key_stride)
    n, height, width = (_size(q, axis) for axis in range(3))
    sides = [_ceil_div(length, step) * step for length in (height, width)]  # of a window that is the whole map
    if window is None:
        whole, reach = op.Cast(op.Constant(value_int=1), to=DataType.BOOL), op.Constant(value_int=0)
    else:  # a map no larger than a window with its halo is compared whole
        whole = op.LessOrEqual(op.Max(height, width), op.Constant(value_int=window + 2 * halo))
        sides = [op.Where(whole, side, op.Constant(value_int=window)) for side in sides]
        reach = op.Where(whole, op.Constant(value_int=0), op.Constant(value_int=halo))
    rows, columns = (_ceil_div(length, side) for length, side in zip((height, width), sides, strict=True))  # R, S
    a, b = (op.Div(side, op.Constant(value_int=stride)) for side in sides)
    c, d = (op.Div(side + reach + reach, op.Constant(value_int=key_stride)) for side in sides)

    length, channels = patch_size * patch_size * q.shape[3], v.shape[3]  # D of q and k; C of v
    q, query_places = _padded(q, (rows, columns), patch_size, stride, sides, op.Constant(value_int=0), whole)
    k, key_places = _padded(k, (rows, columns), patch_size, key_stride, sides, reach, whole)
    v, _ = _padded(v, (rows, columns), patch_size, key_stride, sides, reach, whole)
    strips = attend_in_strips(
        q,
        k,
        v,
        rows,
        *query_places,
        *key_places,
        _outside((height, width), (rows, columns), key_stride, sides, reach),
        _shape(n, columns, a * b, length),
        _shape(n, columns, c * d, length),
        _shape(n, columns, c * d, patch_size * patch_size * channels),
        _shape(n, columns, a, b, patch_size, patch_size, channels),
        _shape(n, a, columns * b, patch_size, patch_size, channels),
        op.Expand(op.Constant(value_float=0.0), _shape(n, 0, columns * b, patch_size, patch_size, channels)),
    )
    h, w = _ceil_div(height, stride), _ceil_div(width, stride)
    patches = op.Slice(strips, _shape(0, 0), _shape(h, w), _shape(1, 2))  # N h w i j C
    top, left = (_before(length, patch_size, stride, whole) for length in (height, width))
    total = _fold(patches, patch_size, stride)
    total = op.Slice(total, _shape(top, left), _shape(top + height, left + width), _shape(1, 2))
    counts = (_overlap(*axis, patch_size, stride) for axis in ((height, top), (width, left)))
    by_row, by_column = (op.Unsqueeze(count, _shape(*axes)) for count, axes in zip(counts, ((1, 2), (1,)), strict=True))
    return op.Div(total, op.Mul(by_row, by_column))  # N H W C


@onnxscript.script(default_opset=op)
def attend_in_strips(
    q: FLOATS,
    k: FLOATS,
    v: FLOATS,
    rows: INT64,
    query_rows: INT64,  # R a i: where the pixels of its patches lie
    query_columns: INTS,  # S b j
    key_rows: INT64,  # R c i
    key_columns: INTS,  # S d j
    outside: FLOATS,  # R S 1 c*d
    query_shape: INTS,
    key_shape: INTS,
    value_shape: INTS,
    patch_shape: INTS,
    strip_shape: INTS,
    strips: FLOATS,  # none yet
) -> FLOATS:
    """Attended patches, N R*a S*b i j C: one row of windows at a time, so that memory stays small."""
    for row in range(rows):  # type: ignore[call-overload]  # becomes ONNX's Loop
        queries = op.Gather(op.Gather(q, op.Gather(query_rows, row), axis=1), query_columns, axis=3)  # N a i S b j C
        queries = op.Reshape(op.Transpose(queries, perm=[0, 3, 1, 4, 2, 5, 6]), query_shape)  # N S a*b D
        keys = op.Gather(op.Gather(k, op.Gather(key_rows, row), axis=1), key_columns, axis=3)  # N c i S d j C
        keys = op.Reshape(op.Transpose(keys, perm=[0, 3, 1, 4, 2, 5, 6]), key_shape)  # N S c*d D
        values = op.Gather(op.Gather(v, op.Gather(key_rows, row), axis=1), key_columns, axis=3)
        values = op.Reshape(op.Transpose(values, perm=[0, 3, 1, 4, 2, 5, 6]), value_shape)
        similarity = op.MatMul(queries, op.Transpose(keys, perm=[0, 1, 3, 2])) + op.Gather(outside, row)  # N S a*b c*d
        attended = op.Reshape(op.MatMul(op.Softmax(similarity, axis=-1), values), patch_shape)  # N S a b i j C
        strip = op.Reshape(op.Transpose(attended, perm=[0, 2, 1, 3, 4, 5, 6]), strip_shape)  # N a S*b i j C
        strips = op.Concat(strips, strip, axis=1)
    return strips


def _padded(
    x: Any, counts: tuple[Any, Any], patch_size: int, stride: int, sides: Sequence[Any], reach: Any, whole: Any
) -> tuple[Any, tuple[Any, Any]]:
    """A map in zeros that R, S windows with `reach` pixels around them cover, and where in it the rows and the columns
    of their patches lie: R a i and S b j."""
    margins, places = [], []
    for axis, count, side in zip((1, 2), counts, sides, strict=True):
        seen = op.Div(side + reach + reach, op.Constant(value_int=stride))
        length = _size(x, axis)
        before = _before(length, patch_size, stride, whole) + reach
        extent = count * side + reach + reach + (patch_size - stride)
        margins.append((before, extent - before - length))
        windows = op.Unsqueeze(_range(count) * side, _shape(1, 2))
        patches = op.Unsqueeze(_range(seen) * stride, _shape(1))
        places.append(windows + patches + _range(op.Constant(value_int=patch_size)))
    (top, bottom), (left, right) = margins
    return op.Pad(x, _shape(0, top, left, 0, 0, bottom, right, 0)), (places[0], places[1])


def _outside(
    lengths: tuple[Any, Any], counts: tuple[Any, Any], key_stride: int, sides: Sequence[Any], reach: Any
) -> Any:
    """Minus infinity for the key patches of a window that lie outside the map, else 0. R S 1 c*d."""
    stride, inside, all_seen = op.Constant(value_int=key_stride), [], []
    for length, count, side in zip(lengths, counts, sides, strict=True):
        seen = op.Div(side + reach + reach, stride)
        all_seen.append(seen)
        windows = op.Unsqueeze(_range(count) * op.Div(side, stride), _shape(1))
        place = windows + _range(seen) - op.Div(reach, stride)  # R c
        last = _ceil_div(length, key_stride)
        inside.append(op.And(op.GreaterOrEqual(place, op.Constant(value_int=0)), op.Less(place, last)))
    both = op.And(op.Unsqueeze(inside[0], _shape(1, 3)), op.Unsqueeze(inside[1], _shape(0, 2)))  # R S c d
    bias = op.Where(both, op.Constant(value_float=0.0), op.Constant(value_float=float("-inf")))
    return op.Reshape(bias, _shape(*counts, 1, all_seen[0] * all_seen[1]))


def _fold(patches: Any, patch_size: int, stride: int) -> Any:
    """Sum overlapping patches, as `attention.fold` does. N h w i j C -> N H W C."""
    n, h, w = (_size(patches, axis) for axis in range(3))
    cells = ceil(patch_size / stride)  # per axis that a patch overlaps
    rest = cells * stride - patch_size
    filled = op.Pad(patches, _shape(*[0] * 9, rest, rest, 0))
    pieces = []
    for i in range(cells):
        for j in range(cells):
            start, stop = (i * stride, j * stride), ((i + 1) * stride, (j + 1) * stride)
            piece = op.Slice(filled, _shape(*start), _shape(*stop), _shape(3, 4))
            pieces.append(op.Pad(piece, _shape(0, i, j, 0, 0, 0, 0, cells - 1 - i, cells - 1 - j, 0, 0, 0)))
    ordered = op.Transpose(op.Sum(*pieces), perm=[0, 1, 3, 2, 4, 5])
    return op.Reshape(ordered, _shape(n, (h + (cells - 1)) * stride, (w + (cells - 1)) * stride, -1))


def _overlap(length: Any, before: Any, patch_size: int, stride: int) -> Any:
    """How many patches cover each position of an axis, as float32: the last that does, less the first, plus one."""
    position = _range(length) + before
    last = op.Min(op.Div(position, op.Constant(value_int=stride)), _ceil_div(length, stride) - 1)
    first = op.Max(op.Div(position + (stride - patch_size), op.Constant(value_int=stride)), op.Constant(value_int=0))
    return op.Cast(last - first + 1, to=DataType.FLOAT)


def _before(length: Any, patch_size: int, stride: int, whole: Any) -> Any:
    """Zeros before an axis: as `attention.grid_padding` has them for a whole map, `pad_to_windows` for windows."""
    missing = (_ceil_div(length, stride) - 1) * stride + patch_size - length
    centred = op.Div(op.Max(missing, op.Constant(value_int=0)), op.Constant(value_int=2))
    return op.Where(whole, centred, op.Constant(value_int=max(0, patch_size - stride) // 2))


def _ceil_div(length: Any, step: Any) -> Any:
    step = op.Constant(value_int=step) if isinstance(step, int) else step
    return op.Div(length + step - 1, step)


def _size(x: Any, axis: int) -> Any:
    """Length of an axis, as a scalar."""
    return op.Squeeze(op.Shape(x, start=axis, end=axis + 1))


def _range(count: Any) -> Any:
    return op.Range(op.Constant(value_int=0), count, op.Constant(value_int=1))


def _shape(*sizes: Any) -> Any:
    """Numbers and computed scalars as one int64 tensor."""
    if all(isinstance(size, int) for size in sizes):
        return op.Constant(value_ints=sizes)
    one = [
        op.Constant(value_ints=[size]) if isinstance(size, int) else op.Unsqueeze(size, op.Constant(value_ints=[0]))
        for size in sizes
    ]
    return op.Concat(*one, axis=0)
