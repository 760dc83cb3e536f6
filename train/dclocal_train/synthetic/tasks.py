"""Tests that `dclocal eval` finds by name (entry-point group `dclocal.eval_tasks`), each built by a module of its own.

A builder is imported when its test is first asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from dclocal.progress import Progress


@dataclass(frozen=True)
class Builder:
    """`module`'s function `build(source_folder, folder, progress)`; raise `version` when it builds something else."""

    module: str
    version: int = 1

    def __call__(self, source_folder: Path | None, folder: Path, progress: Progress) -> None:
        """Fill the empty `folder` with pictures and questions.jsonl (docs/evaluation.md)."""
        import_module(self.module).build(source_folder, folder, progress)


BUILDERS = {
    name: Builder(f"dclocal_train.synthetic.eval_{name}")
    for name in ("emoji", "clipart", "existence", "counting", "relations", "words", "charts")
}
emoji, clipart, existence, counting, relations, words, charts = BUILDERS.values()
