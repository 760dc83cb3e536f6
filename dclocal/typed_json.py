"""Typed values out of untrusted JSON: each mistake is a BundleError that names the key and what stands there."""

from __future__ import annotations

import json
import math
from typing import Any

from dclocal.errors import BundleError

MAX_DEPTH = 32
REMEDY = "remove the bundle and pull it again"


def parse_json(text: str, where: str) -> Any:
    """The value of JSON text as the standard has it: finite numbers, no key twice, at most MAX_DEPTH levels.

    Raises BundleError, which names `where`.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_number, parse_float=_finite, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BundleError(f"{where} is not JSON ({reason})", REMEDY) from error
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        level = [item for value in level for item in _items(value)]
        if not level:
            return data
    raise BundleError(f"{where} is nested more than {MAX_DEPTH} levels deep", REMEDY)


def _items(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_number(text)


def is_number(value: object) -> bool:
    """Whether this is a finite number; true and false are none."""
    if isinstance(value, float):
        return math.isfinite(value)
    return is_whole(value) and abs(value) < 1 << 53  # type: ignore[arg-type]


def is_whole(value: object) -> bool:
    """Whether this is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


class Reader:
    """One JSON object, taken apart key by key; remembers which keys were asked for."""

    def __init__(self, data: Any, where: str):
        if not isinstance(data, dict):
            raise BundleError(f"{where} is not an object", REMEDY)
        self.data, self.where, self.known = data, where, set[str]()

    def peek(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """The value of `key`, which must be of `kind`."""
        value = self.data.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BundleError(f"{self.where}: {key!r} is {value!r:.60}, not what the format says", REMEDY)
        return value

    def take(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """As `peek`; the key counts as known."""
        self.known.add(key)
        return self.peek(key, kind)

    def bounded(self, key: str, low: int, high: int) -> int:
        """A whole number within `low` to `high`."""
        return int(self._within(key, self.take(key, int), low, high))

    def number(self, key: str, low: float, high: float) -> float:
        """A finite number within `low` to `high`."""
        return float(self._within(key, self.take(key, (int, float)), low, high))

    def _within(self, key: str, value: Any, low: float, high: float) -> Any:
        if not low <= value <= high:  # so that NaN is refused
            raise BundleError(
                f"{self.where}: {key!r} is {value!r:.60}, not within {low} to {high}", "do not use this bundle"
            )
        return value

    def choice(self, key: str, known: tuple[str, ...]) -> str:
        """One of the words in `known`."""
        value = self.take(key, str)
        if value not in known:
            raise BundleError(f"{self.where}: {key!r} is {value!r:.60}, known: {', '.join(known)}", "upgrade dclocal")
        return value

    def optional_choice(self, key: str, known: tuple[str, ...]) -> str | None:
        """One of the words in `known`; None where the key is missing or null."""
        self.known.add(key)
        return None if self.data.get(key) is None else self.choice(key, known)

    def triple(self, key: str, low: float, high: float) -> tuple[float, float, float]:
        """Three finite numbers within `low` to `high`."""
        values = self.take(key, list)
        if len(values) != 3 or not all(is_number(value) and low <= value <= high for value in values):
            raise BundleError(
                f"{self.where}: {key!r} is {values!r:.60}, not 3 numbers within {low} to {high}",
                "do not use this bundle",
            )
        red, green, blue = (float(value) for value in values)
        return red, green, blue

    def pair(self, key: str, low: int, high: int) -> tuple[int, int]:
        """Two whole numbers within `low` to `high`."""
        values = self.take(key, list)
        if len(values) != 2 or not all(is_whole(value) and low <= value <= high for value in values):
            raise BundleError(
                f"{self.where}: {key!r} is {values!r:.60}, not 2 whole numbers within {low} to {high}",
                "do not use this bundle",
            )
        rows, columns = values
        return rows, columns

    def groups(self, key: str, low: int, high: int) -> tuple[tuple[int, ...], ...]:
        """A list of lists that each hold at least one whole number within `low` to `high`."""
        groups = self.take(key, list)
        for group in groups:
            if not isinstance(group, list) or not group:
                raise BundleError(f"{self.where}: {key!r} holds {group!r:.60}, expected a list of numbers", REMEDY)
            if not all(is_whole(value) and low <= value <= high for value in group):
                raise BundleError(
                    f"{self.where}: {key!r} holds {group!r:.60}, expected whole numbers within {low} to {high}", REMEDY
                )
        return tuple(tuple(group) for group in groups)

    def texts(self, key: str) -> dict[str, str]:
        """An object whose values are all texts."""
        values = self.take(key, dict)
        for name, value in values.items():
            if not isinstance(value, str):
                raise BundleError(f"{self.where}: {key}.{name!r:.60} is {value!r:.60}, expected a text", REMEDY)
        return values

    def section(self, key: str) -> Reader:
        """The object under `key`."""
        return Reader(self.take(key, dict), f"{self.where}: {key}")

    def sections(self, key: str) -> list[Reader]:
        """The objects in the list under `key`."""
        return [Reader(item, f"{self.where}: {key}[{index}]") for index, item in enumerate(self.take(key, list))]

    def rest(self, *also_known: str) -> dict[str, Any]:
        """What nobody asked for, besides `also_known`."""
        return {key: value for key, value in self.data.items() if key not in self.known and key not in also_known}
