"""What widgets tell the screen above them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:
    from dclocal.webcam_messages import Said


class Submitted(Message):
    """The user sends what is typed."""

    def __init__(self, text: str):
        self.text = text
        super().__init__()


class PathsPasted(Message):
    """Media files were pasted, or dropped on the terminal."""

    def __init__(self, paths: list[str]):
        self.paths = paths
        super().__init__()


class RemoveWanted(Message):
    """The user wants a medium taken off."""

    def __init__(self, number: int):
        self.number = number
        super().__init__()


class FramesWanted(Message):
    """The user wants to see a video's frames."""

    def __init__(self, number: int):
        self.number = number
        super().__init__()


class FragmentChanged(Message):
    """A path is being typed, None: it is not any more."""

    def __init__(self, fragment: str | None):
        self.fragment = fragment
        super().__init__()


class CameraSaid(Message):
    """A camera's process says something; `camera` counts the cameras that were opened."""

    def __init__(self, camera: int, said: Said):
        self.camera, self.said = camera, said
        super().__init__()
