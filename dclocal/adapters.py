"""LoRA adapters at run time: GGUF files beside the language model, loaded, scaled and switched.

W becomes W + scale · (alpha / rank) · B·A for every matrix that an adapter names.  `choose` reads what a user
asked for; `Adapters` is the state of one llama.cpp context; `switch` changes a running session.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from dclocal.errors import BundleError, UserError
from dclocal.manifest import MAX_SCALE, AdapterSpec

if TYPE_CHECKING:
    from dclocal.chat import ChatSession
    from dclocal.llama_context import Context

NONE = "none"


def default_scales(known: Sequence[AdapterSpec]) -> dict[str, float]:
    """Every adapter at the manifest's scale."""
    return {adapter.name: adapter.scale for adapter in known}


def choose(known: Sequence[AdapterSpec], wanted: Sequence[str]) -> dict[str, float]:
    """Scales by name of exactly what is `wanted`: NAME=SCALE, NAME at its own scale (1 if that is 0), or "none" alone.

    Raises UserError for an unknown name (listing the known ones), a name given twice, or a scale that is none.
    """
    if NONE in wanted:
        if len(wanted) > 1:
            raise UserError("none stands beside other adapters", "give none alone, or the adapters")
        return {}
    defaults, chosen = default_scales(known), dict[str, float]()
    for word in wanted:
        name, equals, text = word.partition("=")
        if name not in defaults:
            names = ", ".join(defaults) or "this model has none"
            raise UserError(f"there is no adapter {name!r:.80}", f"known: {names}")
        if name in chosen:
            raise UserError(f"the adapter {name} is given twice", "give it once")
        chosen[name] = _scale(text, name) if equals else defaults[name] or 1.0
    return chosen


def _scale(text: str, name: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not abs(scale) <= MAX_SCALE:
        raise UserError(
            f"the scale {text!r:.40} of {name} is not a number from {-MAX_SCALE:g} to {MAX_SCALE:g}",
            f"write {name}=1 for the adapter as it was trained",
        )
    return scale


@runtime_checkable
class Adaptable(Protocol):
    """What `switch` needs of `llm.LLM`."""

    @property
    def adapters(self) -> Mapping[str, float]: ...
    def use_adapters(self, scales: Mapping[str, float]) -> None: ...


def switch(session: ChatSession, wanted: Sequence[str]) -> Mapping[str, float]:
    """Make a session run with exactly the `wanted` adapters; nothing wanted leaves it as it is.

    Returns the scales in use.  Raises UserError as `choose` does, and for a model that takes no adapters.
    """
    if not isinstance(session.llm, Adaptable):
        raise UserError("this model takes no adapters", "export it with --lora separate")
    if wanted:
        session.llm.use_adapters(choose(session.bundle.manifest.adapters, wanted))
    return session.llm.adapters


class Adapters:
    """The adapters of one context: each file is loaded when it is first used and lives as long as the model.

    `scales` holds those in use, by name; one at scale 0 is not in use.
    """

    def __init__(self, model: Any, context: Context, files: Mapping[str, Path]):
        self._model, self._context, self._files = model, context, files
        self._loaded: dict[str, Any] = {}
        self._settled = True
        self.scales: dict[str, float] = {}

    def load(self, scales: Mapping[str, float]) -> bool:
        """Load what is not loaded yet; returns whether `switch` to these scales would change anything.

        Raises BundleError for a name that is not among the files, or a file that does not fit the model.
        """
        for name, scale in scales.items():
            if name not in self._files:
                names = ", ".join(self._files) or "this model has none"
                raise BundleError(f"there is no adapter {name!r}", f"known: {names}")
            if scale and name not in self._loaded:
                self._loaded[name] = self._load(name, self._files[name])
        return not self._settled or _in_use(scales) != self.scales

    def switch(self, scales: Mapping[str, float]) -> None:
        """Set these scales and no others on the context; interrupted, the next `load` says that it must be done."""
        from dclocal.llama_api import llama  # as in `_load`

        used = _in_use(scales)
        pointers = (llama.llama_adapter_lora_p_ctypes * len(used))(
            *(ctypes.cast(self._loaded[name], llama.llama_adapter_lora_p_ctypes) for name in used)
        )
        values = (ctypes.c_float * len(used))(*used.values())
        self._settled = False
        status = llama.llama_set_adapters_lora(self._context.pointer, pointers, len(used), values)
        if status:
            raise RuntimeError(f"llama.cpp could not set {len(used)} adapters (status {status})")
        self.scales, self._settled = used, True

    def renew(self) -> None:
        """Set them again: the context was made anew."""
        if self.scales:
            self.switch(self.scales)

    def _load(self, name: str, file: Path) -> Any:
        from dclocal.llama_api import llama  # `choose` and a bundle's list need no runtime
        from dclocal.llama_log import capture_log, run_logging

        if not file.is_file():
            raise BundleError(f"the adapter {name} has no file {file}", "remove the bundle and pull it again")
        adapter = run_logging(llama.llama_adapter_lora_init, self._model, os.fsencode(file))
        if not adapter:
            reasons = capture_log().errors
            raise BundleError(
                f"the adapter {name} does not fit this language model: {reasons[0] if reasons else 'no reason given'}",
                "use the adapter with the model that it was trained on",
            )
        return adapter


def _in_use(scales: Mapping[str, float]) -> dict[str, float]:
    return {name: scale for name, scale in scales.items() if scale}
