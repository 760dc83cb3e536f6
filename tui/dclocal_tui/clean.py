"""Text from elsewhere made fit for the screen."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """Without control characters: what a model says must not reach the terminal as commands."""
    return CONTROL.sub("", text)
