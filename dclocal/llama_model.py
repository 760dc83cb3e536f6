"""A model in llama.cpp's memory: its weights, and its vocabulary, which are loaded at the same time.

Loading them takes as long as importing what else a conversation needs, so this module imports nothing heavy: it can
begin first, in a thread of its own.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from dclocal.background import Begun
from dclocal.compiled import build_aside
from dclocal.errors import BundleError
from dclocal.llama_amx import takes_amx
from dclocal.llama_api import llama
from dclocal.llama_log import capture_log, run_logging

TOKENIZER, NO_TOKENIZER = b"tokenizer.ggml.model", b"none"


class Model:
    """What llama.cpp made of a GGUF file: `pointer` has the weights, `vocab` the vocabulary.

    Two of its objects where both were loaded apart (`words` is the other); to be closed.
    """

    def __init__(self, weights: Any, words: Any = None):
        self.pointer, self._words = weights, words
        self.vocab: Any = llama.llama_model_get_vocab(words or weights)

    def close(self) -> None:
        """Give the memory back."""
        for each in (self.pointer, self._words):
            if each:
                llama.llama_model_free(each)
        self.pointer = self._words = self.vocab = None


def load_model(path: Path) -> Model:
    """The model of a GGUF file.  Raises BundleError, with llama.cpp's reason, where it cannot be loaded."""
    log = capture_log()
    llama.llama_backend_init()
    if not path.is_file():
        raise BundleError(f"there is no language model {path}", "remove the bundle and pull it again")
    file = os.fsencode(path)
    model = run_logging(_load_apart, file, succeeded=lambda _: True)
    if model is None:
        whole = run_logging(llama.llama_model_load_from_file, file, model_params())
        if not whole:
            why = log.errors[0] if log.errors else "llama.cpp gave no reason"
            raise BundleError(f"{path} cannot be loaded: {why}", "remove the bundle and pull it again")
        model = Model(whole)
    build_aside()
    return model


def model_params() -> Any:
    """llama.cpp's own defaults, on the processor, in layouts that can be trusted there."""
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = not takes_amx()
    return params


def _load_apart(file: bytes) -> Model | None:
    """Weights and vocabulary by two threads, in two thirds of the time; None for a file that does not say how many
    tokens the weights are for, or anything else is the matter with."""
    params, words_only = model_params(), model_params()
    words_only.vocab_only = True
    loading = Begun(llama.llama_model_load_from_file, file, words_only)
    overrides = (llama.llama_model_kv_override * 2)()  # the last of them is empty, and says that it is
    overrides[0].tag, overrides[0].key = llama.LLAMA_KV_OVERRIDE_TYPE_STR, TOKENIZER
    overrides[0].value.val_str = NO_TOKENIZER
    params.kv_overrides = ctypes.cast(overrides, ctypes.POINTER(llama.llama_model_kv_override))
    weights = llama.llama_model_load_from_file(file, params)
    words = loading.result()
    sizes = {llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(each)) for each in (weights, words) if each}
    if weights and words and len(sizes) == 1:
        return Model(weights, words)
    for each in (weights, words):
        if each:
            llama.llama_model_free(each)
    return None
