"""Recipes: typed configuration read from YAML, with `key=value` overrides; an unknown key is an error."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from dclocal.errors import UserError
from dclocal.formats import FORMATS
from dclocal_models.connectors import ConnectorConfig
from dclocal_models.vision import VisionConfig


class RecipeError(UserError):
    """A recipe that cannot be followed: an unknown key, a value of the wrong type, a missing file."""


@dataclass(frozen=True)
class DataConfig:
    """The folder of rows and pictures, and what `--build-data` makes there: how many of each kind that
    `dclocal_train.synthetic.build` knows, from which seed; none where the data is the user's own."""

    folder: str
    pictures: dict[str, int] = field(default_factory=dict)
    seed: int = 0

    @property
    def built(self) -> bool:
        """Whether there is anything to build."""
        return bool(self.pictures)


@dataclass(frozen=True)
class LoraSettings:
    """LoRA on the language model's named linear layers; peft's meaning of rank, alpha and dropout.

    `rounded`: the quantization that the merged matrices will have ("q4_0"), to be trained against (`fake_quant`).
    """

    rank: int
    alpha: int
    learning_rate: float
    dropout: float = 0.0
    rounded: str | None = None
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __post_init__(self) -> None:
        if self.rounded is not None:
            _one_of("lora: rounded", self.rounded, ("q4_0",))
            if self.dropout:
                raise RecipeError("lora has dropout and is rounded", "weights that are rounded are merged: drop one")


