"""A stage is one complete recipe: a TOML file without inheritance, validated as it is read.

Source of the fields and of the paper's values: Table 8 and section 3 of arXiv 2308.12966.
"""

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qvl.data.loader import PACKINGS
from qvl.data.sample import TASKS
from qvl.errors import RecipeError

PARTS = ("vision", "adapter", "language")
Settings = typing.TypeVar("Settings")
OBJECTIVES = ("dense", "next_token")
# How much a piece of an answer (a text, a phrase, a box) of n supervised tokens weighs: n, or its square root,
# so that the digits of boxes do not drown the words.
LOSS_BY = ("token", "square_root")
OPTIMIZERS = ("adamw", "muon")
PRECISIONS = ("bf16", "float32")
# What ranks split among them besides the samples: the optimizer's state (ZeRO-1), the gradients too (ZeRO-2), the
# weights too (ZeRO-3).
SHARDINGS = ("optimizer", "gradients", "parameters")
TRAIN_EMBEDDINGS = ("auto", "yes", "no")
QUANTIZE = ("no", "nf4")


@dataclass(frozen=True)
class DataConfig:
    """What a stage trains on. Paths are relative to the run's folder."""

    split_dirs: tuple[str, ...]
    mixture: dict[str, float]  # task -> weight in samples; empty for dense labels, which have no tasks
    batch_rows: int
    row_length: int
    packing: str  # one of PACKINGS
    streams: int = 1  # that share the samples, whatever the number of ranks: a step reads batch_rows rows of each

    def __post_init__(self) -> None:
        _require(bool(self.split_dirs), "data.split_dirs", self.split_dirs, "at least one folder of the run")
        for task in self.mixture:
            if task not in TASKS:
                raise RecipeError(f"data.mixture: unknown task {task!r}{_near(task, TASKS)}")
            _require(self.mixture[task] >= 0, f"data.mixture.{task}", self.mixture[task], "at least 0")
        _require(self.batch_rows > 0, "data.batch_rows", self.batch_rows, "at least 1")
        _require(self.row_length > 1, "data.row_length", self.row_length, "at least 2")
        _require(self.packing in PACKINGS, "data.packing", self.packing, "one of " + ", ".join(PACKINGS))
        _require(self.streams > 0, "data.streams", self.streams, "at least 1")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, cosine schedule with warm-up, clipping (Table 8)."""

    peak_lr: float
    min_lr: float
    warmup_steps: int
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    grad_clip: float = 1.0
    vision_layer_decay: float = 0.95
    lr_scale: dict[str, float] = field(default_factory=dict)  # part -> factor on the rate
    optimizer: str = "adamw"
    muon_scale: float = 1.0  # rate of Muon's matrices over AdamW's
    skip_above: float = 20.0  # a step is skipped whose norm is above grad_clip and so many times the last 100's median

    def __post_init__(self) -> None:
        _require(0 <= self.min_lr <= self.peak_lr, "optim.min_lr", self.min_lr, "between 0 and peak_lr")
        _require(all(0 <= beta < 1 for beta in self.betas), "optim.betas", self.betas, "in [0, 1)")
        _require(self.eps > 0, "optim.eps", self.eps, "more than 0")
        _require(self.grad_clip > 0, "optim.grad_clip", self.grad_clip, "more than 0")
        _require(self.warmup_steps >= 0, "optim.warmup_steps", self.warmup_steps, "at least 0")
        _require(0 < self.vision_layer_decay <= 1, "optim.vision_layer_decay", self.vision_layer_decay, "in (0, 1]")
        _require(self.optimizer in OPTIMIZERS, "optim.optimizer", self.optimizer, "one of " + ", ".join(OPTIMIZERS))
        _require(self.muon_scale > 0, "optim.muon_scale", self.muon_scale, "more than 0")
        _require(self.skip_above > 1, "optim.skip_above", self.skip_above, "more than 1")
        for part in self.lr_scale:
            if part not in PARTS:
                raise RecipeError(f"optim.lr_scale: unknown part {part!r}{_near(part, PARTS)}")


@dataclass(frozen=True)
class ParallelConfig:
    """How ranks share the work and what they trade for memory; nothing here changes what is learnt. With [lora] ranks
    share the samples alone."""

    shard: str = "optimizer"  # one of SHARDINGS
    tensor: int = 1  # ranks that share the matrices of each block, and so each sample
    checkpoint_activations: bool = False  # blocks keep their input alone and run again in the backward pass
    compile: bool = False  # blocks by torch.compile
    deepspeed: str = ""  # path of a ZeRO-2 or ZeRO-3 JSON: DeepSpeed shares out instead

    def __post_init__(self) -> None:
        _require(self.shard in SHARDINGS, "parallel.shard", self.shard, "one of " + ", ".join(SHARDINGS))
        _require(self.tensor > 0, "parallel.tensor", self.tensor, "at least 1")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on matrices of the parts that train, whose own weights are frozen then (finetune.py's values).

    train_embeddings "auto": embedding and head train too where the model never learnt the tokens of a dialogue.
    """

    r: int = 64
    alpha: int = 16  # the product of the two small matrices counts alpha / r times
    dropout: float = 0.05
    train_embeddings: str = "auto"  # one of TRAIN_EMBEDDINGS
    quantize: str = "no"  # one of QUANTIZE: the language model's frozen matrices in four bits

    def __post_init__(self) -> None:
        _require(self.r > 0, "lora.r", self.r, "at least 1")
        _require(self.alpha > 0, "lora.alpha", self.alpha, "at least 1")
        _require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "in [0, 1)")
        for key, known in (("train_embeddings", TRAIN_EMBEDDINGS), ("quantize", QUANTIZE)):
            value = getattr(self, key)
            _require(value in known, f"lora.{key}", value, "one of " + ", ".join(known))


