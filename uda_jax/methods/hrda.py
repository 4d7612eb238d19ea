"""HRDA: DAFormer on large images, seen at two resolutions (Hoyer et al., ECCV 2022, arXiv 2204.13132).

Take it where DAFormer runs and small things matter, with more memory.

    context         the image at half its size, for what needs a long view
    details         a box at full size, for what is small, drawn anew for each forward of the student
    fusion          of both by an attention that is learnt (`networks/hrda.py`)
    student f       each of DAFormer's cross entropies is
                        (1 - lambda_d) CE(fusion, y) + lambda_d CE(details, y[box])
    teacher g       details of overlapping windows everywhere, as in predictions

The distance to ImageNet's features is that of the context. All else is DAFormer's.
"""

import dataclasses

from uda_jax.errors import UserError
from uda_jax.methods import base
from uda_jax.methods.daformer import MIXING, OPTIMISER, TEACHER
from uda_jax.methods.parts.details import Details
from uda_jax.methods.parts.feature_distance import FeatureDistance, init_with_frozen
from uda_jax.methods.parts.labelled import self_training_parts
from uda_jax.methods.parts.mixing import Mixing, illustrate_mixing
from uda_jax.methods.parts.teacher import MeanTeacher, predict_with_teacher
from uda_jax.methods.parts.updates import single_player_step
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser


@dataclasses.dataclass(frozen=True)
class HRDA(base.SegmentationMethod):
    """Self-training at two resolutions."""

    PREDICTION_FIELDS = ("predict_with",)

    optimiser: Optimiser = config_field(OPTIMISER, "Optimiser of the student.")
    teacher: MeanTeacher = config_field(TEACHER, "The teacher.")
    mixing: Mixing = config_field(MIXING, "The mixed images and their pseudo-labels.")
    mixed_weight: float = config_field(1.0, "Weight of the cross entropy on mixed images.", low=0.0)
    distance: FeatureDistance = config_field(FeatureDistance(), "The distance to ImageNet's features.")
    details: Details = config_field(Details(), "How much details count.")
    predict_with: str = config_field("student", "Network that predicts.", choices=("student", "teacher"))

    init, predict, illustrate = init_with_frozen, predict_with_teacher, illustrate_mixing

    def check(self, path: str) -> None:
        """Raises a UserError for a network of one resolution."""
        if not self.segmenter.name.startswith("hrda_"):
            raise UserError(
                f"{path}.segmenter.name: expected a network of two resolutions, such as hrda_mit_b5, got "
                f"{self.segmenter.name!r}; without one it is method daformer"
            )

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration: the teacher labels the target, the student learns, the teacher is updated."""
        reference = self.distance.reference(self, state, batch["source"]["image"])
        outputs, teacher = self.teacher.forward(self, state, batch["target"]["image"])
        mixed, shares = self.mixing.label_and_mix(self.segmenter, state, batch, outputs["logits"])
        losses = self_training_parts(self, state, batch, mixed, reference, learn=self.details.learn)
        student = self.player("segmenter", optimiser=self.optimiser)
        state, metrics = single_player_step(state, student, *losses)
        return self.teacher.update(teacher, state, self.accumulation), metrics | shares


METHOD = HRDA
