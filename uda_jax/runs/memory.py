"""Whether a run fits into memory: what this machine or its accelerators have, and what a training step takes."""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from uda_jax.errors import UserError
from uda_jax.training.sharding import FSDP

# What comes to a process after its step is compiled, besides the arrays of that: the program that makes the first
# state, data that is read ahead, and buffers of the libraries that are loaded last.
BESIDES = 200_000_000

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = Path("/sys/fs/cgroup")
_STATM = Path("/proc/self/statm")
_OWN_CGROUP = Path("/proc/self/cgroup")


class Room(NamedTuple):
    """What is there for a step.

    Attributes:
      size: bytes that are free.
      where: of what, for messages.
    """

    size: int
    where: str


def room() -> Room | None:
    """Returns the free memory of each of this process's accelerators, or of the machine for all its CPU devices.

    Returns:
      None where neither tells.
    """
    if jax.default_backend() == "cpu":
        return machine_room()
    stats = [device.memory_stats() for device in jax.local_devices()]
    if not all(found and "bytes_limit" in found for found in stats):
        return None
    free = min(found["bytes_limit"] - found.get("bytes_in_use", 0) for found in stats)
    return Room(free, f"each {jax.local_devices()[0].device_kind}")


def machine_room() -> Room | None:
    """Returns the memory that this process may still take: what the machine has free, or its control group allows."""
    found = [Room(size, "its control group") for size in _cgroup_rooms()]
    with contextlib.suppress(OSError, KeyError, ValueError):
        rows = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        found.append(Room(1024 * int(rows["MemAvailable"].split()[0]), "this machine"))
    return min(found, default=None)


def _cgroup_rooms() -> Iterator[int]:
    """Yields the bytes left in this process's control groups that have a limit, from the innermost outwards."""
    with contextlib.suppress(OSError):
        for line in _OWN_CGROUP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                yield from _rooms(_CGROUPS / controllers, path)


def _rooms(root: Path, path: str) -> Iterator[int]:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    if root == _CGROUPS:
        names = ("memory.max", "memory.current")
    inner = root / path.strip("/")
    for folder in (inner, *inner.parents):
        # Inside a container its own group is the root, whatever the path says.
        with contextlib.suppress(OSError, ValueError):
            limit, used = (int((folder / name).read_text()) for name in names)
            yield max(limit - used + _reclaimable(folder), 0)
        if folder == root:
            return


def _reclaimable(folder: Path) -> int:
    """Returns the bytes of files that the kernel would drop first, which count as used."""
    with contextlib.suppress(OSError, ValueError):
        rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(rows.get("inactive_file", rows.get("total_inactive_file", 0)))
    return 0


def resident() -> int:
    """Returns the bytes of this process that lie in memory; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError):
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def process_peak(peak: int, local_devices: int) -> int:
    """Returns the largest size that a process on a CPU is going to have, in bytes.

    What it has right after compiling, Python, its libraries and the compiler's remains, is measured; the C library
    keeps it (see `training.allocator`). To that come the step's arrays on every device, and what `BESIDES` is for.

    Args:
      peak: of the step on each device, in bytes.
      local_devices: of this process, which all lie in the machine's memory.
    """
    return resident() + local_devices * peak + BESIDES


def check(stage: Any, peak: int, experiment: Any) -> None:
    """Raises a UserError with the remedies if a training step does not fit that is compiled and has no arrays yet.

    Args:
      stage: the `stages.Stage`.
      peak: of its step on each device, in bytes.
      experiment: the run's.
    """
    found, devices, on_cpu = room(), jax.local_device_count(), jax.default_backend() == "cpu"
    # What the process has by now is no longer free.
    size = devices * peak + BESIDES if on_cpu else peak
    if found is None or size <= found.size:
        return
    among = f" for {devices} devices" if on_cpu and devices > 1 else ""
    raise UserError(
        f"stage {stage.name}: a training step takes {size / 1e9:.1f} GB of memory{among}, and {found.where} has "
        f"{found.size / 1e9:.1f} GB left; {remedies(stage, experiment)}; --ignore-memory starts it all the same"
    )


def remedies(stage: Any, experiment: Any) -> str:
    """Returns the fields that make a step of a stage smaller, with what they are now."""
    section = experiment.stages[stage.name] if experiment.stages else None
    where = {
        field: f"config.stages.{stage.name}.{field}" if section and getattr(section, field) else f"config.{field}"
        for field in ("method", "data", "train")
    }
    found = [_smaller_images(stage.domains, where["data"])]
    if stage.train.batch_size > jax.device_count():
        found.append(f"lower {where['train']}.batch_size ({stage.train.batch_size}; .accumulation makes up for it)")
    found.append(f"take a smaller network ({where['method']}.segmenter.name, .width)")
    if jax.device_count() > 1 and stage.train.sharding != FSDP:
        found.append(f"set {where['train']}.sharding={FSDP}")
    if jax.default_backend() != "cpu":
        # On the CPU XLA undoes what is recomputed, and bfloat16 is converted back.
        if stage.train.precision != "bf16":
            found.append(f"set {where['train']}.precision=bf16")
        if getattr(getattr(stage.method, "segmenter", None), "remat", None) in (False, ()):
            found.append(f"set {where['method']}.segmenter.remat=all")
    return " or ".join(found)


def _smaller_images(domains: Mapping[str, Any], path: str) -> str:
    """Names the field that decides the size of the largest images."""
    area = lambda domain: math.prod(domain.crop or domain.size or (0,))  # noqa: E731
    name = max(domains, key=lambda name: area(domains[name]))
    field = "crop" if domains[name].crop else "size"
    size = getattr(domains[name], field)
    return f"lower {path}.{name}.{field} ({'x'.join(map(str, size)) if size else 'None, as the files are'})"
