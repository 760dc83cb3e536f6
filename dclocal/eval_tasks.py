"""Tests by name: each is built once into a folder of the cache; a folder of the user's own is a test, too.

Other packages bring more through the entry-point group `dclocal.eval_tasks`: name → a function
`(source_folder, folder, progress)` that fills the empty `folder` with pictures and `questions.jsonl`.  Its attribute
`version`, 1 where it has none, is to be raised when it builds something else.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from dclocal.eval_test import QUESTIONS_FILE, EvalError, read_test, write_test
from dclocal.progress import Progress

ENTRY_POINTS = "dclocal.eval_tasks"
CHAT = "chat"
"""The task without pictures: see `eval_chat`."""
BUILDING = ".building-"


class BuildTask(Protocol):
    """Fills an empty folder with a test; `source_folder` holds its packages where there is no network."""

    def __call__(self, source_folder: Path | None, folder: Path, progress: Progress) -> None: ...


def build_easy_vqa(source_folder: Path | None, folder: Path, progress: Progress) -> None:
    """easy-VQA's test split: 9,673 questions on 1,000 pictures of one coloured shape."""
    from dclocal.evaluate import answer_kind, easy_vqa_items
    from dclocal.places import home
    from dclocal.wheels import WHEELS, fetch_wheel

    wheel = fetch_wheel(WHEELS["easy_vqa"], source_folder, home() / "tests", progress)
    rows = []
    for index, item in enumerate(easy_vqa_items(wheel, None)):
        name = f"{index}.png"
        item.image.save(folder / name)
        for question, answer in item.questions:
            kind = answer_kind(answer)
            rows.append({"image": name, "question": question, "answers": [answer], "match": "exact", "group": kind})
    write_test(folder, rows)


OWN: dict[str, BuildTask] = {"easy-vqa": build_easy_vqa}


def open_test(name: str, source_folder: Path | None, progress: Progress) -> Path:
    """The folder of a test: built on first use for a name, else the folder that `name` is.

    Raises EvalError for what is neither, listing the known names.
    """
    plugins = _plugins()
    if name in OWN:
        return _built(name, OWN[name], source_folder, progress)
    if name in plugins:
        return _built(name, _loaded(name, plugins[name]), source_folder, progress)
    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        return folder
    raise EvalError(
        f"there is no test {name!r}", f"known: {', '.join([*OWN, CHAT, *sorted(plugins)])}; or name a test's folder"
    )


def _plugins() -> Mapping[str, str]:
    """Tests that other packages bring: name → module:function."""
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS) if entry.name not in (*OWN, CHAT)}


def _loaded(name: str, target: str) -> BuildTask:
    from importlib import import_module

    module, _, function = target.partition(":")
    builder: BuildTask = getattr(import_module(module), function)
    return builder


def _built(name: str, build: BuildTask, source_folder: Path | None, progress: Progress) -> Path:
    """The test's folder in the cache; built beside its place and renamed there, by one process at a time."""
    from dclocal.places import home
    from dclocal.store import errors_as_one_line, locked

    tests = home() / "tests"
    target = tests / f"{name}-v{getattr(build, 'version', 1)}"
    if (target / QUESTIONS_FILE).is_file():
        return target
    if source_folder is not None and not source_folder.is_dir():
        raise EvalError(f"{source_folder} is not a folder", "name the folder that holds the test's packages")
    with errors_as_one_line(), locked(f"test-{name}", progress):
        if (target / QUESTIONS_FILE).is_file():
            return target
        tests.mkdir(parents=True, exist_ok=True)
        for leftover in tests.glob(f"{BUILDING}{name}-*"):  # the lock is ours, so nobody works there
            shutil.rmtree(leftover, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f"{BUILDING}{name}-", dir=tests))
        try:
            build(source_folder, work, progress)
            read_test(work)
            work.replace(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target
