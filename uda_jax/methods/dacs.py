"""DACS: domain adaptation via cross-domain mixed sampling (Tranheden et al., WACV 2021, arXiv 2007.08702).

Take it first, where there are neither target labels nor depth.

    pseudo-labels   p = softmax(g(x_t)),  y_t = argmax p,  u = share of the batch's pixels with max p >= threshold
    mixing          M = pixels of half of the classes of y_s
                    x_m = augment(M x_s + (1 - M) x_t),  y_m = M y_s + (1 - M) y_t,  w = M + (1 - M) u
    student f       min  L_seg(x_s, y_s) + lambda mean_pixels w CE(f(x_m), y_m)
    teacher g       theta_g <- a theta_g + (1 - a) theta_f,  a = min(1 - 1 / (t + 1), alpha)

The paper compares with other masks M, CutMix's and CowMix's, with target images pasted onto each other ("naive mixing")
and with no mixing at all.

With a weight of `masking` (MIC, arXiv 2212.01322) the student also learns y_t of target images that it sees in part.

The teacher runs in training mode, on the batch statistics of its target images; only its parameters are averaged.
"""

import dataclasses

import jax

from uda_jax.methods import base
from uda_jax.methods.parts.forward import segmentation_losses
from uda_jax.methods.parts.masking import Masking, masked_parts
from uda_jax.methods.parts.mixing import Mixed, Mixing, as_picture, check_single_head, illustrate_mixing, mixed_loss
from uda_jax.methods.parts.teacher import MeanTeacher, init_with_teacher, predict_with_teacher
from uda_jax.methods.parts.updates import Previous, single_player_step
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, sgd


@dataclasses.dataclass(frozen=True)
class Dacs(base.SegmentationMethod):
    """Self-training on images that mix both domains."""

    PREDICTION_FIELDS = ("predict_with",)

    optimiser: Optimiser = config_field(sgd(), "Optimiser of the student.")
    teacher: MeanTeacher = config_field(MeanTeacher(), "The teacher.")
    mixing: Mixing = config_field(Mixing(), "The mixed images and their pseudo-labels.")
    pasted: str = config_field(
        "source",
        "What is pasted onto target images: source images, or other target images with their pseudo-labels.",
        choices=("source", "target"),
    )
    mixed_weight: float = config_field(1.0, "Weight of the cross entropy on mixed images; 0 = off.", low=0.0)
    masking: Masking = config_field(Masking(weight=0.0), "Masked target images (MIC) as one more loss.")
    predict_with: str = config_field("student", "Network that predicts.", choices=("student", "teacher"))

    check, init, predict = check_single_head, init_with_teacher, predict_with_teacher

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration: the teacher labels the target, the student learns, the teacher is updated."""
        source = batch["source"]
        outputs, teacher = self.teacher.forward(self, state, batch["target"]["image"])
        mixed, shares = self._mixed(state, batch, outputs["logits"])
        masked = masked_parts(self, state, batch, outputs["logits"])

        def source_loss(params):
            model_state = state.model_state["segmenter"]
            outputs, model_state = self.forward(params["segmenter"], model_state, source["image"])
            return segmentation_losses(self.segmenter, outputs, source["label"]), {"segmenter": model_state}

        def mixture_loss(params, before: Previous):
            # Normalised by its own batch statistics, which update those that the source has updated.
            images, model_state = before.then(mixed.image), before.found[1]["segmenter"]
            outputs, model_state = self.forward(params["segmenter"], model_state, images)
            loss = self.mixed_weight * mixed_loss(self.segmenter, outputs["logits"], mixed)
            return {"mixed": loss}, {"segmenter": model_state}

        student = self.player("segmenter", optimiser=self.optimiser)
        state, metrics = single_player_step(state, student, source_loss, mixture_loss, *masked)
        return self.teacher.update(teacher, state, self.accumulation), metrics | shares

    def _mixed(self, state: base.TrainState, batch: base.Batch, logits: jax.Array) -> tuple[Mixed, base.Metrics]:
        """Returns the mixed batch and what is shown of it, of the teacher's logits on the target."""
        return self.mixing.label_and_mix(self.segmenter, state, batch, logits, pasted=self.pasted)

    def illustrate(self, state: base.TrainState, batch: base.Batch) -> dict[str, jax.Array]:
        """Returns {"mixed": uint8 RGB [B, H, W, 3]} of the next step."""
        # What is pasted of the source does not depend on the teacher, who need not run then.
        if self.pasted == "source":
            return illustrate_mixing(self, state, batch)
        outputs, _ = self.teacher.forward(self, state, batch["target"]["image"])
        return {"mixed": as_picture(self._mixed(state, batch, outputs["logits"])[0].image)}


METHOD = Dacs
