"""Typed values out of untrusted JSON: each mistake is a BundleError that names the key and what stands there."""

from __future__ import annotations

from typing import Any

from dclocal.errors import BundleError


class Reader:
    """One JSON object, taken apart key by key; remembers which keys were asked for."""

    def __init__(self, data: Any, where: str):
        if not isinstance(data, dict):
            raise BundleError(f"{where} is not an object", "remove the bundle and pull it again")
        self.data, self.where, self.known = data, where, set[str]()

    def peek(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """The value of `key`, which must be of `kind`."""
        value = self.data.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BundleError(
                f"{self.where}: {key!r} is {value!r:.60}, not what the format says",
                "remove the bundle and pull it again",
            )
        return value

    def take(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """As `peek`; the key counts as known."""
        self.known.add(key)
        return self.peek(key, kind)

    def bounded(self, key: str, low: int, high: int) -> int:
        """A whole number within `low` to `high`."""
        value = self.take(key, int)
        if not low <= value <= high:
            raise BundleError(f"{self.where}: {key!r} is {value}, not within {low} to {high}", "do not use this bundle")
        return value

    def choice(self, key: str, known: tuple[str, ...]) -> str:
        """One of the words in `known`."""
        value = self.take(key, str)
        if value not in known:
            raise BundleError(f"{self.where}: {key!r} is {value!r}, known: {', '.join(known)}", "upgrade dclocal")
        return value

    def _numbers(self, key: str, count: int, kind: type | tuple[type, ...]) -> tuple[Any, ...]:
        values = self.take(key, list)
        if len(values) != count or not all(isinstance(value, kind) for value in values):
            raise BundleError(f"{self.where}: {key!r} is not {count} numbers", "remove the bundle and pull it again")
        return tuple(values)

    def triple(self, key: str) -> tuple[float, float, float]:
        """Three numbers."""
        red, green, blue = self._numbers(key, 3, (int, float))
        return float(red), float(green), float(blue)

    def pair(self, key: str) -> tuple[int, int]:
        """Two whole numbers."""
        rows, columns = self._numbers(key, 2, int)
        return rows, columns

    def section(self, key: str) -> Reader:
        """The object under `key`."""
        return Reader(self.take(key, dict), f"{self.where}: {key}")

    def rest(self, *also_known: str) -> dict[str, Any]:
        """What nobody asked for, besides `also_known`."""
        return {key: value for key, value in self.data.items() if key not in self.known and key not in also_known}
