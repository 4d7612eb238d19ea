"""What a training stage will take, known before it starts: parameters, operations, memory, communication, time.

The step is traced and compiled on shapes and types alone; neither data nor weights need be there. `uda plan` prints
what is found, `uda train` prints it before its first step and runs the very program that was compiled for it.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax

from uda_jax.config import Experiment
from uda_jax.data.pipeline import expected
from uda_jax.data.pipeline.domains import open_domain
from uda_jax.data.pipeline.examples import Shapes
from uda_jax.errors import UserError
from uda_jax.methods.parts import adapted
from uda_jax.runs import memory, states
from uda_jax.runs.instruments import MethodStep, TrainStep, parameter_counts
from uda_jax.runs.late_files import needs_workdir
from uda_jax.runs.stages import Stage
from uda_jax.runs.workdir import Workdir
from uda_jax.training import programs, sharding

# Sustained in float32, in TFLOP/s: about what a good desktop GPU does, and each core of the machine that README's
# figures are from.
ACCELERATOR_TFLOPS, CORE_TFLOPS = 10.0, 0.135
# Those of Cityscapes, where nothing tells how many there are.
USUAL_CLASSES = 19


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """What one stage takes.

    Attributes:
      stage: its name.
      steps: batches that it trains on.
      batch: domain -> [frames of a global batch, height, width].
      platform: "cpu", "gpu" or "tpu".
      devices: how many.
      parameters: network -> number of its parameters.
      state_bytes: of the whole state, which every device holds unless it is split.
      device_state_bytes: of what of it lies on each device.
      checkpoint_bytes: of a checkpoint, which is the state without frozen networks.
      gradient_bytes: of the parameters that learn: what devices have to sum at least.
      process_bytes: the largest size that a process which trains on this machine's CPU will have; None elsewhere.
      costs: of a step.
      compile_seconds: what tracing and compiling took; None if the step was only lowered.
    """

    stage: str
    steps: int
    batch: Mapping[str, list[int]]
    platform: str
    devices: int
    parameters: Mapping[str, int]
    state_bytes: int
    device_state_bytes: int
    checkpoint_bytes: int
    gradient_bytes: int
    process_bytes: int | None
    costs: programs.Costs
    compile_seconds: float | None

    def hours(self, tflops: float) -> float:
        """Returns how long all steps take where each device sustains so many TFLOP/s."""
        return self.steps * self.costs.operations / (1e12 * tflops * self.devices) / 3600

    def to_json(self, tflops: float) -> dict[str, Any]:
        """Returns all of it as plain values, with the peak of memory and the hours."""
        plain = dataclasses.asdict(self)
        taken = self.costs.memory
        plain |= plain.pop("costs")
        plain["memory"] = taken and dataclasses.asdict(taken) | {"peak": taken.peak}
        return plain | {"tflops": tflops, "hours": self.hours(tflops)}


def of_stage(stage: Stage, batch: Any, mesh: Any, platform: str | None = None) -> tuple[StagePlan, TrainStep]:
    """Returns what a stage takes, and its step, which is compiled unless a platform is named.

    Args:
      stage: one that trains.
      batch: from `batch_of`.
      mesh: the device mesh; with a platform, an abstract one will do.
      platform: a key of `ops.platform.LOWERING`: the step is lowered for it, and what only a compiler knows is None.
    """
    state = states.abstract(stage, mesh)
    step = TrainStep(MethodStep(stage.method), state, mesh)
    costs = step.compile(batch) if platform is None else step.lower(batch, platform)
    on_cpu = platform is None and jax.default_backend() == "cpu"
    found = StagePlan(
        stage=stage.name,
        steps=stage.train.steps,
        batch={name: list(maps["image"].shape[:3]) for name, maps in batch.items()},
        platform=platform or jax.default_backend(),
        devices=mesh.size,
        parameters=parameter_counts(state.params),
        state_bytes=programs.tree_bytes(state),
        device_state_bytes=sharding.bytes_per_device(state),
        checkpoint_bytes=programs.tree_bytes(adapted.apart(state).replace(frozen={})),
        gradient_bytes=programs.tree_bytes(state.params),
        process_bytes=memory.process_peak(costs.memory.peak, len(mesh.local_devices)) if on_cpu else None,
        costs=costs,
        compile_seconds=step.compile_seconds,
    )
    return found, step


def classes(experiment: Experiment, otherwise: int | None) -> tuple[int, bool]:
    """Returns how many classes a run's data has, and whether that is an assumption.

    Args:
      experiment: the validated config.
      otherwise: the number where neither the config nor such data as is there tells it; None = `USUAL_CLASSES`.

    Raises:
      UserError: a section names an unknown data set or protocol; data that is there cannot be opened.
    """
    section = experiment.evaluation
    sections = {section.path("final", name): domain for name, domain in section.splits("final").items()}
    for stage in (experiment, *(experiment.stages or {}).values()):
        sections |= {f"config.data.{name}": domain for name, domain in (stage.data or {}).items()}
    for path, domain in sections.items():
        if (space := expected.announced(domain, path).label_space) is not None and space.names:
            return len(space.names), False
    for path, domain in sections.items():
        if expected.is_there(domain) and "label" in domain.fields and not needs_workdir(domain):
            return len(open_domain(domain, path).label_space.names), False
    return otherwise or USUAL_CLASSES, otherwise is None


def check_batch(stage: Stage, devices: int) -> None:
    """Raises a UserError unless the devices share the batches of a stage evenly."""
    sharding.check_batch_size(stage.train.batch_size, "config.train.batch_size", devices)


def batch_of(shapes: Mapping[str, Shapes], size: int) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Returns the shapes and types of a global batch of `size` frames of each domain."""
    arrays = expected.batch_arrays(shapes, size)
    return {
        name: {field: jax.ShapeDtypeStruct(*array) for field, array in maps.items()} for name, maps in arrays.items()
    }


