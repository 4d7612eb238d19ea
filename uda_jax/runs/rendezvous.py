"""Where the processes of a run meet: the options `--coordinator`, `--num-processes` and `--process-id`, checked."""

import socket
from collections.abc import Sequence
from typing import NamedTuple

from uda_jax.errors import UserError

AUTO = "auto"
_DETECTION = 60  # seconds for the cluster to tell where the others are


class Address(NamedTuple):
    """Where the first process listens.

    Attributes:
      host, port: as JAX takes them.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Place(NamedTuple):
    """Which of several processes this one is.

    Attributes:
      address: of the first process.
      count: how many there are.
      index: this one's number, from 0.
      timeout: seconds until all must have come.
      local_device_ids: the devices that are this process's; None = all that it sees.
    """

    address: Address
    count: int
    index: int
    timeout: int
    local_device_ids: Sequence[int] | None = None


def place(coordinator: str | None, count: int | None, index: int | None, timeout: int) -> Place | None:
    """Returns which process this is by the options of the command line; None if it is the only one.

    Raises:
      UserError: options that do not go together, an address without a port, a process beyond the last one.
    """
    given = {"--num-processes": count, "--process-id": index}
    if coordinator is None:
        if set_ := [name for name, value in given.items() if value is not None]:
            raise UserError(
                f"{set_[0]}: expected --coordinator as well, got none; give all three, or none for one process"
            )
        return None
    if coordinator == AUTO:
        if set_ := [name for name, value in given.items() if value is not None]:
            raise UserError(f"{set_[0]}: the cluster says it with --coordinator auto; leave it out")
        return detected(timeout)
    address = _address(coordinator)
    if missing := [name for name, value in given.items() if value is None]:
        raise UserError(f"{missing[0]}: expected a number with --coordinator {coordinator}, got none")
    if count < 1:
        raise UserError(f"--num-processes: expected at least 1, got {count}")
    if not 0 <= index < count:
        raise UserError(f"--process-id: expected 0 to {count - 1}, since there are {count} processes, got {index}")
    return Place(address, count, index, timeout)


def _address(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536 or (":" in host) != ("[" in text):
        raise UserError(f"--coordinator: expected host:port, such as 10.0.0.1:12345, or auto, got '{text}'")
    return Address(host, int(port))


def detected(timeout: int) -> Place:
    """Returns which process this is as the cluster says: a TPU pod, SLURM, Open MPI, Kubernetes.

    Raises:
      UserError: there is no cluster that JAX knows.
    """
    # JAX has no public function for it; what it finds inside `jax.distributed.initialize` is known too late.
    from jax._src import clusters

    find = clusters.ClusterEnv.auto_detect_unset_distributed_params
    address, count, index, local_device_ids = find(None, None, None, None, None, _DETECTION)
    if address is None or count is None or index is None:
        raise UserError(
            "--coordinator auto: found no TPU pod, SLURM or other cluster that JAX knows; give host:port of process 0, "
            "--num-processes and --process-id"
        )
    return Place(_address(address), count, index, timeout, local_device_ids)


def free_port() -> int:
    """Returns a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
