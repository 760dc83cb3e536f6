"""Every key of the main screen: the bindings, and how the help screen words them."""

from __future__ import annotations

from textual.binding import Binding

# action, key, what it does
ACTIONS = (
    ("stop", "escape", "Stop the answer and a watch; leave editing"),
    ("go_on", "ctrl+g", "Let the last answer go on"),
    ("retry", "ctrl+r", "Ask the last question again"),
    ("edit_last", "ctrl+e", "Edit the last question and ask it anew"),
    ("copy_answer", "ctrl+y", "Copy the last answer"),
    ("new", "ctrl+n", "New conversation"),
    ("help", "f1", "Help: all keys"),
    ("sessions", "f2", "Conversations: search, open, rename, delete, export"),
    ("settings", "f3", "Settings"),
    ("bundles", "f4", "Bundles: which model answers"),
    ("restart", "f5", "Start the model's process again"),
    ("log", "f6", "The model's log"),
    ("browse", "ctrl+o", "Files: browse, preview, attach"),
    ("paste_picture", "f10", "Attach the picture in the clipboard"),
    ("example", "f7", "An example picture and a first question"),
    ("video", "f8", "A video's frames: look at them, choose a part and how many"),
    ("webcam", "f9", "Webcam: open or close"),
    ("freeze", "ctrl+f", "Webcam: freeze its picture, or go on"),
    ("quit", "ctrl+q", "Quit"),
)
BINDINGS = [Binding(key, action, text, id=action, priority=True, show=False) for action, key, text in ACTIONS]

TYPING = (
    ("Enter", "Send the question"),
    ("Shift+Enter, Ctrl+J", "New line"),
    ("Up, Down", "Earlier questions"),
    ("Tab", "Complete a path; else to the pictures (Delete takes one off)"),
    ("@path", "Attach this in the question; quotes around spaces"),
    ("/attach PATH", "Attach a picture, video or URL; paste or drop does it too"),
    ("/browse FOLDER", "Choose files in a folder"),
    ("/paste", "Attach the picture in the clipboard"),
    ("/remove N", "Take picture N off while no question has shown it"),
    ("/video N", "Frames of video N; Enter on its card does it too"),
    ("/export FILE", "Write the conversation to FILE.md or FILE.json"),
    ("/webcam SOURCE", "Open camera 0, 1 …, a stream's address or a film; /webcam off"),
    ("/watch 5s TEXT", "Ask this of the webcam again and again; Esc or /watch off ends it"),
    ("/help /new /quit", "As their keys"),
    ("PageUp, PageDown", "Scroll the conversation"),
    ("Ctrl+P", "All commands by name"),
)


def shown(key: str) -> str:
    """A key as people write it."""
    names = {"escape": "Esc"}
    return names.get(key) or "+".join(part.capitalize() for part in key.split("+"))
