"""Memory that is freed stays with the process, so that it is not faulted in again."""

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import os, resource, sys
import numpy as np
from uda_jax.training import allocator
if sys.argv[1] != "plain":
    assert allocator.keep_freed_memory()
if sys.argv[1] == "child":
    os.execv(sys.executable, [sys.executable, "-c", open("/dev/stdin").read(), "plain"])
for _ in range(20):
    np.empty(2**24, np.float32).fill(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_memory_is_not_faulted_in_again():
    # A command that ran in this process has told its children, too.
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    faults = {
        setting: int(
            subprocess.run(
                [sys.executable, "-c", CODE, setting], input=CODE.encode(), env=bare, capture_output=True, check=True
            ).stdout
        )
        for setting in ("plain", "keep", "child")
    }
    # How many pages 64 MB are depends on the kernel's huge pages, and importing NumPy costs a few thousand; but they
    # are faulted in once, instead of twenty times.
    assert faults["plain"] > 1.5 * faults["keep"]
    assert faults["plain"] > 1.5 * faults["child"], "a process started afterwards keeps its memory, too"
