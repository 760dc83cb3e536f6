"""The user's settings: a TOML file under `places.home()`, read as typed data, written back with all else kept.

Comments and keys that this version does not know stay as they are.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dclocal.errors import UserError
from dclocal.places import home

FILE = "settings.toml"
MAX_BYTES = 1 << 20


class SettingsError(UserError):
    """The settings cannot be read or written: the message names the file and the line."""


@dataclass(frozen=True)
class Settings:
    """What the user chose; None and empty are the bundle's or the app's own choice.

    `keys` maps actions to keys, both by the app's names.
    """

    temperature: float | None = None
    max_tokens: int | None = None
    frames: int | None = None
    system: str = ""
    theme: str = ""
    bundle: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 5


def _count(most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _text(value: object) -> bool:
    return isinstance(value, str)


# key → what it may be, and that in words
RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    "temperature": (_number, "a number from 0 to 5"),
    "max_tokens": (_count(1 << 20), "a whole number from 1"),
    "frames": (_count(4096), "a whole number from 1 to 4096"),
    "system": (_text, "a text"),
    "theme": (_text, "a text"),
    "bundle": (_text, "a text"),
    "keys": (
        lambda value: isinstance(value, dict) and all(map(_text, value.values())),
        'a table of actions and keys, such as quit = "ctrl+q"',
    ),
}


def settings_file() -> Path:
    """Where the settings are kept."""
    return home() / FILE


def read_settings(file: Path | None = None) -> Settings:
    """The settings in `file` (None: the user's); the defaults where there is none.  Raises SettingsError."""
    file = file or settings_file()
    text = _read(file)
    values = _parse(text, file).unwrap()
    for key, (fits, expected) in RULES.items():
        if key in values and not fits(values[key]):
            shown = f"{values[key]!r:.60}"
            raise SettingsError(f"{file}, line {_line_of(text, key)}: {key} is {shown}", f"expected {expected}")
    return Settings(**{key: values[key] for key in RULES if key in values})


def write_settings(settings: Settings, file: Path | None = None) -> None:
    """Write the settings whole or not at all; what is at its default leaves the file.  Raises SettingsError."""
    file = file or settings_file()
    document, defaults = _parse(_read(file), file), Settings()
    for key in RULES:
        value = getattr(settings, key)
        if value == getattr(defaults, key):
            document.pop(key, None)
        elif key == "keys":
            _update_table(document, key, value)
        elif document.get(key) != value:
            document[key] = value
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _replace(file, document.as_string())
    except OSError as error:
        raise SettingsError(
            f"{file} cannot be written ({error.strerror})", "set DCLOCAL_HOME to a folder of yours"
        ) from error


def _update_table(document: Any, name: str, values: Mapping[str, str]) -> None:
    """Bring a table to these values, each kept one in its place."""
    import tomlkit

    table = document.setdefault(name, tomlkit.table())
    for key in [key for key in table if key not in values]:
        del table[key]
    for key, value in values.items():
        if table.get(key) != value:
            table[key] = value


def _replace(file: Path, text: str) -> None:
    target = Path(os.path.realpath(file))  # a link to the user's own files stays one
    handle, part = tempfile.mkstemp(prefix=f".{file.name}-", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise SettingsError(f"{file} cannot be read ({error.strerror})", "check its permissions") from error
    if len(data) > MAX_BYTES:
        raise SettingsError(f"{file} has more than {MAX_BYTES:,} bytes", "it is not a settings file of ours")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SettingsError(f"{file}, line {line}: not UTF-8", "save it as UTF-8") from error


def _parse(text: str, file: Path) -> Any:
    import tomlkit
    from tomlkit.exceptions import ParseError, TOMLKitError

    try:
        return tomlkit.parse(text)
    except ParseError as error:
        what = re.sub(r" at line \d+ col \d+$", "", str(error))
        raise SettingsError(f"{file}, line {error.line}: {what}", "mend that line, or delete the file") from error
    except TOMLKitError as error:
        raise SettingsError(f"{file}: {error}", "mend the file, or delete it") from error


def _line_of(text: str, key: str) -> int:
    """Where a top-level key or table stands."""
    name = rf"[\"']?{key}[\"']?"
    found = re.search(rf"^\s*(?:{name}\s*[=.]|\[\s*{name}\s*\])", text, re.MULTILINE)
    return text[: found.end()].count("\n") + 1 if found else 1
