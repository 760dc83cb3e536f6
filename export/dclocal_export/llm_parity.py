"""How far each quantization of a language model is from its 16-bit GGUF, and how fast it is.

The fixed text of llm_text.txt is read after prefixes that hold pictures' embeddings; every position of the text
counts.  The reference's logits lie in a temporary file, so that two models are never in memory at once.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dclocal.cells import segment_cells
from dclocal.errors import UserError
from dclocal.llm import LLM
from dclocal.progress import Progress, silent
from dclocal.prompt import Segment, Tokenize

TEXT_FILE = Path(__file__).with_name("llm_text.txt")
MAX_TOKENS = 384
DECODED = 16
STEP = "measuring the language model"
TOKENIZER_TEXTS = (
    "What color is the car?",
    "  two\n\nlines\t and spaces   at the end  ",
    "naïve 🎉 漢字 12345 3.14",
    "I'm sure they've said: \"it's 50% off!\"",
    "a\u0301 e\u0301 ﬁ ½",
)


@dataclass(frozen=True)
class _Run:
    """A model's text positions after each prefix: perplexity's sum, its logits on disk, and speeds."""

    nll: list[float]
    files: list[Path]
    prefill_tps: float
    decode_tps: float


def measure_llm(
    reference: Path,
    candidates: dict[str, Path],
    prefixes: Sequence[Sequence[Segment]],
    *,
    text: str | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """For the reference (as "f16") and each candidate: size_bytes, perplexity, prefill_tps and decode_tps (tokens a
    second on this machine), and for candidates top1_agreement and kl_divergence_mean (nats) against the reference.

    Without `prefixes` the text stands alone.  Raises UserError for a perplexity that is not a number.
    """
    said = TEXT_FILE.read_text(encoding="utf-8") if text is None else text
    before = list(prefixes) or [[]]
    steps = len(before) * (1 + len(candidates))
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="dclocal-parity-") as temporary:
        truth = _read(reference, said, before, Path(temporary) / "reference")
        tokens = sum(len(_open(file)) for file in truth.files)
        results["f16"] = _summary(reference, truth, tokens)
        progress(STEP, len(before), steps)
        for index, (name, file) in enumerate(candidates.items(), 1):
            run = _read(file, said, before, Path(temporary) / "candidate")
            results[name] = {**_summary(file, run, tokens), **_compared(truth, run)}
            progress(STEP, len(before) * (index + 1), steps)
    return {"text_tokens": tokens, "prefixes": len(prefixes), "quantizations": results}


def tokenizer_differences(
    gguf: Path, tokenize: Tokenize, texts: Sequence[str] = TOKENIZER_TEXTS
) -> list[dict[str, Any]]:
    """The texts that llama.cpp cuts otherwise than `tokenize` (transformers' tokenizer), with both lists of ids."""
    found = []
    with LLM(gguf, n_ctx=64) as llm:
        for text in texts:
            ours, theirs = llm.tokenize(text, False), tokenize(text, False)
            if ours != theirs:
                found.append({"text": text, "llama_cpp": ours, "transformers": theirs})
    return found


def _read(path: Path, text: str, prefixes: Sequence[Sequence[Segment]], folder: Path) -> _Run:
    """Run the text after each prefix; log-probabilities by position are written as float32 files."""
    folder.mkdir(exist_ok=True)
    longest = max(len(list(segment_cells(prefix))) for prefix in prefixes)
    nll, files, spent, read = [], [], 0.0, 0
    with LLM(path, n_ctx=longest + MAX_TOKENS + DECODED + 8) as llm:
        ids = llm.tokenize(text, False)[:MAX_TOKENS]
        if len(ids) < 2:
            raise UserError("the text to measure on is empty", "give a longer one")
        for number, prefix in enumerate(prefixes):
            llm.forget()
            started = time.perf_counter()
            first = _begun(llm, prefix, ids)
            rows = np.concatenate([first, llm.score(ids[len(llm.cells) - _length(prefix) :])])
            spent += time.perf_counter() - started
            read += len(llm.cells)
            targets = ids[len(ids) - len(rows) + 1 :]
            log_probs = _log_softmax(rows[:-1])
            nll.append(float(-log_probs[np.arange(len(targets)), targets].sum(dtype=np.float64)))
            files.append(folder / f"{number}.npy")
            np.save(files[-1], log_probs)
        started = time.perf_counter()
        token = int(rows[-1].argmax())
        for _ in range(DECODED):
            token = int(llm.score([token])[-1].argmax())
        decode_tps = DECODED / (time.perf_counter() - started)
    return _Run(nll, files, read / spent, decode_tps)


def _begun(llm: LLM, prefix: Sequence[Segment], ids: Sequence[int]) -> np.ndarray:
    """Evaluate the prefix; the logits that foretell the text's first token, or without prefix its second."""
    if not prefix:
        return llm.score(ids[:1])
    llm.prefill(prefix)
    return llm.logits()[None]


def _length(prefix: Sequence[Segment]) -> int:
    return sum(len(segment) for segment in prefix)


def _open(file: Path) -> np.ndarray:
    array: np.ndarray = np.load(file, mmap_mode="r")
    return array


def _summary(path: Path, run: _Run, tokens: int) -> dict[str, float]:
    perplexity = float(np.exp(sum(run.nll) / tokens))
    if not np.isfinite(perplexity):
        raise UserError(f"{path} has perplexity {perplexity}", "its weights are damaged: convert or quantize it again")
    return {
        "size_bytes": path.stat().st_size,
        "perplexity": round(perplexity, 4),
        "prefill_tps": round(run.prefill_tps, 1),
        "decode_tps": round(run.decode_tps, 1),
    }


def _compared(truth: _Run, run: _Run) -> dict[str, float]:
    same, divergence, count = 0, 0.0, 0
    for file, other in zip(truth.files, run.files):
        expected, found = _open(file), _open(other)
        if expected.shape != found.shape:
            raise UserError(f"logits are {found.shape}, the reference's {expected.shape}", "is it the same model?")
        for row, other_row in zip(expected, found):
            same += int(row.argmax() == other_row.argmax())
            divergence += float((np.exp(row.astype(np.float64)) * (row.astype(np.float64) - other_row)).sum())
            count += 1
    return {"top1_agreement": round(same / count, 5), "kl_divergence_mean": round(divergence / count, 6)}


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted, dtype=np.float32).sum(axis=1, keepdims=True))
    return result
