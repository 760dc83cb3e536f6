"""A small language model that can already answer about grids of words: what the ablation's connectors speak to.

A pretrained language model knows what words mean before it sees a picture.  Ours learns that from symbolic
pictures: a grid of cells, each the sum of the embeddings of what lies there ("red", "circle", "large"), with the
same questions as the real ones.  A connector then has to turn features into such cells.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dclocal_train.collate import Collator
from dclocal_train.data import Encoder
from dclocal_train.synthetic import shapes

GRIDS = ((12, 0.9), (24, 0.1))
"""Sides of the grids that it learns on, one after the other, and each one's share of the steps."""
NOTHING = "."
Cells = list[tuple[str, ...]]


def cells_of(things: Sequence[shapes.Thing], side: int) -> Cells:
    """The words of each of side × side cells, row by row: those of the thing over its centre, or NOTHING."""
    found: Cells = []
    for row in range(side):
        for column in range(side):
            x, y = ((place + 0.5) * shapes.CANVAS / side for place in (column, row))
            reach = shapes.CANVAS / side / 2
            over = [
                thing for thing in things if max(abs(thing.x - x), abs(thing.y - y)) < max(thing.radius * 0.9, reach)
            ]
            near = min(over, key=lambda thing: abs(thing.x - x) + abs(thing.y - y), default=None)
            found.append((near.colour, near.shape, near.size) if near else (NOTHING,))
    return found


def easy_cells(colour: str, shape: str, side: int, random_source: random.Random) -> Cells:
    """An easy-VQA picture in symbols: one shape somewhere."""
    radius = random_source.randint(40, 110)
    x, y = (random_source.randint(radius, shapes.CANVAS - radius) for _ in range(2))
    return cells_of([shapes.Thing(shape, colour, "large", x, y, radius)], side)


def asked(question: str) -> bool:
    """Whether the ablation asks this; counting takes so small a language model far longer to learn than the rest."""
    return "how many" not in question


def symbolic_example(easy: Sequence[dict[str, Any]], side: int, seed: str) -> tuple[Cells, list[tuple[str, str]]]:
    """A symbolic picture and its questions: of an easy-VQA row whose shape is known, or a scene of several shapes."""
    random_source = random.Random(seed)
    if random_source.random() < 0.4:
        row = random_source.choice(easy)
        colour, shape = row["caption"]
        turns = [turn["value"].replace("<image>", "").strip() for turn in row["conversations"]]
        return easy_cells(colour, shape, side, random_source), list(zip(turns[::2], turns[1::2]))
    things = shapes.arrange(random_source)
    return cells_of(things, side), [turn for turn in shapes.ask(things, random_source) if asked(turn[0])]


def pretrain(
    model: Any, encoder: Encoder, words: Callable[[str], int], easy: Sequence[dict[str, Any]], steps: int, turns: int
) -> float:
    """Teach `model` (a DenseConnectorModel, of which the language model alone is trained); returns the last loss."""
    llm, batch = model.llm, 16
    llm.requires_grad_(True)
    optimizer = torch.optim.AdamW(llm.parameters(), lr=2e-3, weight_decay=0.01)
    plan = [side for side, share in GRIDS for _ in range(round(share * steps))]
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, len(plan), pct_start=0.05)
    last, table = 0.0, llm.get_input_embeddings()
    bar = tqdm(plan, desc="symbolic pictures", unit="step")
    for step, side in enumerate(bar):
        small = max(4, batch * 144 // (side * side))
        examples, cells = [], []
        for row in range(small):
            found, questions = symbolic_example(easy, side, f"{step}-{row}")
            random.Random(f"{step}-{row}").shuffle(questions)
            examples.append(encoder.branched(questions[:turns], side * side))
            cells += found
        inputs = Collator()(examples)
        with torch.autocast("cpu", torch.bfloat16):
            embeds = model.embed(inputs["input_ids"], inputs["image_mask"], _embed(cells, words, table))
            loss = model.next_token_loss(embeds, inputs["position_ids"], inputs["attention_mask"], inputs["labels"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(llm.parameters(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        last = 0.98 * last + 0.02 * loss.item() if last else loss.item()
        bar.set_postfix(loss=f"{last:.3f}")
    return last


def _embed(cells: Cells, words: Callable[[str], int], table: Any) -> Tensor:
    """`[cells, n_embd]`: the sum of each cell's words."""
    ids = torch.tensor([[words(word) for word in (*cell, *[NOTHING] * (3 - len(cell)))] for cell in cells])
    summed: Tensor = table(ids).sum(1)
    return summed