def announced_batch(stage: Stage) -> Any | None:
    """Returns the batch of a stage as its config tells it; None where only files tell the size of frames.

    Raises:
      UserError: a section that names an unknown data set or protocol.
    """
    shapes = {name: expected.from_config(domain, f"config.data.{name}") for name, domain in stage.domains.items()}
    return None if None in shapes.values() else batch_of(shapes, stage.train.batch_size)


def batch_before_data(stage: Stage) -> Any:
    """Returns the batch of a stage from its config and, where that does not tell, from such data as is there.

    Raises:
      UserError: a section names an unknown data set, or frames keep a size that cannot be looked up.
    """
    shapes = {}
    for name, domain in stage.domains.items():
        path = f"config.data.{name}"
        shapes[name] = expected.from_config(domain, path)
        if shapes[name] is None and expected.is_there(domain) and not needs_workdir(domain):
            shapes[name] = expected.from_data(domain, path)
        if shapes[name] is None:
            raise UserError(
                f"{path}.size: expected a size or a crop, since frames keep their own size and '{domain.root}' is not "
                "there to look it up; set one, or the root"
            )
    return batch_of(shapes, stage.train.batch_size)


def batch_from_data(stage: Stage, workdir: Workdir) -> Any:
    """Returns the batch of a stage as its data has it, which must be there.

    Raises:
      UserError: as `expected.from_data`.
    """
    domains = stage.domains_in(workdir)
    shapes = {name: expected.from_data(domain, f"config.data.{name}") for name, domain in domains.items()}
    return batch_of(shapes, stage.train.batch_size)


def default_tflops(platform: str, devices: int) -> tuple[float, str]:
    """Returns what each device is taken to sustain, in TFLOP/s, and why."""
    if platform != "cpu":
        return ACCELERATOR_TFLOPS, "a guess for a desktop GPU, set --tflops"
    cores = os.cpu_count() or 1
    return CORE_TFLOPS * cores / devices, f"{cores} cores at {CORE_TFLOPS}, set --tflops"


def lines(plan: StagePlan, tflops: float, why: str) -> list[str]:
    """Returns what a stage takes as text, one line for each thing.

    Args:
      plan: of the stage.
      tflops: what each device sustains.
      why: where that number is from.
    """
    frames = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in plan.batch.items())
    devices = f"{plan.devices} {plan.platform} device{'s' * (plan.devices > 1)}"
    networks = ", ".join(f"{name} {count:,}" for name, count in sorted(plan.parameters.items()))
    return [
        f"stage {plan.stage}: {plan.steps} steps of {frames} on {devices}",
        f"  parameters     {sum(plan.parameters.values()):,}: {networks}",
        f"  operations     {plan.costs.operations / 1e12:.3g} TFLOP per step, on all devices together",
        f"  memory         {_memory(plan)}",
        f"  communication  {_communication(plan)}",
        f"  checkpoint     {_size(plan.checkpoint_bytes)} each",
        f"  time           {_hours(plan.hours(tflops))} at {tflops:.3g} TFLOP/s per device ({why}), an estimate",
    ]


def _hours(hours: float) -> str:
    return f"{hours:.3g} hours" if hours >= 0.1 else f"{max(60 * hours, 0.01):.2g} minutes"


def _memory(plan: StagePlan) -> str:
    found = plan.costs.memory
    if found is None:
        return (
            f"at least {_size(plan.device_state_bytes)} per device, which is the state; only a compiler for "
            f"{plan.platform} tells the rest"
        )
    whole = f"; the process takes {_size(plan.process_bytes)}" if plan.process_bytes else ""
    return (
        f"{_size(found.peak)} per device: {_size(plan.device_state_bytes)} state, {_size(found.temporaries)} "
        f"temporaries{whole}"
    )


def _communication(plan: StagePlan) -> str:
    if plan.devices == 1:
        return "none, there is one device"
    exchanged = plan.costs.communication
    if exchanged is None:
        return (
            f"at least {_size(plan.gradient_bytes)} per step from each device, which are the gradients; only a "
            f"compiler for {plan.platform} tells the rest"
        )
    kinds = ", ".join(f"{kind} {_size(size)}" for kind, size in sorted(exchanged.items()))
    return f"{_size(sum(exchanged.values()))} per step from each device: {kinds or 'nothing'}"


def _size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
