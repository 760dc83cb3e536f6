"""Keeps the libraries' own talk from the terminal: our progress says what is going on."""

from __future__ import annotations

import logging


def hush() -> None:
    """Turn off transformers' progress bars, a warning of bitsandbytes, and llama.cpp's log outside our own handler."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)  # it asks for a faster kernel than it needs
    logging.getLogger("dclocal.llama").propagate = False  # quantizers configure logging for the whole process
