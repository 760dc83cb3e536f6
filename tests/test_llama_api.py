"""How llama.cpp's C functions are imported, in processes of their own: what that leaves behind, and what it sets."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

IMPORT = """
import ctypes, os, sys
from dclocal import llama_api
print("typing_extensions" in sys.modules, "llama_cpp" in sys.modules, os.environ.get("GOMP_SPINCOUNT"), flush=True)
show = getattr(llama_api.llama._lib, "omp_display_env", None)
if show is not None:
    show(1)
"""


@pytest.mark.parametrize(
    ("said", "spins"),
    [({}, 5000), ({"GOMP_SPINCOUNT": "77"}, 77), ({"OMP_WAIT_POLICY": "PASSIVE"}, 0)],
)
def test_threads_spin_for_a_short_time_unless_the_user_says_otherwise(said: dict[str, str], spins: int) -> None:
    unsaid = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = {**unsaid, **said}
    ended = subprocess.run([sys.executable, "-c", IMPORT], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [
        "False",
        "False",
        str(said.get("GOMP_SPINCOUNT")),
    ]
    if "GOMP_SPINCOUNT" not in ended.stderr:
        pytest.skip("this OpenMP is not GCC's")
    assert f"GOMP_SPINCOUNT = '{spins}'" in ended.stderr
