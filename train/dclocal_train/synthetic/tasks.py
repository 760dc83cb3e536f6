"""Tests that `dclocal eval` finds by name (entry-point group `dclocal.eval_tasks`).

Their pictures, clips and questions are drawn from the same packages as training's, and are never trained on.

What a test draws with is imported when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dclocal.progress import Progress

Build = Callable[[Path, Path], object]
"""(folder of `materials.build_materials`, empty folder to fill with pictures and questions.jsonl)."""


@dataclass(frozen=True)
class Task:
    """One test; raise `version` when it draws or asks something else."""

    draw: Build
    version: int = 1

    def __call__(self, source_folder: Path | None, folder: Path, progress: Progress) -> None:
        """Fill the empty `folder` with pictures and questions.jsonl (docs/evaluation.md)."""
        from dclocal_train.synthetic.materials import build_materials

        materials = build_materials(source_folder, progress)
        progress("drawing the test", 0, 1)
        self.draw(materials, folder)
        progress("drawing the test", 1, 1)


def _emoji(materials: Path, folder: Path) -> None:
    from dclocal_train.synthetic.naming_tests import emoji_test
    from dclocal_train.synthetic.things import load_things

    emoji_test(load_things(materials / "things"), folder, count=500)


def _clipart(materials: Path, folder: Path) -> None:
    from dclocal_train.synthetic.naming_tests import clipart_test
    from dclocal_train.synthetic.things import load_things

    clipart_test(load_things(materials / "things"), folder, count=300)


def _scenes(name: str, count: int) -> Build:
    def draw(materials: Path, folder: Path) -> None:
        from dclocal_train.synthetic import scene_tests
        from dclocal_train.synthetic.things import load_things

        tests = {
            "existence": scene_tests.existence_test,
            "counting": scene_tests.counting_test,
            "relations": scene_tests.relations_test,
        }
        tests[name](load_things(materials / "things"), folder, count, seed=1)

    return draw


def _clips(materials: Path, folder: Path) -> None:
    from dclocal_train.synthetic.clip_tests import video_test
    from dclocal_train.synthetic.things import load_things

    video_test(load_things(materials / "things"), folder)


def _written(name: str, count: int) -> Build:
    def draw(materials: Path, folder: Path) -> None:
        from dclocal_train.synthetic import word_tests
        from dclocal_train.synthetic.fonts import build_fonts
        from dclocal_train.synthetic.materials import VOCABULARY
        from dclocal_train.synthetic.vocabulary import load_vocabulary

        tests = {"words": word_tests.words_test, "charts": word_tests.charts_test}
        faces, vocabulary = build_fonts(None, materials / "fonts"), load_vocabulary(materials / VOCABULARY)
        tests[name](faces, vocabulary, folder, count, seed=1)

    return draw


TASKS = {
    "emoji": Task(_emoji),
    "clipart": Task(_clipart),
    "existence": Task(_scenes("existence", 1000)),
    "counting": Task(_scenes("counting", 600)),
    "relations": Task(_scenes("relations", 600)),
    "words": Task(_written("words", 500)),
    "charts": Task(_written("charts", 400)),
    "video": Task(_clips),
}
emoji, clipart, existence, counting, relations, words, charts, video = TASKS.values()
