"""MIC: masked image consistency (Hoyer et al., CVPR 2023, arXiv 2212.01322), on DAFormer or HRDA.

Take it last of this family, for the highest figures; its masks alone fit DACS and CorDA as well.

    masked          x_M = augment(x_t), seven in ten blocks of it hidden
    student f       DAFormer's or HRDA's losses, as its network has one resolution or two, and
                        lambda_M mean_pixels w CE(f(x_M), y_t)

of all pixels, those that are hidden, too, with the teacher's labels y_t of the whole image and their weights w. So the
student learns to tell a place by what is around it.
"""

import dataclasses

from uda_jax.methods import base
from uda_jax.methods.daformer import MIXING, OPTIMISER, TEACHER
from uda_jax.methods.parts.details import Details
from uda_jax.methods.parts.feature_distance import FeatureDistance, init_with_frozen
from uda_jax.methods.parts.labelled import self_training_parts
from uda_jax.methods.parts.masking import Masking, masked_parts
from uda_jax.methods.parts.mixing import Mixing, check_single_head, illustrate_mixing
from uda_jax.methods.parts.teacher import MeanTeacher, predict_with_teacher
from uda_jax.methods.parts.updates import single_player_step
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser


@dataclasses.dataclass(frozen=True)
class MIC(base.SegmentationMethod):
    """Self-training on mixed and on masked images."""

    PREDICTION_FIELDS = ("predict_with",)

    optimiser: Optimiser = config_field(OPTIMISER, "Optimiser of the student.")
    teacher: MeanTeacher = config_field(TEACHER, "The teacher.")
    mixing: Mixing = config_field(MIXING, "The mixed images and their pseudo-labels.")
    mixed_weight: float = config_field(1.0, "Weight of the cross entropy on mixed images.", low=0.0)
    distance: FeatureDistance = config_field(FeatureDistance(), "The distance to ImageNet's features.")
    masking: Masking = config_field(Masking(), "The masked images.")
    details: Details = config_field(Details(), "How much details count, with a network of two resolutions.")
    predict_with: str = config_field("student", "Network that predicts.", choices=("student", "teacher"))

    check, init, predict = check_single_head, init_with_frozen, predict_with_teacher
    illustrate = illustrate_mixing

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration: the teacher labels the target, the student learns, the teacher is updated."""
        reference = self.distance.reference(self, state, batch["source"]["image"])
        outputs, teacher = self.teacher.forward(self, state, batch["target"]["image"])
        mixed, shares = self.mixing.label_and_mix(self.segmenter, state, batch, outputs["logits"])
        masked = masked_parts(self, state, batch, outputs["logits"], learn=self.details.learn)
        losses = self_training_parts(self, state, batch, mixed, reference, learn=self.details.learn)
        student = self.player("segmenter", optimiser=self.optimiser)
        state, metrics = single_player_step(state, student, *losses, *masked)
        return self.teacher.update(teacher, state, self.accumulation), metrics | shares


METHOD = MIC
