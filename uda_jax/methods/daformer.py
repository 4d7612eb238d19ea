"""DAFormer: a transformer that is trained by itself, and stays near what it knew (Hoyer et al., CVPR 2022).

Take it with ImageNet's weights of a transformer, as the start of this family.

    pseudo-labels   p = softmax(g(x_t)),  y_t = argmax p,  q = share of the batch's pixels with max p >= threshold,
                    0 where labels are distrusted
    mixing          M, x_m, y_m, w as in DACS, of half of the classes of all source images of the batch
    distance        d = mean ||F(x_s) - F_0(x_s)|| over cells of things, F the encoder's last map, F_0 that of ImageNet
    student f       min  mean_pixels CE(f(x_s), y_s) + lambda_FD d + mean_pixels w CE(f(x_m), y_m)
    teacher g       theta_g <- a theta_g + (1 - a) theta_f,  a = min(1 - 1 / (t + 2), alpha) after step t

Rare classes are sampled more often (`data.source.rare_classes`), and the rate is warmed up. arXiv 2111.14887.

The teacher runs in training mode without dropout, on the batch statistics of its target images; only its parameters are
averaged.
"""

import dataclasses

from uda_jax.methods import base
from uda_jax.methods.parts.feature_distance import FeatureDistance, init_with_frozen
from uda_jax.methods.parts.labelled import self_training_parts
from uda_jax.methods.parts.mixing import Mixing, StrongAugmentation, check_single_head, illustrate_mixing
from uda_jax.methods.parts.teacher import MeanTeacher, predict_with_teacher
from uda_jax.methods.parts.updates import single_player_step
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, adamw

# Their code decays everything but what has "norm" in its name in the encoder.
OPTIMISER = adamw(head_multiplier=10.0, groups=((r"(^|/)encoder/.*norm", 1.0, 0.0),))
TEACHER = MeanTeacher(alpha=0.999, first_update=1)
MIXING = Mixing(
    classes_of="batch",
    augmentation=StrongAugmentation(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.2, order="image"),
)


@dataclasses.dataclass(frozen=True)
class DAFormer(base.SegmentationMethod):
    """Self-training on mixed images beside a distance to ImageNet's features."""

    PREDICTION_FIELDS = ("predict_with",)

    optimiser: Optimiser = config_field(OPTIMISER, "Optimiser of the student.")
    teacher: MeanTeacher = config_field(TEACHER, "The teacher.")
    mixing: Mixing = config_field(MIXING, "The mixed images and their pseudo-labels.")
    mixed_weight: float = config_field(1.0, "Weight of the cross entropy on mixed images.", low=0.0)
    distance: FeatureDistance = config_field(FeatureDistance(), "The distance to ImageNet's features.")
    predict_with: str = config_field("student", "Network that predicts.", choices=("student", "teacher"))

    check, init, predict = check_single_head, init_with_frozen, predict_with_teacher
    illustrate = illustrate_mixing

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration: the teacher labels the target, the student learns, the teacher is updated."""
        reference = self.distance.reference(self, state, batch["source"]["image"])
        outputs, teacher = self.teacher.forward(self, state, batch["target"]["image"])
        mixed, shares = self.mixing.label_and_mix(self.segmenter, state, batch, outputs["logits"])
        losses = self_training_parts(self, state, batch, mixed, reference)
        student = self.player("segmenter", optimiser=self.optimiser)
        state, metrics = single_player_step(state, student, *losses)
        return self.teacher.update(teacher, state, self.accumulation), metrics | shares


METHOD = DAFormer
