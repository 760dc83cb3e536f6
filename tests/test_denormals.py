"""What a user of one of Intel's processors would wait for, and nobody else should notice."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dclocal.bundle import Bundle
from dclocal.denormals import denormals_as_zero
from dclocal.machine import linux_on_x86_64
from dclocal.vision import VisionEncoder
from dclocal.vision_kernels import register

pytestmark = pytest.mark.skipif(not linux_on_x86_64(), reason="it is for Linux on x86-64")
TINY = np.float32([1e-40])


def flushed() -> bool:
    return bool((TINY * np.float32(0.5))[0] == 0)


def test_they_are_zero_within_and_for_this_thread_alone() -> None:
    others: list[bool] = []
    begin, end = threading.Event(), threading.Event()

    def other() -> None:
        begin.wait()
        others.append(flushed())
        end.set()

    threading.Thread(target=other).start()
    assert not flushed()
    with pytest.raises(KeyError), denormals_as_zero():
        assert flushed()
        begin.set()
        end.wait()
        raise KeyError
    assert not flushed() and others == [False]


@pytest.mark.bundle
def test_an_encoder_leaves_them_to_others_and_tokens_as_they_are(bundle: Bundle) -> None:
    import onnxruntime

    size = bundle.manifest.vision.image.size
    pixels = np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)
    encoder = VisionEncoder(bundle)
    assert not flushed()
    found = encoder.encode(pixels)
    assert not flushed()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    register(options)
    session = onnxruntime.InferenceSession(str(bundle.vision_path), options, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(found, session.run(None, {"pixels": pixels})[0], atol=1e-6)
