"""Drawing tokens from llama.cpp's logits, by its samplers as a bundle's sampling settings choose them."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from dclocal.bundle import PENALTY_WINDOW, Sampling
from dclocal.llama_api import llama


class Sampler:
    """A chain of llama.cpp's samplers, greedy at temperature 0; to be closed.

    The most likely token is found by numpy where that is imported already: a tenth of the time of llama.cpp's chain,
    which makes a list of all tokens first.
    """

    def __init__(self, sampling: Sampling, seed: int, n_vocab: int):
        self.chain: Any = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        self._n_vocab = n_vocab
        self._address = 0
        self._logits: Any = None
        """The logits that lie there, which is where the next ones will."""
        self._plain = sampling.temperature <= 0 and sampling.repeat_penalty == 1.0
        steps = []
        if sampling.repeat_penalty != 1.0:
            steps.append(llama.llama_sampler_init_penalties(n_vocab, PENALTY_WINDOW, sampling.repeat_penalty, 0.0, 0.0))
        if sampling.temperature <= 0:
            steps.append(llama.llama_sampler_init_greedy())
        else:
            steps += [
                llama.llama_sampler_init_top_k(sampling.top_k),
                llama.llama_sampler_init_top_p(sampling.top_p, 1),
                llama.llama_sampler_init_temp(sampling.temperature),
                llama.llama_sampler_init_dist(seed & 0xFFFFFFFF),
            ]
        for step in steps:
            llama.llama_sampler_chain_add(self.chain, step)

    def draw(self, context: Any, index: int = -1) -> int:
        """A token by the logits of the context's last batch at `index`; -1 is its last."""
        numpy = sys.modules.get("numpy") if self._plain else None  # to import it takes as long as many tokens
        if numpy is None:
            token: int = llama.llama_sampler_sample(self.chain, context, index)
            return token
        address = ctypes.addressof(llama.llama_get_logits_ith(context, index).contents)
        if address != self._address:
            self._address = address
            row = (ctypes.c_float * self._n_vocab).from_address(address)
            self._logits = numpy.frombuffer(row, numpy.float32)
        return int(self._logits.argmax())

    def close(self) -> None:
        """Give the memory back."""
        llama.llama_sampler_free(self.chain)
