"""ONNX Runtime session over `vision.onnx`: normalised pixels to embeddings in the LLM's space."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dclocal.bundle import Bundle
from dclocal.denormals import denormals_as_zero
from dclocal.errors import BundleError
from dclocal.machine import usable_cores
from dclocal.vision_kernels import register

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

INPUT, OUTPUT = "pixels", "embeds"
PROCESSOR = "CPUExecutionProvider"
PREFERRED_PROVIDERS = ("CUDAExecutionProvider", PROCESSOR)
GPU_BATCH, CPU_BATCH = 8, 2
"""Pictures at a time.  On a processor more are no faster (77 ms each of four, 81 one), and hold 100 MB each."""


class VisionEncoder:
    """Encodes pictures, also for several threads at once.  `providers` are those that ONNX Runtime took,
    `encoded_images` counts its work.

    Raises BundleError where the graph cannot be loaded, has other inputs or outputs, or gives another shape than
    the manifest says.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None):
        self._bundle, self._threads = bundle, threads or usable_cores()
        self._session, self._ours = _open(bundle, self._threads)
        _check_names("inputs", self._session.get_inputs(), INPUT)
        _check_names("outputs", self._session.get_outputs(), OUTPUT)
        self._vision = bundle.manifest.vision
        self.providers: list[str] = self._session.get_providers()
        self.encoded_images = 0
        self._counting = threading.Lock()
        self._batch = CPU_BATCH if self.providers[0] == PROCESSOR else GPU_BATCH

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """float32 `[n, 3, size, size]` to float32 `[n, tokens, n_embd]`."""
        if not len(pixels):
            return np.zeros((0, self._vision.tokens, self._vision.n_embd), np.float32)
        runs = [self._run(pixels[start : start + self._batch]) for start in range(0, len(pixels), self._batch)]
        return runs[0] if len(runs) == 1 else np.concatenate(runs)

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        with denormals_as_zero():
            embeds = self._embeds(pixels)
        expected = (len(pixels), self._vision.tokens, self._vision.n_embd)
        if embeds.shape != expected:
            raise BundleError(
                f"vision.onnx gave shape {embeds.shape}, the manifest says {expected}", "pull the bundle again"
            )
        with self._counting:
            self.encoded_images += len(pixels)
        return embeds

    def _embeds(self, pixels: np.ndarray) -> np.ndarray:
        try:
            embeds: np.ndarray = self._session.run([OUTPUT], {INPUT: pixels})[0]
        except Exception:  # of ours are made for no such shapes, which nothing but a run tells
            if not self._ours:
                raise
            self._session, self._ours = _open_without(self._bundle, self._threads), False
            embeds = self._session.run([OUTPUT], {INPUT: pixels})[0]
        return embeds


def _open(bundle: Bundle, threads: int) -> tuple[InferenceSession, bool]:
    """With operators of ours, or where these are not made for the graph, without; and whether with."""
    options = _options(threads)
    if _providers()[0] == PROCESSOR and register(options):
        try:
            return _session(bundle, options), True
        except Exception:  # ONNX Runtime's errors share no base class of their own; what is wrong is said below
            pass
    return _open_without(bundle, threads), False


def _open_without(bundle: Bundle, threads: int) -> InferenceSession:
    try:
        return _session(bundle, _options(threads))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(
            f"{bundle.vision_path} cannot be loaded: {reason}", "remove the bundle and pull it again"
        ) from error


def _options(threads: int) -> SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # it holds a second block for all that a run needs
    # Threads that waited for another picture would take the cores from the language model, which comes next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")  # in its own threads; see `_run`
    return options


def _session(bundle: Bundle, options: SessionOptions) -> InferenceSession:
    import onnxruntime

    with denormals_as_zero():  # what ONNX Runtime sets in this thread, too, ends here
        return onnxruntime.InferenceSession(str(bundle.vision_path), options, providers=_providers())


def _providers() -> list[str]:
    import onnxruntime

    known = onnxruntime.get_available_providers()
    return [provider for provider in PREFERRED_PROVIDERS if provider in known]


def _check_names(kind: str, found: Sequence[Any], expected: str) -> None:
    names = [value.name for value in found]
    if names != [expected]:
        raise BundleError(f"vision.onnx has {kind} {names}, expected {[expected]}", "pull or export the bundle again")
