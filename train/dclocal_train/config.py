"""Recipes: typed configuration read from YAML, with `key=value` overrides; an unknown key is an error."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from dclocal.errors import UserError


class RecipeError(UserError):
    """A recipe that cannot be followed: an unknown key, a value of the wrong type, a missing file."""


@dataclass(frozen=True)
class DataConfig:
    """What `--build-data` makes: how many easy-VQA pictures and emoji scenes, from which seed."""

    folder: str
    easy_vqa_pictures: int
    emoji_scenes: int
    emoji_vendors: tuple[str, ...] = ("google", "apple")
    seed: int = 0


@dataclass(frozen=True)
class LoraSettings:
    """LoRA on the language model's named linear layers; peft's meaning of rank, alpha and dropout."""

    rank: int
    alpha: int
    learning_rate: float
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class StageConfig:
    """One stage.  The connector is always trained; the language model through `lora` where that is given.

    `prompt` is a name in `dclocal.prompt.FORMATS`.  The learning rate warms up, stays, and decays in the
    last `decay_steps`, so that a run may be stopped early and finished with a short decay.
    """

    name: str
    rows: str
    prompt: str
    steps: int
    batch_size: int
    connector_learning_rate: float
    lora: LoraSettings | None = None
    gradient_accumulation: int = 1
    warmup_steps: int = 20
    decay_steps: int = 100
    max_turns: int = 10
    branched_share: float = 0.75
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    save_steps: int = 100
    log_steps: int = 10
    bf16: bool = True


@dataclass(frozen=True)
class Recipe:
    """A whole training: where it starts, its data, its stages in order and its seed."""

    name: str
    start: str
    output: str
    data: DataConfig
    stages: tuple[StageConfig, ...]
    seed: int = 0


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file with `key=value` overrides (dots descend, numbers index: `stages.1.steps=500`)."""
    import yaml

    if not path.is_file():
        raise RecipeError(f"there is no recipe {path}", "name a .yaml file, for example train/recipes/dc-tiny.yaml")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(
            f"{path} is not YAML: {' '.join(str(error).split())}", "mend the line that it names"
        ) from error
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise RecipeError(f"override {override!r} has no '='", "write key=value")
        _set(data, key.split("."), yaml.safe_load(value), override)
    return _build(Recipe, data, str(path))


def to_plain(value: Any) -> Any:
    """The recipe as JSON data, to be saved beside what it made."""
    return dataclasses.asdict(value)


def _set(data: Any, keys: Sequence[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        try:
            data = data[int(key)] if isinstance(data, list) else data[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise RecipeError(f"override {override!r}: there is no {key!r}", "see the recipe's keys") from None
    if isinstance(data, list):
        data[int(keys[-1])] = value
    else:
        data[keys[-1]] = value


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
    for field in dataclasses.fields(kind):
        if field.name not in data and field.default is dataclasses.MISSING:
            raise RecipeError(f"{where}: {field.name!r} is missing", f"add it; {kind.__name__} needs it")
    return kind(**{key: _convert(hints[key], value, f"{where}: {key}") for key, value in data.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) in (types.UnionType, typing.Union):
        return (
            None
            if value is None
            else _convert(next(arg for arg in get_args(hint) if arg is not type(None)), value, where)
        )
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise RecipeError(f"{where} is {value!r:.40}, expected a list", "write [a, b]")
        return tuple(_convert(get_args(hint)[0], item, f"{where}.{index}") for index, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise RecipeError(f"{where} is {value!r:.40}, expected {hint.__name__}", "mend the value")
