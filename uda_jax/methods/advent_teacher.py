"""AdvEnt with a mean teacher: adversarial entropy on the target, and the teacher's pseudo-labels on mixed images.

Take it where AdvEnt runs already and a teacher may make its target predictions steadier.
G:  min  L_seg(x_s) + lambda_adv BCE(D(I(x_t)), source) + lambda_mix mean_pixels w CE(G(x_m), y_m)
"""

import dataclasses

import jax

from uda_jax.methods import base
from uda_jax.methods.parts import alignment
from uda_jax.methods.parts.forward import segmentation_losses
from uda_jax.methods.parts.mixing import Mixing, check_single_head, illustrate_mixing, mixed_loss
from uda_jax.methods.parts.teacher import MeanTeacher, predict_with_teacher
from uda_jax.methods.parts.updates import GeneratorLosses, two_player_step
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, sgd


@dataclasses.dataclass(frozen=True)
class AdventTeacher(base.SegmentationMethod):
    """D and I are AdvEnt's; x_m, y_m and w DACS' mixed images, labelled by an average of G. No paper's method."""

    PREDICTION_FIELDS = ("predict_with",)
    optimiser: Optimiser = config_field(sgd(), "Optimiser of the segmenter.")
    discriminator: alignment.Discriminator = config_field(alignment.Discriminator(), "The discriminator.")
    target_weight: float = config_field(0.001, "lambda_adv, weight of the adversarial loss on the target.", low=0.0)
    teacher: MeanTeacher = config_field(MeanTeacher(), "The teacher.")
    mixing: Mixing = config_field(Mixing(), "The mixed images and their pseudo-labels.")
    mixed_weight: float = config_field(1.0, "lambda_mix, weight of the cross entropy on mixed images.", low=0.0)
    predict_with: str = config_field("student", "Network that predicts.", choices=("student", "teacher"))
    check, predict, illustrate = check_single_head, predict_with_teacher, illustrate_mixing

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state: segmenter, teacher and discriminator."""
        return self.teacher.init(alignment.init_with_discriminators(self, key, example_batch))

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration: the teacher labels the target; both players learn; the teacher is updated."""
        discriminators = self.discriminator.of_outputs(self.precision)
        outputs, teacher = self.teacher.forward(self, state, batch["target"]["image"])
        mixed, shares = self.mixing.label_and_mix(self.segmenter, state, batch, outputs["logits"])

        def generator_loss(params) -> GeneratorLosses:
            images = (batch["source"]["image"], mixed.image, batch["target"]["image"])
            found, stats = self.forward_in_turn(params["segmenter"], state.model_state["segmenter"], *images)
            maps = (alignment.information(self.segmenter, x, mixed.label.shape[1:3]) for x in (found[0], found[2]))
            inputs = alignment.DiscriminatorInputs(*maps)
            losses = segmentation_losses(self.segmenter, found[0], batch["source"]["label"])
            losses["mixed"] = self.mixed_weight * mixed_loss(self.segmenter, found[1]["logits"], mixed)
            losses |= discriminators.adversarial_losses(params, inputs.target, {"logits": self.target_weight})
            return GeneratorLosses(losses, inputs, {"segmenter": stats})

        players = alignment.adversarial_players(self, state.params)
        state, metrics = two_player_step(state, *players, generator_loss, discriminators.discriminator_losses)
        return self.teacher.update(teacher, state, self.accumulation), metrics | shares


METHOD = AdventTeacher