@dataclass(frozen=True)
class StageConfig:
    """One stage.  The connector is always trained; the language model through `lora` or at `llm_learning_rate`,
    the backbone at `vision_learning_rate`, where these are given.

    `rows` and `images` lie in the data folder unless absolute; `row_count` is how many rows the published set has,
    for a dry run without it.  `prompt` is a name in `dclocal.formats.FORMATS`.
    A stage runs `steps`, or else `epochs` over its rows.  `batch_size` is one process's; with `global_batch`,
    gradients are accumulated until all processes together have seen that many rows.  Schedules warm up for
    `warmup_steps`, or that `warmup_share` of the steps, then follow a cosine ("cosine"), or stay and decay in the
    last `decay_steps` ("stable"), so that a run may be stopped early and finished with a short decay.
    In the loss every token of every answer counts alike, or with `answer_balance` an answer of n tokens counts
    n^(1 − balance) in all: at 1 a "yes" counts as much as a paragraph.
    """

    name: str
    rows: str
    prompt: str
    batch_size: int
    connector_learning_rate: float
    images: str = "."
    steps: int | None = None
    epochs: float = 1.0
    row_count: int | None = None
    global_batch: int | None = None
    lora: LoraSettings | None = None
    llm_learning_rate: float | None = None
    vision_learning_rate: float | None = None
    schedule: str = "stable"
    warmup_steps: int = 20
    warmup_share: float | None = None
    decay_steps: int = 100
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    bf16: bool = True
    max_length: int = 2048
    max_turns: int = 10
    branched_share: float = 0.75
    answer_balance: float = 0.0
    group_by_length: bool = False
    cache_features: bool = False
    max_broken_share: float = 0.01
    workers: int = 0
    save_steps: int = 100
    log_steps: int = 10

    def __post_init__(self) -> None:
        _one_of(f"stage {self.name}: prompt", self.prompt, tuple(FORMATS))
        _one_of("schedule", self.schedule, ("stable", "cosine"))
        _one_of("optimizer", self.optimizer, ("adamw", "adamw_8bit", "paged_adamw_8bit"))
        for name in ("batch_size", "global_batch", "steps", "row_count", "epochs", "max_length", "max_turns"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise RecipeError(f"stage {self.name}: {name} is {value}", "use a number above 0")
        if self.lora is not None and self.llm_learning_rate is not None:
            raise RecipeError(f"stage {self.name} has lora and llm_learning_rate", "train by one of them")
        if self.cache_features and self.vision_learning_rate is not None:
            raise RecipeError(f"stage {self.name} caches features of a backbone that it trains", "drop one of the two")


@dataclass(frozen=True)
class ThingWordsConfig:
    """How the classifier of things is trained before the first stage (`dclocal_train.thing_words`): `rounds` pictures
    of each drawing, `epochs` over their places; `gain` is how loudly its words are said at first, a place's and the
    whole picture's."""

    rounds: int
    epochs: int
    batch_size: int = 1536
    learning_rate: float = 2.0e-3
    weight_decay: float = 0.05
    dropout: float = 0.3
    label_smoothing: float = 0.05
    gain: tuple[float, float] = (20.0, 40.0)


@dataclass(frozen=True)
class PlaceNetConfig:
    """How a network of places is trained before the first stage: on how many drawn `pictures`, for how many `epochs`;
    `gain` is how loudly its words are said at first."""

    pictures: int
    epochs: int
    batch_size: int = 32
    learning_rate: float = 2.0e-3
    weight_decay: float = 0.05
    dropout: float = 0.15
    gain: float = 20.0


@dataclass(frozen=True)
class TowerSource(VisionConfig):
    """A vision backbone and where its weights come from, a hub name or a folder; None: random weights."""

    pretrained: str | None = None
    conv_pretrained: str | None = None


@dataclass(frozen=True)
class LlmSource:
    """A language model: the keys of its transformers config with `model_type`, and a hub name or folder of weights
    (None: random) and of its tokenizer; `load_in_4bit` for QLoRA."""

    config: dict[str, Any]
    pretrained: str | None = None
    tokenizer: str | None = None
    load_in_4bit: bool = False


@dataclass(frozen=True)
class ModelSource:
    """What is put together: see `ModelConfig` for `prompt`, `fit` and `pinpoints`."""

    vision: TowerSource
    llm: LlmSource
    connector: ConnectorConfig
    prompt: str
    fit: str = "pad"
    pinpoints: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A whole training: where it starts, its data, its stages in order and its seed.

    `start`: "dc-tiny" (the embedded default's parts), "model" (what `model` describes), or a checkpoint's folder.
    `data` is a folder, or what `--build-data` makes.  `things`, `counts` and `texts`, where the model has such words,
    say how they are made.  `gpus` is the count that the recipe was made for.
    `loggers`: names of transformers' reporters, such as tensorboard and wandb.
    """

    name: str
    start: str
    output: str
    data: DataConfig
    stages: tuple[StageConfig, ...]
    model: ModelSource | None = None
    things: ThingWordsConfig | None = None
    counts: PlaceNetConfig | None = None
    texts: PlaceNetConfig | None = None
    seed: int = 0
    gpus: int = 1
    loggers: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        if (self.start == "model") != (self.model is not None):
            raise RecipeError(f"start is {self.start!r}", "`start: model` goes with a `model:`, and nothing else does")
        if self.gpus < 1:
            raise RecipeError(f"gpus is {self.gpus}", "use at least 1")
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise RecipeError(f"stages are {names}", "name at least one, each by a name of its own")
        in_4bit = self.model is not None and self.model.llm.load_in_4bit
        if in_4bit and any(stage.llm_learning_rate is not None for stage in self.stages):
            raise RecipeError("the language model is loaded in four bits and is to be trained", "train it with lora")


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise RecipeError(f"{name} is {value!r}", f"use one of {', '.join(known)}")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file with `key=value` overrides (dots descend, numbers index: `stages.1.steps=500`)."""
    if not path.is_file():
        raise RecipeError(f"there is no recipe {path}", "name a .yaml file, for example train/recipes/dc-tiny.yaml")
    try:
        data = _read_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read ({error})", "name a .yaml file in UTF-8") from error
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise RecipeError(f"override {override!r} has no '='", "write key=value")
        _set(data, key.split("."), _read_yaml(value, f"override {override!r}"), override)
    return _build(Recipe, data, str(path))


def _read_yaml(text: str, where: str) -> Any:
    """YAML's data; 1e-3 is a number, as in YAML 1.2 (PyYAML takes it for text)."""
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader with numbers of its own."""

    number = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not YAML: {' '.join(str(error).split())}", "mend what it names") from error


def to_plain(value: Any) -> Any:
    """The recipe as JSON data, to be saved beside what it made."""
    return dataclasses.asdict(value)


def _set(data: Any, keys: Sequence[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        try:
            data = data[int(key)] if isinstance(data, list) else data[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise RecipeError(f"override {override!r}: there is no {key!r}", "see the recipe's keys") from None
    try:
        if isinstance(data, list):
            data[int(keys[-1])] = value
        else:
            data[keys[-1]] = value
    except (IndexError, ValueError, TypeError):
        raise RecipeError(f"override {override!r}: there is no {keys[-1]!r}", "see the recipe's keys") from None


def _build(kind: Any, data: Any, where: str) -> Any:
    """`data` as the dataclass `kind`, checked key by key."""
    if not isinstance(data, dict):
        raise RecipeError(
            f"{where} is {data!r:.40}, expected keys of {kind.__name__}", "see train/recipes for examples"
        )
    hints = get_type_hints(kind)
    for key in data:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(hints)}"
            raise RecipeError(f"{where}: unknown key {key!r}", meant)
    for known in dataclasses.fields(kind):
        needed = known.default is dataclasses.MISSING and known.default_factory is dataclasses.MISSING
        if needed and known.name not in data:
            raise RecipeError(f"{where}: {known.name!r} is missing", f"add it; {kind.__name__} needs it")
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in data.items()}
    try:
        return kind(**values)
    except ValueError as error:  # a dataclass of another package checks its own values
        raise RecipeError(f"{where}: {error}", "mend the value") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) in (types.UnionType, typing.Union):
        return (
            None
            if value is None
            else _convert(next(arg for arg in get_args(hint) if arg is not type(None)), value, where)
        )
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if not isinstance(value, list) or (kinds[-1] is not ... and len(value) != len(kinds)):
            wanted = "a list" if kinds[-1] is ... else f"a list of {len(kinds)}"
            raise RecipeError(f"{where} is {value!r:.40}, expected {wanted}", "write [a, b]")
        each = [kinds[0]] * len(value) if kinds[-1] is ... else kinds
        return tuple(_convert(kind, item, f"{where}.{index}") for index, (kind, item) in enumerate(zip(each, value)))
    if get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise RecipeError(f"{where} is {value!r:.40}, expected keys and values", "write key: value")
        return dict(value)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise RecipeError(f"{where} is {value!r:.40}, expected {hint.__name__}", "mend the value")
