"""Numbers below float32's normal range as 0, for a while and for one thread.

Processors of Intel take a hundred times as long for them.  The first layer of a vision encoder has some in its
attention, where probabilities fade out: an eighth of all of a picture's time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from dclocal.machine import linux_on_x86_64

CONTROL, BITS = 28, 0x8040
"""Of x86-64's floating-point environment, as Linux has it: where SSE's control word stands, and its bits that have
results and operands be 0."""
SIZE = 32


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """This thread's, from here to the end; nothing but that on other machines than Linux on x86-64."""
    if not linux_on_x86_64():
        yield
        return
    process, before = ctypes.CDLL(None), (ctypes.c_ubyte * SIZE)()
    process.fegetenv(before)
    within = (ctypes.c_ubyte * SIZE)(*before)
    control = ctypes.c_uint32.from_buffer(within, CONTROL)
    control.value |= BITS
    process.fesetenv(within)
    try:
        yield
    finally:
        process.fesetenv(before)
