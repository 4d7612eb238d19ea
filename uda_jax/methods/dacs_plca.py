"""DACS with PLCA's association: the loss of one method added to the step of another.

Take it in place of DACS where there is more time.

    student f       min  L_DACS(x_s, x_m) + beta_F L_asso(F_s, F_t) + beta_P L_asso(P_s, P_t)

F are the features of the last stage and P the class probabilities of source and target images, as they are without
mixing or augmentation. Mixing teaches the student what the teacher is sure of; the association also pulls at target
pixels whose pseudo-label counts for little. This combination is not from a paper.
"""

import dataclasses

import jax

from uda_jax.methods import base
from uda_jax.methods.parts.association import Association
from uda_jax.methods.parts.forward import segmentation_losses
from uda_jax.methods.parts.mixing import Mixing, check_single_head, illustrate_mixing, mixed_loss
from uda_jax.methods.parts.teacher import MeanTeacher, init_with_teacher, predict_with_teacher
from uda_jax.methods.parts.updates import single_player_step
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, sgd


@dataclasses.dataclass(frozen=True)
class DacsPlca(base.SegmentationMethod):
    """Self-training on mixed images, and cycle association of the images that are mixed."""

    PREDICTION_FIELDS = ("predict_with",)
    optimiser: Optimiser = config_field(sgd(), "Optimiser of the student.")
    teacher: MeanTeacher = config_field(MeanTeacher(), "The teacher.")
    mixing: Mixing = config_field(Mixing(), "The mixed images and their pseudo-labels.")
    mixed_weight: float = config_field(1.0, "Weight of the cross entropy on mixed images; 0 = off.", low=0.0)
    association: Association = config_field(Association(), "The cycle association.")
    predict_with: str = config_field("student", "Network that predicts.", choices=("student", "teacher"))
    check, init, predict, illustrate = check_single_head, init_with_teacher, predict_with_teacher, illustrate_mixing

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration of DACS, whose student also forwards the target as it is."""
        source, target, key = batch["source"], batch["target"], jax.random.fold_in(state.key, state.step)
        outputs, teacher = self.teacher.forward(self, state, target["image"])
        mixed, shares = self.mixing.label_and_mix(self.segmenter, state, batch, outputs["logits"])

        def student_loss(params):
            model_state = state.model_state["segmenter"]
            outputs_s, model_state = self.forward(params["segmenter"], model_state, source["image"])
            outputs_m, model_state = self.forward(params["segmenter"], model_state, mixed.image)
            outputs_t, model_state = self.forward(params["segmenter"], model_state, target["image"])
            losses = segmentation_losses(self.segmenter, outputs_s, source["label"])
            losses["mixed"] = self.mixed_weight * mixed_loss(self.segmenter, outputs_m["logits"], mixed)
            return losses | self.association.losses(outputs_s, outputs_t, source["label"], key), {
                "segmenter": model_state
            }

        state, metrics = single_player_step(state, self.player("segmenter", optimiser=self.optimiser), student_loss)
        return self.teacher.update(teacher, state, self.accumulation), metrics | shares


METHOD = DacsPlca
