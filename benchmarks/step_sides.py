"""The two sides of `benchmarks.train_step`: a training iteration of the library and one in PyTorch, to be timed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.side_by_side import MIB, Side, cores
from benchmarks.step_cases import Case

STEP = "step"
# Networks of a state that never learn.
CONSTANT = ("source_segmenter",)


class JaxStepSide(Side):
    """The library's step, compiled ahead, with its first state."""

    def __init__(self, case: Case):
        from benchmarks.jax_steps import JaxStep

        self.step = JaxStep(case.reference, case.words, {} if case.own else case.sizes, case.stage)
        self.step.initialise()
        self.calls = {STEP: lambda: (self.step(), self.step.synchronise())}

    def facts(self) -> dict[str, Any]:
        """Returns what is known of the step without running it."""
        from uda_jax.runs.instruments import parameter_counts

        counts = parameter_counts(self.step.params)
        return {
            "parameters": sum(count for name, count in counts.items() if name not in CONSTANT),
            "gflop": self.step.costs.operations / 1e9,
            "compile_seconds": self.step.compile_seconds,
            "jax_temporary_mib": self.step.costs.memory.temporaries / MIB,
        }

    def batch(self) -> tuple[dict[str, dict[str, np.ndarray]], int]:
        """Returns the batch, and the number of classes."""
        return self.step.batch, self.step.method.num_classes


class TorchStepSide(Side):
    """The same iteration in PyTorch; it is there once it has got the batch."""

    def __init__(self, case: Case):
        import torch

        torch.set_num_threads(cores())
        self.case = case

    def prepare(self, batch: Mapping[str, Mapping[str, np.ndarray]], classes: int) -> int:
        """Builds the step on a batch, and returns the number of parameters that learn."""
        from benchmarks.torch_steps import TorchStep

        step = TorchStep(self.case.method, batch, classes)
        self.calls = {STEP: lambda: (step(), step.synchronise())}
        return step.parameters
