"""A picture for those who have none at hand: a red circle, drawn here."""

from __future__ import annotations

import io

from dclocal.engine_messages import Media

SIDE = 256
QUESTION = "What is this?"


def example() -> Media:
    """The picture as the bytes of a PNG file."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(picture).ellipse((SIDE // 6, SIDE // 6, SIDE * 5 // 6, SIDE * 5 // 6), fill=(220, 30, 30))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return Media(buffer.getvalue(), name="circle.png")
