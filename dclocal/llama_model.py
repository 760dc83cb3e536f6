"""A model's weights in llama.cpp's memory.

Loading them takes as long as importing what else a conversation needs, so this module imports nothing heavy: it can
begin first, in a thread of its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dclocal.errors import BundleError
from dclocal.llama_amx import takes_amx
from dclocal.llama_api import llama
from dclocal.llama_kernels import build_aside
from dclocal.llama_log import capture_log, run_logging


def load_model(path: Path) -> Any:
    """llama.cpp's model of a GGUF file, to be freed with `llama_model_free`.

    Raises BundleError, with llama.cpp's reason, where it cannot be loaded.
    """
    log = capture_log()
    llama.llama_backend_init()
    params = model_params()
    if not path.is_file():
        raise BundleError(f"there is no language model {path}", "remove the bundle and pull it again")
    model = run_logging(llama.llama_model_load_from_file, os.fsencode(path), params)
    if not model:
        why = log.errors[0] if log.errors else "llama.cpp gave no reason"
        raise BundleError(f"{path} cannot be loaded: {why}", "remove the bundle and pull it again")
    build_aside()
    return model


def model_params() -> Any:
    """llama.cpp's own defaults, on the processor, in layouts that can be trusted there."""
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = not takes_amx()
    return params
