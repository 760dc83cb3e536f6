"""A model in llama.cpp's memory: its weights, and its vocabulary, which are loaded at the same time.

Loading them takes as long as importing what else a conversation needs, so this module imports nothing heavy: it can
begin first, in a thread of its own.
"""

from __future__ import annotations

import ctypes
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from dclocal.background import Begun
from dclocal.errors import BundleError
from dclocal.llama_amx import takes_amx
from dclocal.llama_api import llama
from dclocal.llama_log import capture_log, run_logging, unheard

TOKENIZER, NO_TOKENIZER = b"tokenizer.ggml.model", b"none"


class Model:
    """What llama.cpp made of a GGUF file: `pointer` has the weights, `vocab` the vocabulary.

    Two of its objects where both are loaded apart, `words` being the other, which is waited for when the vocabulary is
    asked for; to be closed.
    """

    def __init__(self, path: Path, weights: Any, words: Begun[Any] | None = None):
        self.pointer, self._path, self._words = weights, path, words
        self._whole: Any = None
        """The file loaded in one, where its vocabulary was not to be had alone."""

    @cached_property
    def vocab(self) -> Any:
        """llama.cpp's vocabulary.  Raises BundleError where there is none, or it is not that of the weights."""
        if self._words is None:
            return _vocab(self.pointer)
        words = self._words.result()
        if not words or _size(words) != _size(self.pointer):
            words = self._whole = _load_whole(self._path)  # which says what is wrong, as a rule
            if _size(words) != _size(self.pointer):
                raise BundleError(f"{self._path} has words for other weights than its own", "export it anew")
        return _vocab(words)

    def close(self) -> None:
        """Give the memory back, once all of it is there."""
        weights, words, whole = self.pointer, self._words, self._whole
        self.pointer = self._words = self._whole = None
        self.__dict__.pop("vocab", None)
        try:
            _free(weights, whole)
        finally:
            _free(words and words.result())


def load_model(path: Path) -> Model:
    """The model of a GGUF file, whose vocabulary may still be loading.

    Raises BundleError, with llama.cpp's reason, where it cannot be loaded.
    """
    capture_log()
    llama.llama_backend_init()
    if not path.is_file():
        raise BundleError(f"there is no language model {path}", "remove the bundle and pull it again")
    takes_amx()  # asked by one thread
    loading, words = Begun(unheard, _load_weights, path), Begun(unheard, _load_words, path)
    weights = loading.result()
    if weights and _size(weights):
        return Model(path, weights, words)
    _free(weights, words.result())
    return Model(path, _load_whole(path))


def _load_weights(path: Path) -> Any:
    """The weights alone, in two thirds of the time: llama.cpp is told that there is no tokenizer.  A file that does not
    say how many tokens they are for gives none of that size."""
    params = model_params()
    overrides = (llama.llama_model_kv_override * 2)()  # the last of them is empty, and says that it is
    overrides[0].tag, overrides[0].key = llama.LLAMA_KV_OVERRIDE_TYPE_STR, TOKENIZER
    overrides[0].value.val_str = NO_TOKENIZER
    params.kv_overrides = ctypes.cast(overrides, ctypes.POINTER(llama.llama_model_kv_override))
    return llama.llama_model_load_from_file(os.fsencode(path), params)


def _load_words(path: Path) -> Any:
    """The vocabulary alone."""
    params = model_params()
    params.vocab_only = True
    return llama.llama_model_load_from_file(os.fsencode(path), params)


def _load_whole(path: Path) -> Any:
    """Both in one."""
    whole = run_logging(llama.llama_model_load_from_file, os.fsencode(path), model_params())
    if not whole:
        errors = capture_log().errors
        why = errors[0] if errors else "llama.cpp gave no reason"
        raise BundleError(f"{path} cannot be loaded: {why}", "remove the bundle and pull it again")
    return whole


def _free(*models: Any) -> None:
    for model in models:
        if model:
            llama.llama_model_free(model)


def _vocab(model: Any) -> Any:
    return llama.llama_model_get_vocab(model)


def _size(model: Any) -> int:
    """How many tokens a model is for."""
    return int(llama.llama_vocab_n_tokens(_vocab(model)))


def model_params() -> Any:
    """llama.cpp's own defaults, on the processor, in layouts that can be trusted there."""
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = not takes_amx()
    return params
