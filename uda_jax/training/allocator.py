"""How the C library keeps memory, which costs a good part of a training step on a CPU.

glibc hands large blocks back to the kernel as soon as they are free and gives each thread an arena of its own that
does the same, so that every step faults in the pages of all its activations again. Keeping one arena and what it has
got brought the steps of source-only, MinEnt and AdvEnt on streets to 0.80, 0.80 and 0.89 of their time in one run of
`python -m benchmarks.allocator --repeats 1` on two shared cores; the price is that a process keeps the memory of its
largest moment.
"""

import ctypes
import os
import sys

# Parameters of mallopt, from glibc's malloc.h, with their values; and the variables by which a new process takes them.
_SETTINGS = (
    (-8, "MALLOC_ARENA_MAX", 1),
    (-4, "MALLOC_MMAP_MAX_", 0),
    (-1, "MALLOC_TRIM_THRESHOLD_", 2**31 - 1),
    (-2, "MALLOC_TOP_PAD_", 256 * 2**20),
)


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next step; call it before threads are started.

    Processes that are started from now on, such as those that decode frames, do so too.

    Returns:
      Whether the C library took it; it does nothing elsewhere than on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not all(mallopt(parameter, value) == 1 for parameter, _, value in _SETTINGS):
        return False
    for _, variable, value in _SETTINGS:
        os.environ.setdefault(variable, str(value))
    return True
