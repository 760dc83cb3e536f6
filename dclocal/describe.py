"""What a bundle is, as tables: facts, files, licences, adapters, and how far it is from its checkpoint.

A bundle's own words are shown as they are, control characters as escapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dclocal.bundle import PARITY_FILE, Bundle
from dclocal.errors import BundleError
from dclocal.files import printable
from dclocal.manifest import VisionSpec
from dclocal.tables import Table
from dclocal.typed_json import REMEDY, parse_json

MAX_PARITY_BYTES = 8 << 20
MAX_CELL = 200
THINNEST = ((100_000, 1), (1, 100_000))  # (width, height) of pictures that take the fewest tokens
# Sections of parity.json: their titles, and what names a row where they hold one object per key.
SECTIONS = {
    "vision": ("vision encoder against the checkpoint", "precision"),
    "llm": ("language model against the checkpoint", "quantization"),
    "timings": ("timings", "step"),
    "machine": ("measured on", "part"),
}


def bundle_tables(bundle: Bundle, parity: Mapping[str, Any]) -> list[Table]:
    """Everything that `dclocal bundle show` prints of a bundle."""
    manifest = bundle.manifest
    files = sorted(manifest.files.items(), key=lambda item: -item[1].size_bytes)
    return [
        Table(_facts(bundle)),
        Table([(name, human_size(entry.size_bytes), entry.sha256[:16]) for name, entry in files], "files", _FILES),
        Table([(_cell(part), _cell(licence)) for part, licence in manifest.licences.items()], "licences", _LICENCES),
        Table([(one.name, f"{one.scale:g}", one.file) for one in manifest.adapters], "adapters", _ADAPTERS),
        Table(_pairs(manifest.provenance), "provenance"),
        *parity_tables(parity),
    ]


_FILES = ("file", "size", "sha256 starts with")
_LICENCES = ("part", "licence")
_ADAPTERS = ("adapter", "scale", "file")


def parity_tables(parity: Mapping[str, Any]) -> list[Table]:
    """The sections of `parity.json` that are there; one that this version does not know as names and values."""
    tables = []
    for section, value in parity.items():
        title, row_name = SECTIONS.get(section, (_cell(section).replace("_", " "), "name"))
        if section == "answers" and isinstance(value, dict):
            tables += _answers(value)
        elif isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
            tables.append(_grid(title, [{row_name: name, **row} for name, row in value.items()]))
        else:
            tables.append(Table(_pairs(value if isinstance(value, dict) else {section: value}), title))
    return tables


def read_parity(bundle: Bundle) -> dict[str, Any]:
    """The parity figures, none where a bundle carries none; raises BundleError where they cannot be read."""
    file = bundle.path / PARITY_FILE
    if not file.is_file():
        return {}
    if file.stat().st_size > MAX_PARITY_BYTES:
        raise BundleError(f"{file} is damaged: larger than {MAX_PARITY_BYTES} bytes", REMEDY)
    try:
        parity = parse_json(file.read_text(encoding="utf-8"), str(file))
    except (BundleError, ValueError) as error:
        reason = error.problem if isinstance(error, BundleError) else str(error)
        raise BundleError(f"{file} is damaged ({reason})", REMEDY) from error
    return parity if isinstance(parity, dict) else {}


def picture_tokens_text(vision: VisionSpec) -> str:
    """How many tokens a picture takes, in words; for AnyRes of a tile, and the least and most of a picture."""
    if vision.image.fit != "anyres":
        return f"{vision.tokens} tokens"
    from dclocal.anyres import max_tokens  # it needs numpy and Pillow
    from dclocal.picture import picture_tokens

    least = min(picture_tokens(strip, vision) for strip in THINNEST)
    most = max_tokens(vision.image.pinpoints, vision.image.size, vision.grid, vision.newline is not None)
    return f"{vision.tokens} tokens a tile, {least} to {most} a picture on {len(vision.image.pinpoints)} canvases"


def human_size(size_bytes: int) -> str:
    """A size for people."""
    return f"{size_bytes / 1e6:.0f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.1f} kB"


def _facts(bundle: Bundle) -> list[tuple[str, str]]:
    manifest, vision = bundle.manifest, bundle.manifest.vision
    rows, columns = vision.grid
    sampling = manifest.sampling
    facts = [
        ("name", manifest.name),
        ("description", manifest.description),
        ("folder", str(bundle.path)),
        ("format", str(manifest.format_version)),
        ("size", human_size(bundle.size_bytes)),
        ("picture", f"{vision.image.size}×{vision.image.size}, {vision.image.fit}"),
        ("picture tokens", f"{picture_tokens_text(vision)}, grid {rows}×{columns}, width {vision.n_embd}"),
        ("vision", f"{vision.backbone}, {vision.precision}"),
        ("connector", vision.connector),
        ("layers", "; ".join(_ranges(group) for group in vision.layer_groups) or "the last one"),
        ("language model", f"{manifest.llm_quantization}, context {manifest.n_ctx}"),
        *([("text alone", f"{manifest.text_llm}, until a picture is shown")] if manifest.text_llm else []),
        ("prompt", manifest.prompt.name),
        ("sampling", f"temperature {sampling.temperature:g}, at most {sampling.max_tokens} tokens"),
        ("video", f"{manifest.video.frames} frames of {manifest.video.tokens_per_frame} tokens"),
    ]
    return [(name, _cell(text)) for name, text in facts]


def _ranges(numbers: Sequence[int]) -> str:
    """1–6 for consecutive numbers, else each of them."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}–{numbers[-1]}"
    return ", ".join(map(str, numbers))


def _answers(section: Mapping[str, Any]) -> list[Table]:
    """How many answers are the same, and those that differ side by side."""
    differing = section.get("differing")
    pairs = [(name, value) for name, value in section.items() if name != "differing"]
    tables = [Table(_pairs(dict(pairs)), "answers against the checkpoint")]
    if isinstance(differing, list) and differing and all(isinstance(row, dict) for row in differing):
        tables.append(_grid("answers that differ", differing))
    return tables


def _grid(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A column for every key of any row, in the order in which they appear; what a row lacks is empty."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_value(key, row[key]) if key in row else "" for key in keys] for row in rows]
    return Table(cells, title, [_heading(key) for key in keys])


def _pairs(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names and values, objects within as longer names; lists are counted (`--json` has them)."""
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{_heading(key)}"
        if isinstance(value, dict):
            rows += _pairs(value, f"{name} ")
        else:
            rows.append((name, _value(key, value)))
    return rows


def _heading(key: str) -> str:
    return _cell(key).removesuffix("_bytes").replace("_", " ")


def _value(key: str, value: object) -> str:
    if isinstance(value, list | dict):
        plain = all(not isinstance(item, list | dict) for item in value)
        return _cell(", ".join(map(str, value))) if plain and len(value) <= 8 else f"({len(value)} entries)"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int) and key.endswith("_bytes"):
        return human_size(value)
    return f"{value:.6g}" if isinstance(value, float) else _cell(str(value))


def _cell(text: str) -> str:
    """One line of printable text, cut where it is very long."""
    text = printable(text)
    return text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]}…"
