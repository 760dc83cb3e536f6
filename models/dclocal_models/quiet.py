"""Keeps the libraries' own talk from the terminal: our progress says what is going on."""

from __future__ import annotations

import logging
from functools import partial


def hush() -> None:
    """Turn off transformers' progress bars, a warning of bitsandbytes, and llama.cpp's log outside our own handler."""
    logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)  # it asks for a faster kernel than it needs
    logging.getLogger("dclocal.llama").propagate = False  # quantizers configure logging for the whole process

    from tqdm import tqdm
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    modeling_gguf_pytorch_utils.tqdm = partial(tqdm, disable=True)  # of a GGUF's tensors, which the switch leaves on
