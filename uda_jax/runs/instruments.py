"""What tells how a training step does: its compilation, a trace of some steps, the parameters of its networks."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview

from uda_jax.ops import platform
from uda_jax.training import precision, programs, sharding


@dataclasses.dataclass(frozen=True)
class MethodStep:
    """The training step of a method at its precision; equal methods have equal ones, which are compiled once.

    Attributes:
      method: gives `train_step` and `precision`, and is hashable.
    """

    method: Any

    def __call__(self, state: Any, batch: Any) -> tuple[Any, dict[str, jax.Array]]:
        return precision.at_precision(self.method, self.method.train_step)(state, batch)


class TrainStep:
    """A training step that is compiled once, before the first batch is there.

    That of an equal function for like states, as a second run of one config in a notebook has it, is the same program.

    Args:
      function: (state, batch) -> (state, metrics), pure and hashable; the state that it is called with is donated.
      state: shapes, types and places of the state, or its arrays: where they lie before and after every step.
      mesh: the device mesh, over which batches are split; an abstract one if the step is only to be lowered.

    Attributes:
      compile_seconds: what tracing and compiling took; None before.
    """

    def __init__(self, function: Callable, state: Any, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh):
        places, structure = jax.tree.flatten(jax.tree.map(lambda x: x.sharding, state))
        self.compile_seconds = self._program = self._compiled = None
        self._state, self._mesh = programs.shapes(state), mesh
        self._parts = (function, mesh, structure, tuple(places))

    @property
    def traces(self) -> int:
        """How often the function was traced for the batch that the step was last traced or compiled for."""
        return self._program.traces if self._program else 0

    def trace(self, batch: Any, name: str | None = None) -> jax.stages.Traced:
        """Returns the step in the form that a platform gets, a key of `platform.LOWERING`; None = the one that is here.

        Args:
          batch: shapes and types of a batch.
          name: of the platform, which need not be here.
        """
        with platform.made_for(name) if name else contextlib.nullcontext():
            leaves, shape = jax.tree.flatten(batch)
            self._program = _program((platform.platform(), shape, *leaves), *self._parts)
            return self._program.jitted.trace(self._state, batch)

    def lower(self, batch: Any, name: str) -> programs.Costs:
        """Lowers the step for a platform, which need not be here to compile it, and returns what is known of its costs.

        Args:
          batch, name: as in `trace`.
        """
        traced = self.trace(batch, name)
        lowered = traced.lower(lowering_platforms=(platform.LOWERING[name],))
        return programs.costs(traced, lowered, devices=self._mesh.size)

    def compile(self, batch: Any) -> programs.Costs:
        """Compiles the step for the devices of its mesh, and returns what it costs.

        Args:
          batch: shapes and types of the batches of all calls.
        """
        began = time.monotonic()
        traced = self.trace(batch)
        lowered = traced.lower()
        if programs.shapes(after := lowered.out_info[0]) != self._state:
            wrong = set(map(str, jax.tree.leaves(programs.shapes(after)))) ^ set(map(str, jax.tree.leaves(self._state)))
            raise AssertionError(f"the step returns another state than it takes, and would be compiled twice: {wrong}")
        self._compiled = lowered.compile()
        self.compile_seconds = time.monotonic() - began
        return programs.costs(traced, lowered, self._compiled, self._mesh.size)

    def __call__(self, state: Any, batch: Any) -> tuple[Any, dict[str, jax.Array]]:
        """Returns the next state and the step's metrics; compiles first if nobody did."""
        if self._compiled is None:
            self.compile(programs.shapes(batch))
        return self._compiled(state, batch)


class _Program:
    """A step to be compiled for states of a structure.

    Attributes:
      traces: how often it was traced.
    """

    def __init__(self, function: Callable, mesh: Any, structure: Any, places: tuple[jax.sharding.Sharding, ...]):
        split = not all(place.is_fully_replicated for place in places)
        step, tree = sharding.split_step(function, mesh) if split else function, jax.tree.unflatten(structure, places)

        def train_step(state: Any, batch: Any) -> Any:
            self.traces += 1
            return step(state, batch)

        self.traces = 0
        self.jitted = jax.jit(
            train_step,
            donate_argnums=0,
            in_shardings=(tree, sharding.split_over_batch(mesh)),
            out_shardings=(tree, sharding.replicated(mesh)),
        )


# As many as the stages of a recipe, or the methods of a comparison.
@functools.lru_cache(maxsize=8)
def _program(use: tuple, *parts: Any) -> _Program:
    """Returns the program of some parts for one use: JAX, which remembers traces, knows nothing of the platform."""
    del use
    return _Program(*parts)


class Profile:
    """A trace of some steps by jax.profiler, for TensorBoard, Perfetto or XProf.

    Args:
      steps: the steps, of which a resumed run traces what is left; none where they are empty.
      folder: where every process writes its own.
    """

    def __init__(self, steps: range, folder: Path):
        self._steps, self._folder, self._tracing = steps, folder, False

    def before(self, step: int) -> None:
        """Starts the trace if the step is the first of it."""
        if step in self._steps and not self._tracing:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def after(self, step: int, metrics: Any) -> None:
        """Ends the trace once the metrics of its last step are there."""
        if self._tracing and step == self._steps[-1]:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False


def parameter_counts(params: dict[str, Any]) -> dict[str, int]:
    """Returns network -> number of its parameters."""
    return {name: int(parameter_overview.count_parameters(tree)) for name, tree in params.items()}


def placement_lines(stage: str, state: Any, kind: str) -> list[str]:
    """Returns a line, "stage train: 12.0 of the state's 88.4 MB lie on each of 8 devices", if it is to be split."""
    devices = jax.device_count()
    if kind == sharding.REPLICATED or devices == 1:
        return []
    own, whole = sharding.bytes_per_device(state), programs.tree_bytes(state)
    return [f"stage {stage}: {own / 1e6:.1f} of the state's {whole / 1e6:.1f} MB lie on each of {devices} devices"]


def parameter_table(params: dict[str, Any]) -> str:
    """Returns a table of the name, shape, type and size of every parameter, network by network."""
    tables = []
    for name, tree in params.items():
        tables.append(f"{name}\n{parameter_overview.get_parameter_overview(tree, include_stats=False)}\n")
    return "\n".join(tables)
