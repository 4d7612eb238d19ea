"""The command `uda plan`, and the same told by `uda train --plan`: what a run will take, before it starts."""

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from uda_jax.cli.console import report, show
from uda_jax.cli.environment import at_least, prepare_jax, say_that_it_starts
from uda_jax.errors import UserError

PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}
_FORCED = "xla_force_host_platform_device_count"


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command by `command(name, run, text)`, which returns a command's parser."""
    plan = command(
        "plan", _plan, "tell what a config will take: parameters, operations, memory, time", takes_overrides=True
    )
    plan.add_argument("config", nargs="?", help="advent:streets, or path/to/file.py:setting")
    plan.add_argument("--config", dest="named", metavar="CONFIG", help="the same, as uda train has it")
    plan.add_argument("--devices", type=at_least(1), help="how many devices; by default those that are there")
    plan.add_argument("--platform", choices=PLATFORMS, help="what they are; by default what is there")
    plan.add_argument("--tflops", type=float, help="what each device sustains, in TFLOP/s, for the time")
    plan.add_argument("--classes", type=at_least(2), help="classes of data that is not there to tell them (19)")
    plan.add_argument("--json", action="store_true", help="print JSON instead")


class Topology(NamedTuple):
    """What a run is planned for: how many devices, and a key of `PLATFORMS`; None is what is there."""

    devices: int | None = None
    platform: str | None = None


PRESENT = Topology()


def _plan(options: argparse.Namespace) -> int:
    if (options.config is None) == (options.named is None):
        raise UserError("uda plan: expected one config, such as uda plan advent:streets")
    topology = Topology(options.devices, options.platform)
    given = {"tflops": options.tflops, "classes": options.classes, "as_json": options.json}
    return tell(options.config or options.named, options.overrides, topology, **given)


def tell(
    reference: str,
    overrides: Sequence[str],
    topology: Topology = PRESENT,
    *,
    tflops: float | None = None,
    classes: int | None = None,
    as_json: bool = False,
) -> int:
    """Prints the plan of every stage that trains; returns the status of the command.

    Args:
      reference: of the config.
      overrides: words such as "--config.train.steps=100".
      topology: devices and platform.
      tflops: what each device sustains, in TFLOP/s; None = a guess, which is said.
      classes: how many there are if the data is not there to tell.
      as_json: whether to print JSON instead of lines.

    Raises:
      UserError: a mistake in the config, or devices that do not share its batches evenly.
    """
    if tflops is not None and not tflops > 0:
        raise UserError(f"--tflops: expected a number above 0, got {tflops:g}")
    say_that_it_starts(f"plan {reference}")
    prepare_jax()
    from uda_jax import config
    from uda_jax.config import machine
    from uda_jax.runs import plan, stages

    mesh, platform = _mesh(topology)
    with machine.assumed(topology.platform != "cpu") if topology.platform else contextlib.nullcontext():
        experiment = config.experiment(config.load(reference, overrides))
    count, assumed = plan.classes(experiment, classes)
    found = []
    for stage in stages.recipe(experiment, count):
        if stage.kind.TRAINS:
            plan.check_batch(stage, mesh.size)
            found.append(plan.of_stage(stage, plan.batch_before_data(stage), mesh, platform)[0])
    rates = [(tflops, "--tflops") if tflops else plan.default_tflops(each.platform, each.devices) for each in found]
    if assumed:
        report(f"note: {count} classes are assumed, which only the data tells; give --classes if there are others")
    if as_json:
        entries = [each.to_json(rate) for each, (rate, _) in zip(found, rates, strict=True)]
        show(
            json.dumps(
                {"config": reference, "overrides": list(overrides), "classes": count, "stages": entries}, indent=1
            )
        )
        return 0
    for each, rate in zip(found, rates, strict=True):
        show("\n".join(plan.lines(each, *rate)))
    return 0


def _mesh(topology: Topology) -> tuple[Any, str | None]:
    """Returns the mesh, and the platform if the step can only be lowered for it; chooses devices before any is used."""
    import jax

    from uda_jax.training import sharding

    wanted = PLATFORMS.get(topology.platform)
    if wanted == "cpu":
        jax.config.update("jax_platforms", "cpu")
    if topology.devices and wanted in (None, "cpu"):
        _force_cpu_devices(topology.devices)
    if wanted not in (None, "cpu") and jax.default_backend() != wanted:
        return sharding.abstract_mesh(topology.devices or 1), wanted
    devices = topology.devices or jax.device_count()
    if devices > jax.device_count():
        return sharding.abstract_mesh(devices), jax.default_backend()
    return sharding.data_mesh(devices), None


def _force_cpu_devices(devices: int) -> None:
    """Makes a machine's CPU as many devices; no device may have been used yet."""
    import jax

    if _FORCED in os.environ.get("XLA_FLAGS", ""):
        raise UserError(f"--devices: XLA_FLAGS has {_FORCED} already; leave one of them out")
    try:
        jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError as error:
        if jax.device_count() < devices:
            raise UserError(f"--devices: {' '.join(str(error).split())}; use another process") from None
