"""One training iteration of a packaged setting, on random frames of any size, ready to be timed.

Neither data nor weights are needed: networks start as they do without a file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from uda_jax import config
from uda_jax.runs import plan, stages, states
from uda_jax.runs.instruments import TrainStep
from uda_jax.training import precision, sharding
from uda_jax.training.initialisation import initialise

# Of the labelled driving sets.
CLASSES = 19
# Labels come in blocks of so many pixels, and so does depth; the first rows are unlabelled.
BLOCK, UNLABELLED_ROWS, UNLABELLED = 16, 4, 255

Sizes = Mapping[str, tuple[int, int, int]]


class JaxStep:
    """A training stage of a setting: its state, a batch, and its compiled step.

    Args:
      reference: of a config, such as "advent:gta5_cityscapes".
      overrides: words such as "--config.train.precision=bf16".
      sizes: domain -> (frames, height, width), in place of the setting's; frames of domains that are not named keep
        theirs.
      stage: name of the stage; None = the last that trains.

    Attributes:
      method: the method's object.
      batch: domain -> map -> array, as the step gets it, in NumPy.
      costs: of the compiled step.
      compile_seconds: what tracing and compiling took.
    """

    def __init__(
        self, reference: str, overrides: Sequence[str] = (), sizes: Sizes | None = None, stage: str | None = None
    ):
        self.stage, shapes = stage_and_batch(reference, overrides, sizes, stage)
        self.method = self.stage.method
        self.batch = random_batch(shapes, classes=self.method.num_classes)
        self._mesh = sharding.data_mesh()
        step = precision.at_precision(self.method, self.method.train_step)
        self._step = TrainStep(step, states.abstract(self.stage, self._mesh), self._mesh)
        self.costs = self._step.compile(shapes)
        self.compile_seconds = self._step.compile_seconds
        self._state = self._placed = None

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters of each network, once there is a state."""
        return self._state.params

    def initialise(self) -> None:
        """Makes the first state and puts the batch where the step reads it."""
        placed = states.placement(self.stage, self._mesh).of(states.shapes(self.stage))
        self._state = jax.block_until_ready(initialise(self.stage.initialise, jax.random.key(0), placed))
        self._placed = jax.device_put(self.batch, sharding.split_over_batch(self._mesh))

    def __call__(self) -> dict[str, jax.Array]:
        """Runs one iteration and returns its metrics, which may still be under way."""
        if self._state is None:
            self.initialise()
        self._state, metrics = self._step(self._state, self._placed)
        return metrics

    def synchronise(self) -> None:
        """Waits until the last iteration has ended."""
        jax.block_until_ready(self._state)


def stage_and_batch(
    reference: str, overrides: Sequence[str] = (), sizes: Sizes | None = None, stage: str | None = None
) -> tuple[stages.Stage, dict[str, dict[str, jax.ShapeDtypeStruct]]]:
    """Returns a training stage of a setting, and the shapes and types of its batch; arguments as of `JaxStep`."""
    experiment = config.experiment(config.load(reference, overrides))
    recipe = stages.recipe(experiment, CLASSES)
    found = [each for each in recipe if each.kind.TRAINS and stage in (None, each.name)][-1]
    return found, _resized(plan.batch_before_data(found), sizes or {})


def random_batch(shapes: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]], classes: int) -> dict[str, Any]:
    """Returns random frames: uniform pixels, labels and depth in blocks.

    Args:
      shapes: domain -> map -> shape and type, frames first.
      classes: labels are in [0, classes), or 255 in the first rows of maps that have more than one.
    """
    generator = np.random.default_rng(0)

    def array(name: str, like: jax.ShapeDtypeStruct) -> np.ndarray:
        if name == "image":
            return generator.integers(0, 256, like.shape).astype(like.dtype)
        if name == "index":
            return np.arange(like.size, dtype=like.dtype)
        frames, height, width = like.shape
        coarse = (frames, -(-height // BLOCK), -(-width // BLOCK))
        drawn = generator.integers(0, classes, coarse) if name == "label" else generator.uniform(1, 50, coarse)
        whole = drawn.repeat(BLOCK, 1).repeat(BLOCK, 2)[:, :height, :width].astype(like.dtype)
        if name == "label" and height > 1:
            whole[:, :UNLABELLED_ROWS] = UNLABELLED
        return whole

    return {domain: {name: array(name, like) for name, like in maps.items()} for domain, maps in shapes.items()}


def _resized(shapes: Any, sizes: Sizes) -> Any:
    def resized(like: jax.ShapeDtypeStruct, size: tuple[int, int, int]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size[0], *size[1:], *like.shape[3:])[: len(like.shape)], like.dtype)

    unknown = sizes.keys() - shapes.keys()
    if unknown:
        raise ValueError(f"sizes: no domain {', '.join(sorted(unknown))}; there are {', '.join(shapes)}")
    return {
        domain: {name: resized(like, sizes[domain]) for name, like in maps.items()} if domain in sizes else maps
        for domain, maps in shapes.items()
    }
