"""YAML to dataclasses, checked key by key; an unknown key or a value of another type is an error that says where."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

from dclocal.errors import UserError


class RecipeError(UserError):
    """A recipe that cannot be followed: an unknown key, a value of the wrong type, a missing file."""


def read_yaml(text: str, where: str) -> Any:
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


def set_key(data: Any, keys: Sequence[str], value: Any, override: str) -> None:
    """Put `value` where `keys` lead in nested lists and dicts; `override` is what a RecipeError quotes."""
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


def build(kind: Any, data: Any, where: str) -> Any:
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
        return build(hint, value, where)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise RecipeError(f"{where} is {value!r:.40}, expected {hint.__name__}", "mend the value")
