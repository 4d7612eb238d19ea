"""The mean teacher: an average of the segmenter over its training (Tarvainen and Valpola, arXiv 1703.01780)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from uda_jax import ops
from uda_jax.methods.parts import adapted
from uda_jax.methods.parts.forward import forward, segmenter_scores
from uda_jax.methods.parts.mixing import check_sizes
from uda_jax.methods.parts.state import Batch, TrainState
from uda_jax.methods.parts.updates import initial_state
from uda_jax.schema import config_field


@dataclasses.dataclass(frozen=True)
class MeanTeacher:
    """Section: the teacher, whose entry of the state is {"params", "model_state"}.

    Only parameters are averaged, and its forwards run in training mode and write its own model state, as in DACS' code,
    unless `statistics` says otherwise.
    Parameters that are frozen are the student's: the entry lacks them.
    """

    alpha: float = config_field(
        0.99,
        "Share of the teacher that an update keeps; the first, t = 0 on, keep less, 1 - 1 / (t + 1).",
        low=0,
        high=1,
    )

    # DACS counts the update after step i as t = i, DAFormer, which averages before a step, as t = i + 1.
    first_update: int = config_field(
        0, "t of the update after the first step: with 0 the teacher is the student then, with 1 half of it.", low=0
    )

    statistics: str = config_field(
        "own",
        "Batch norm of the teacher's forwards. own: in training mode, each writes its own running statistics (DACS); "
        "averaged: in evaluation mode, with statistics that are averaged as the parameters are (UniMatch V2).",
        choices=("own", "averaged"),
    )

    def init(self, state: TrainState) -> TrainState:
        """Returns the first state with a teacher that equals the student, in memory of its own: a step donates both."""
        return state.replace(teacher=jax.tree.map(jnp.copy, _student(state)))

    def current(self, state: TrainState) -> dict[str, Any]:
        """Returns the teacher's entry; at step 0 the student's, whatever its weights come from."""
        first = state.step == 0
        entry = jax.tree.map(lambda s, t: jnp.where(first, s, t), _student(state), state.teacher)
        frozen = adapted.frozen_of(state.model_state.get("segmenter", {}))
        return entry | {"model_state": entry["model_state"] | frozen}

    def forward(self, method: Any, state: TrainState, images: jax.Array) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """Forwards images [B, H, W, 3] through the teacher.

        Args:
          method: whose `forward` runs the network.
          state: the state before the step.
          images: RGB on the scale of 0 to 255.

        Returns:
          The outputs at the network's stride, and the teacher's entry with its next statistics.
        """
        teacher = self.current(state)
        if self.statistics == "averaged":
            inputs = ops.normalise(images, method.segmenter.input_norm)
            outputs, _ = forward(method.network, teacher["params"], teacher["model_state"], inputs, train=False)
            return outputs, teacher
        outputs, model_state = method.forward(teacher["params"], teacher["model_state"], images)
        return outputs, teacher | {"model_state": model_state}

    def update(self, teacher: dict[str, Any], state: TrainState, accumulation: int) -> TrainState:
        """Returns the state with the teacher moved towards the student; between the batches of one update it stays.

        Args:
          teacher: its entry before, with the statistics after its forward.
          state: the state after the student's step.
          accumulation: batches per update.
        """
        updates = (state.step - 1) // accumulation + self.first_update
        before = teacher | {"model_state": adapted.without_frozen(teacher["model_state"])}
        averaged = ("params", "model_state") if self.statistics == "averaged" else ("params",)
        old, student = ({name: entry[name] for name in averaged} for entry in (before, _student(state)))
        moved = exponential_moving_average(old, student, updates, self.alpha)
        if accumulation > 1:
            updated = state.step % accumulation == 0
            moved = jax.tree.map(lambda old, new: jnp.where(updated, new, old), old, moved)
        return state.replace(teacher=before | moved)


def init_with_teacher(method: Any, key: jax.Array, example_batch: Batch) -> TrainState:
    """The `init` of a method whose only player is the segmenter, and which has a teacher: both, equal to each other."""
    check_sizes(example_batch)
    variables = {"segmenter": method.initial_segmenter(key, example_batch)}
    player = method.player("segmenter", optimiser=method.optimiser)
    return method.teacher.init(initial_state(key, variables, {"segmenter": player}))


def predict_with_teacher(
    method: Any, state: TrainState, images: jax.Array, size: tuple[int, int]
) -> dict[str, jax.Array]:
    """The `predict` of a method with fields `teacher` and `predict_with`: the student's logits, or the teacher's.

    Returns:
      {"scores": logits [B, *size, C]} for uint8 RGB images [B, H, W, 3].
    """
    if method.predict_with == "teacher":
        state = _with_teacher(method, state)
    return {"scores": segmenter_scores(method.network, method.segmenter, state, images, size)}


def without_teacher(method: Any, state: TrainState) -> tuple[Any, TrainState]:
    """Returns a method and a state that predict the same, of whose networks the segmenter alone is used."""
    if getattr(method, "predict_with", "student") == "student":
        return method, state
    return dataclasses.replace(method, predict_with="student"), _with_teacher(method, state)


def _with_teacher(method: Any, state: TrainState) -> TrainState:
    """Returns the state with the teacher in the student's place."""
    return state.replace(**{name: {"segmenter": part} for name, part in method.teacher.current(state).items()})


def exponential_moving_average(teacher: Any, student: Any, step: jax.Array, alpha: float) -> Any:
    """Moves a teacher towards its student: theta_g <- a theta_g + (1 - a) theta_f, a = min(1 - 1 / (t + 1), alpha).

    Args:
      teacher, student: parameters of one structure.
      step: t, the updates before this one; at 0 the result is the student.
      alpha: the largest a.
    """
    kept = jnp.minimum(1.0 - 1.0 / (step + 1.0), alpha)
    return jax.tree.map(lambda t, s: kept * t + (1.0 - kept) * s, teacher, student)


def _student(state: TrainState) -> dict[str, Any]:
    model_state = adapted.without_frozen(state.model_state.get("segmenter", {}))
    return {"params": state.params["segmenter"], "model_state": model_state}