@dataclass(frozen=True)
class HeldOutConfig:
    """Samples that are not trained on: their loss is taken as training goes, and the best weights are kept."""

    split_dirs: tuple[str, ...]
    every: int  # steps
    samples: int = 200  # at most, the first ones

    def __post_init__(self) -> None:
        _require(bool(self.split_dirs), "held_out.split_dirs", self.split_dirs, "at least one folder of the run")
        _require(self.every > 0, "held_out.every", self.every, "at least 1")
        _require(self.samples > 0, "held_out.samples", self.samples, "at least 1")


@dataclass(frozen=True)
class EvaluateConfig:
    """Benchmarks that are asked as training goes, before the first step and after the last one too."""

    tasks: tuple[str, ...]  # names of `qvl eval`
    data: str  # their folder, relative to the run's
    every: int  # steps
    limit: int  # questions of each group

    def __post_init__(self) -> None:
        _require(bool(self.tasks), "evaluate.tasks", self.tasks, "at least one benchmark of `qvl eval`")
        _require(self.every > 0, "evaluate.every", self.every, "at least 1")
        _require(self.limit > 0, "evaluate.limit", self.limit, "at least 1")


@dataclass(frozen=True)
class Recipe:
    """One stage, complete."""

    name: str
    about: str
    preset: str
    objective: str
    init_from: dict[str, str]  # part -> an earlier stage of the run, or a checkpoint folder; absent: random
    trains: tuple[str, ...]
    steps: int
    grad_accumulation: int
    save_every: int
    seed: int
    data: DataConfig
    optim: OptimConfig
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    loss_by: str = "token"
    image_size: int | None = None  # side of the pictures; absent: the preset's
    num_queries: int | None = None  # of the adapter; absent: the preset's
    attention_window: int | None = None  # patches along a side of the ViT's windows; absent: the preset's, 0 for none
    precision: str = "bf16"  # of products and activations; weights that train, sums and the optimizer are float32
    lora: LoraConfig | None = None
    held_out: HeldOutConfig | None = None
    evaluate: EvaluateConfig | None = None

    def __post_init__(self) -> None:
        for part in (*self.trains, *self.init_from):
            if part not in PARTS:
                raise RecipeError(f"trains/init_from: unknown part {part!r}{_near(part, PARTS)}")
        _require(bool(self.trains), "trains", self.trains, "at least one of " + ", ".join(PARTS))
        _require(self.objective in OBJECTIVES, "objective", self.objective, "one of " + ", ".join(OBJECTIVES))
        _require(Path(self.name).name == self.name != "", "name", self.name, "the name of a folder")
        _require(self.seed >= 0, "seed", self.seed, "at least 0")
        mixed = sum(self.data.mixture.values()) > 0
        wanted = "empty for dense labels" if self.objective == "dense" else "weights > 0"
        _require(mixed != (self.objective == "dense"), "data.mixture", self.data.mixture, wanted)
        one_split = self.objective != "dense" or len(self.data.split_dirs) == 1
        _require(one_split, "data.split_dirs", self.data.split_dirs, "one folder of dense labels")
        _require(self.loss_by in LOSS_BY, "loss_by", self.loss_by, "one of " + ", ".join(LOSS_BY))
        _require(self.precision in PRECISIONS, "precision", self.precision, "one of " + ", ".join(PRECISIONS))
        _require(self.image_size is None or self.image_size > 0, "image_size", self.image_size, "at least 1")
        _require(self.num_queries is None or self.num_queries > 0, "num_queries", self.num_queries, "at least 1")
        window = self.attention_window
        _require(window is None or window >= 0, "attention_window", window, "at least 0")
        _require(self.steps > 0, "steps", self.steps, "at least 1")
        _require(self.grad_accumulation > 0, "grad_accumulation", self.grad_accumulation, "at least 1")
        _require(self.save_every > 0, "save_every", self.save_every, "at least 1")
        if self.lora and (set(self.init_from) != set(PARTS) or len(set(self.init_from.values())) > 1):
            raise RecipeError("init_from: with [lora] all three parts come from one checkpoint, the adapters' base")
        if self.parallel.deepspeed:
            self._check_deepspeed()
        if self.objective == "dense" and (self.lora or self.held_out or self.evaluate):
            raise RecipeError('objective = "dense": the vision warm-up has no [lora], [held_out] or [evaluate]')

    def _check_deepspeed(self) -> None:
        """What DeepSpeed's engine leaves to PyTorch's."""
        plain = (self.parallel.shard, self.parallel.tensor) == (ParallelConfig.shard, ParallelConfig.tensor)
        for key, good, wanted in (
            ("parallel.shard, parallel.tensor", plain, "left out, the JSON says what is shared"),
            ("objective", self.objective != "dense", '"next_token"'),
            ("lora", self.lora is None, "left out, ranks have the base whole"),
            ("optim.optimizer", self.optim.optimizer == "adamw", '"adamw"'),
        ):
            if not good:
                raise RecipeError(f"{key}: with parallel.deepspeed it must be {wanted}")

    @property
    def batches_per_step(self) -> int:
        """Batches whose gradients an optimizer step adds up."""
        return self.grad_accumulation * self.data.streams


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply `key=value` overrides (dotted keys, TOML values).

    Raises RecipeError for a missing file, wrong TOML, an unknown key (with the near miss), a missing key,
    or a value of the wrong type or range.
    """
    return recipe_from_dict(_read_toml(path), overrides or [])


def recipe_from_dict(values: dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Parsed TOML or JSON -> a recipe, with overrides; RecipeError as of `load_recipe`."""
    for override in overrides:
        _apply_override(values, override)
    return typing.cast(Recipe, _build(Recipe, values, ""))


