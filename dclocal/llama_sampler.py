"""llama.cpp's samplers as a bundle's sampling settings choose them."""

from __future__ import annotations

from typing import Any

from dclocal.bundle import PENALTY_WINDOW, Sampling
from dclocal.llama_api import llama


def new_sampler(sampling: Sampling, seed: int, n_vocab: int) -> Any:
    """A chain of samplers, to be freed by `llama_sampler_free`; greedy at temperature 0."""
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
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
        llama.llama_sampler_chain_add(chain, step)
    return chain
