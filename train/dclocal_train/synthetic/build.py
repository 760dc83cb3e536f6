"""A recipe's data set: each kind of picture drawn, asked about, and written as the rows of three stages.

A picture depends on the seed, its kind and its number alone, so that a larger set begins like a smaller one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from dclocal.errors import UserError
from dclocal.machine import usable_cores
from dclocal.progress import Progress, for_terminal
from dclocal_train.config import DataConfig
from dclocal_train.sources import fetch_sources
from dclocal_train.synthetic import drills, easy_vqa
from dclocal_train.synthetic.backgrounds import draw_background
from dclocal_train.synthetic.chart_questions import ask_chart, chart_caption
from dclocal_train.synthetic.charts import draw_chart
from dclocal_train.synthetic.chatter import chatter
from dclocal_train.synthetic.imprints import draw_imprint
from dclocal_train.synthetic.materials import Materials, build_materials, load_materials
from dclocal_train.synthetic.photographs import draw_photograph
from dclocal_train.synthetic.rows import Sample, caption_row, conversation_row, write_rows
from dclocal_train.synthetic.samples import sample_page
from dclocal_train.synthetic.scene_questions import ask, caption
from dclocal_train.synthetic.scenes import draw_scene
from dclocal_train.synthetic.word_questions import ask_words, words_caption
from dclocal_train.synthetic.words import draw_words

CAPTIONS, FIRST, INSTRUCTIONS = "captions.json", "first.json", "instruct.json"
EASY = "easy"
"""A row's mark: a few colours and shapes, by which a model learns to look at the picture at all."""
CHUNK = 50
ON_SAMPLE_PAGE = 24
Rows = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def _scene(materials: Materials, random_source: random.Random) -> Sample:
    scene = draw_scene(materials.concepts, random_source, materials.photos)
    turns = ask(scene, materials.concepts, random_source)
    easy = all(placed.thing is None for placed in scene.objects)
    return Sample(scene.image, caption(scene, random_source), turns, {EASY: True} if easy else {})


def _names(materials: Materials, random_source: random.Random) -> Sample:
    scene = draw_scene(materials.concepts, random_source, materials.photos, kinds=("single",))
    return Sample(scene.image, caption(scene, random_source), ask(scene, materials.concepts, random_source))


def _drill(kinds: Sequence[str], materials: Materials, random_source: random.Random) -> Sample:
    scene = draw_scene(materials.concepts, random_source, materials.photos, kinds=kinds)
    return Sample(scene.image, caption(scene, random_source), drills.drill(scene, materials.concepts, random_source))


def _relations(materials: Materials, random_source: random.Random) -> Sample:
    while True:
        scene = draw_scene(materials.concepts, random_source, materials.photos, kinds=drills.RELATION_KINDS)
        if turns := drills.drill_relations(scene, random_source):
            return Sample(scene.image, caption(scene, random_source), turns)


def _words(materials: Materials, random_source: random.Random) -> Sample:
    picture = draw_words(materials.faces, materials.vocabulary, random_source)
    return Sample(picture.image, words_caption(picture, random_source), ask_words(picture, random_source))


def _chart(materials: Materials, random_source: random.Random) -> Sample:
    chart = draw_chart(materials.faces, random_source)
    return Sample(chart.image, chart_caption(chart), ask_chart(chart, random_source))


def _imprint(materials: Materials, random_source: random.Random) -> Sample:
    return draw_imprint(draw_background(random_source, materials.photos).image, random_source)


def _photograph(materials: Materials, random_source: random.Random) -> Sample:
    return draw_photograph(random_source)


DRAWERS: dict[str, Callable[[Materials, random.Random], Sample]] = {
    "scenes": _scene,
    "names": _names,
    "counts": partial(_drill, ("counting",)),
    "drills": partial(_drill, drills.KINDS),
    "relations": _relations,
    "words": _words,
    "charts": _chart,
    "imprints": _imprint,
    "photographs": _photograph,
}
KINDS = (*DRAWERS, "easy_vqa", "chatter")


def build_data(config: DataConfig, source_folder: Path | None) -> Path:
    """Build the set unless it is there; returns its folder.

    One of several processes builds, the others wait.  The rows of instructions are written last.  Raises UserError
    for a kind of picture that is not in KINDS.
    """
    unknown = sorted(set(config.pictures) - set(KINDS))
    if unknown:
        raise UserError(f"data.pictures names {', '.join(unknown)}", f"known: {', '.join(KINDS)}")
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".building"):
        if not (folder / INSTRUCTIONS).is_file():
            with for_terminal() as progress:
                _build(config, source_folder, folder, progress)
    return folder


def _build(config: DataConfig, source_folder: Path | None, folder: Path, progress: Progress) -> None:
    captions, conversations = [], []
    drawn = {kind: count for kind, count in config.pictures.items() if kind in DRAWERS}
    if drawn:
        materials = build_materials(source_folder, progress)
        for kind, count in drawn.items():
            for more_captions, more in _draw_all(kind, count, config.seed, materials, folder, progress):
                captions += more_captions
                conversations += more
    if config.pictures.get("easy_vqa"):
        wheel = fetch_sources(("easy_vqa",), source_folder)["easy_vqa"]
        more_captions, more = easy_vqa.build(wheel, folder, pictures=config.pictures["easy_vqa"], seed=config.seed)
        captions += more_captions
        conversations += [{**row, EASY: True} for row in more]
    if config.pictures.get("chatter"):
        llm = fetch_sources(("llm",), source_folder)["llm"]
        samples = chatter(llm, config.pictures["chatter"], config.seed, progress)
        conversations += [conversation_row(f"chatter-{n}", None, sample.turns) for n, sample in enumerate(samples)]
    write_rows(folder / CAPTIONS, captions)
    write_rows(folder / FIRST, [row for row in conversations if row.get(EASY)])
    write_rows(folder / INSTRUCTIONS, conversations)


def _draw_all(kind: str, count: int, seed: int, materials: Path, folder: Path, progress: Progress) -> Iterator[Rows]:
    """All pictures of a kind, chunk by chunk in their order, on every core; with a page of the first ones."""
    (folder / kind).mkdir(exist_ok=True)
    ranges = [(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    with ProcessPoolExecutor(usable_cores()) as pool:
        work = [pool.submit(_draw_chunk, kind, *each, seed, materials, folder) for each in ranges]
        for (_, end), future in zip(ranges, work):
            yield future.result()
            progress(f"drawing {kind}", end, count)
    first = [draw(kind, index, seed, load_materials(materials)) for index in range(min(count, ON_SAMPLE_PAGE))]
    sample_page(first, folder / f"{kind}.png")


def _draw_chunk(kind: str, start: int, end: int, seed: int, materials: Path, folder: Path) -> Rows:
    captions, conversations = [], []
    for index in range(start, end):
        sample = draw(kind, index, seed, load_materials(materials))
        name = f"{kind}/{index:06d}.jpg"
        assert sample.image is not None
        quality = random.Random(f"quality-{index}").randint(80, 97)
        sample.image.save(folder / name, quality=quality)
        identifier = f"{kind}-{index}"
        if sample.caption:
            captions.append({**caption_row(identifier, name, sample.caption), **sample.extra})
        conversations.append({**conversation_row(identifier, name, sample.turns), **sample.extra})
    return captions, conversations


def draw(kind: str, index: int, seed: int, materials: Materials) -> Sample:
    """The picture of that number, the same every time."""
    return DRAWERS[kind](materials, random.Random(f"{kind}-{seed}-{index}"))
