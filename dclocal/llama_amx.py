"""llama.cpp without AMX, Intel's matrix tiles.

Compilers drop the configuration of the tiles that llama.cpp writes (its issue 20824), so that the first product on a
processor that has them ends the process; and where they don't, ONNX Runtime and llama.cpp take the same tiles of one
thread each for its own.  llama.cpp has no switch for AMX alone.  But once in a process it asks the system whether it
may use it, and if the answer is no, it takes the layouts that other processors have, with which it is 1.5 times as
fast as with none.
"""

from __future__ import annotations

import ctypes
import errno
import threading
from functools import lru_cache

from dclocal.llama_api import ggml, ggml_function
from dclocal.machine import linux_on_x86_64

AMX = b"AMX"
CPU_DEVICE = 0
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2
"""Of Linux's prctl: what a filter needs first, that one is to be set, and that it is a program."""
WRITE, STDERR, ARCH_PRCTL, ASK_FOR_FEATURE = 1, 2, 158, 0x1023
"""System calls of x86-64 and the first arguments by which they are refused."""
NUMBER, FIRST_ARGUMENT = 0, 16  # offsets in what a filter sees
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
REFUSE, ALLOW = 0x00050000 | errno.EPERM, 0x7FFF0000


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("value", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


@lru_cache(1)
def takes_amx() -> bool:
    """Whether llama.cpp would put weights into AMX's layout in this process, after it was kept from that where it can
    be; those are to be loaded without any layout of their own then."""
    has_amx = getattr(ggml(), "ggml_cpu_has_amx_int8", None)  # Windows' builds have no AMX, and another library
    if has_amx is None or not has_amx():
        return False
    layouts = [AMX]  # until it is known

    def ask() -> None:
        if linux_on_x86_64():
            _refuse_amx()
        layouts[:] = _layouts()

    asking = threading.Thread(target=ask, name="llama.cpp's layouts")  # what it is refused, no other thread is
    asking.start()
    asking.join()
    return AMX in layouts


def _layouts() -> list[bytes]:
    """The names of llama.cpp's layouts of weights beside the file's own; it makes this list once."""
    pointer = ctypes.c_void_p
    device = ggml_function("ggml_backend_dev_by_type", pointer, ctypes.c_int)(CPU_DEVICE)
    registry = ggml_function("ggml_backend_dev_backend_reg", pointer, pointer)(device)
    look_up = ggml_function("ggml_backend_reg_get_proc_address", pointer, pointer, ctypes.c_char_p)
    address = look_up(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return []
    found = ctypes.CFUNCTYPE(ctypes.POINTER(pointer), pointer)(address)(device)
    name = ggml_function("ggml_backend_buft_name", ctypes.c_char_p, pointer)
    names: list[bytes] = []
    while found and found[len(names)]:
        names.append(name(found[len(names)]))
    return names


def _refuse_amx() -> None:
    """Have the system refuse AMX to this thread from now on, and the line on stderr that llama.cpp has for that."""
    steps = (
        (LOAD, 0, 0, NUMBER),
        (EQUAL, 0, 3, WRITE),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (EQUAL, 4, 0, STDERR),
        (RETURN, 0, 0, ALLOW),
        (EQUAL, 0, 3, ARCH_PRCTL),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (EQUAL, 0, 1, ASK_FOR_FEATURE),
        (RETURN, 0, 0, REFUSE),
        (RETURN, 0, 0, ALLOW),
    )
    program = _Program(len(steps), (_Instruction * len(steps))(*(_Instruction(*step) for step in steps)))
    prctl = ctypes.CDLL(None).prctl
    prctl(NO_NEW_PRIVILEGES, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
    prctl(SECCOMP, ctypes.c_ulong(FILTER), ctypes.byref(program))