def recipe_to_toml(recipe: Recipe) -> str:
    """What load_recipe reads as the same recipe, every value spelt out."""
    values = {key: value for key, value in dataclasses.asdict(recipe).items() if value is not None}
    tables = {f.name: values.pop(f.name) for f in dataclasses.fields(recipe) if isinstance(values.get(f.name), dict)}
    values["init_from"] = tables.pop("init_from")
    lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans are written alike


def read_settings(cls: type[Settings], path: Path) -> Settings:
    """Any dataclass of settings from a TOML file, as strictly as a recipe."""
    return typing.cast(Settings, _build(cls, _read_toml(path), ""))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such recipe; the project's own are under recipes/") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from error


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, sep, value = override.partition("=")
    if not sep:
        raise RecipeError(f"--set {override!r}: write key=value, for example --set steps=100")
    *parents, last = key.strip().split(".")
    table = raw
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {override!r}: {parent!r} is not a table")
    try:
        table[last] = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        table[last] = value.strip()


def _build(cls: type, raw: dict[str, Any], prefix: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in raw:
        if key not in fields:
            raise RecipeError(f"unknown key {prefix + key!r}{_near(key, fields)}")
    values = {}
    for name, f in fields.items():
        if name in raw:
            values[name] = _convert(raw[name], hints[name], prefix + name)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise RecipeError(f"missing key {prefix + name!r}: a recipe is complete, nothing is inherited")
    return cls(**values)


def _convert(value: Any, hint: Any, key: str) -> Any:
    """TOML value -> the field's type, strictly; ints serve as floats."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise RecipeError(f"{key} = {value!r}: expected a table [{key}]")
        return _build(typing.cast(type, hint), value, key + ".")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        if not isinstance(value, dict):
            raise RecipeError(f"{key} = {value!r}: expected a table")
        return {k: _convert(v, args[1], f"{key}.{k}") for k, v in value.items()}
    if origin is tuple:
        if not isinstance(value, list) or (args[-1] is not Ellipsis and len(value) != len(args)):
            raise RecipeError(f"{key} = {value!r}: expected a list")
        return tuple(_convert(v, args[0], f"{key}[{i}]") for i, v in enumerate(value))
    if origin is types.UnionType:
        return None if value is None else _convert(value, args[0], key)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        _require(math.isfinite(value), key, value, "a finite number")
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise RecipeError(f"{key} = {value!r}: expected {hint.__name__}, found {type(value).__name__}")
    return value


def _near(word: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f": did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _require(condition: bool, key: str, value: Any, expected: str) -> None:
    if not condition:
        raise RecipeError(f"{key} = {value!r}: expected {expected}")
