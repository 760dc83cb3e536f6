"""Recipes: typed configuration read from YAML, with `key=value` overrides; an unknown key is an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dclocal.formats import FORMATS
from dclocal.gguf_merge import MIXTURES
from dclocal_models.connectors import ConnectorConfig
from dclocal_models.vision import VisionConfig
from dclocal_train.fake_quant import ROUNDINGS
from dclocal_train.typed_yaml import RecipeError as RecipeError
from dclocal_train.typed_yaml import build, read_yaml, set_key


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

    `rounded`: the quantization that the merged matrices will have ("q4_0", "iq4_nl" or "iq4_mix"), to be trained
    against (`fake_quant`).
    """

    rank: int
    alpha: int
    learning_rate: float
    dropout: float = 0.0
    rounded: str | None = None
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __post_init__(self) -> None:
        if self.rounded is not None:
            _one_of("lora: rounded", self.rounded, (*ROUNDINGS, *MIXTURES))
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
    With `keep_language` above 0, rows without a picture teach the language model's own probabilities, those without its
    LoRA, in place of their answers: so it goes on talking as it did, also through rounded weights.  The divergence
    from them counts that many times as much as an answer's loss, than which it is smaller.
    With `bf16` products are in bfloat16 where the machine has it.
    With `average_from` the stage ends with the mean of its weights after that step and each later one (Izmailov et al.
    2018), which wants a rate that stays.
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
    keep_language: float = 0.0
    average_from: int | None = None
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
        if self.keep_language and self.lora is None:
            raise RecipeError(f"stage {self.name}: keep_language without lora", "what is kept is the model without it")
        if self.average_from is not None and not 0 < self.average_from <= (self.steps or self.average_from):
            raise RecipeError(f"stage {self.name}: average_from is {self.average_from}", "use one of the stage's steps")
        if self.cache_features and self.vision_learning_rate is not None:
            raise RecipeError(f"stage {self.name} caches features of a backbone that it trains", "drop one of the two")


@dataclass(frozen=True)
class ThingWordsConfig:
    """How the classifier of things is trained before the first stage (`dclocal_train.thing_words`): `rounds` pictures
    of each drawing alone and `scenes`, numbered from `first` on, in which it is smaller and among others; `epochs` over
    their places; `gain` is how loudly its words are said at first, a place's and the whole picture's.  A model that
    says such words already has its classifier trained on, and they stay as loud as they are."""

    rounds: int
    epochs: int
    scenes: int = 0
    first: int = 0
    batch_size: int = 1536
    learning_rate: float = 2.0e-3
    weight_decay: float = 0.05
    dropout: float = 0.3
    label_smoothing: float = 0.05
    gain: tuple[float, float] = (40.0, 40.0)


@dataclass(frozen=True)
class PhotoGateConfig:
    """How photographs are told from drawings before the first stage (`dclocal_train.photo_gate`): on so many
    `pictures`, half of them photographs, with this penalty on the squares of the weights.  `allowed`: the share of
    drawings that may be taken for photographs."""

    pictures: int = 900
    penalty: float = 0.1
    allowed: float = 0.005


@dataclass(frozen=True)
class PlaceNetConfig:
    """How a network of places is trained before the first stage: on how many drawn `pictures`, numbered from `first`
    on, for how many `epochs`; `gain` is how loudly its words are said at first.  A model that says such words already
    has its network trained on, and they stay as loud as they are."""

    pictures: int
    epochs: int
    first: int = 0
    batch_size: int = 32
    learning_rate: float = 2.0e-3
    weight_decay: float = 0.05
    dropout: float = 0.15
    gain: float = 40.0


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

    `start`: "dc-tiny" (the embedded default's parts), "shipped-dc-tiny" (the embedded default as it ships, its LoRA to
    be trained on), "model" (what `model` describes), or a checkpoint's folder.
    `data` is a folder, or what `--build-data` makes.  `things`, `photographs`, `counts` and `texts`, where the model
    has such words, say how they are made.  `gpus` is the count that the recipe was made for.
    `loggers`: names of transformers' reporters, such as tensorboard and wandb.
    """

    name: str
    start: str
    output: str
    data: DataConfig
    stages: tuple[StageConfig, ...]
    model: ModelSource | None = None
    things: ThingWordsConfig | None = None
    photographs: PhotoGateConfig | None = None
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
        data = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read ({error})", "name a .yaml file in UTF-8") from error
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise RecipeError(f"override {override!r} has no '='", "write key=value")
        set_key(data, key.split("."), read_yaml(value, f"override {override!r}"), override)
    return build(Recipe, data, str(path))


def to_plain(value: Any) -> Any:
    """The recipe as JSON data, to be saved beside what it made."""
    return dataclasses.asdict(value)
