"""How the C library keeps memory, which costs a good part of a training step on a CPU.

glibc hands large blocks back to the kernel as soon as they are free and gives each thread an arena of its own that
does the same, so that every step faults in the pages of all its activations again. Keeping one arena and what it has
got brought the steps of source-only, MinEnt and AdvEnt on streets to 0.80, 0.80 and 0.89 of their time in one run of
`python -m benchmarks.allocator --repeats 1` on two shared cores; the price is that a process keeps the memory of its
largest moment.
"""

import ctypes
import sys

# Parameters of mallopt, from glibc's malloc.h, and their values.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_SETTINGS = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 256 * 2**20))


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next step; call it before threads are started.

    Returns:
      Whether the C library took it; it does nothing elsewhere than on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*setting) == 1 for setting in _SETTINGS)
