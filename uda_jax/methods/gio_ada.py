"""GIO-Ada: geometrically guided input-output adaptation (Chen et al., CVPR 2019, arXiv 1812.05040).

Take it where the source has depth, and looks and layouts both differ.

The source has labels y_s and depth d_s, the target x_t neither. They meet at two levels, either of which may be off:

    input    x~_s = G_img(x_s, d_s, y_s), the source translated to look like the target; D_img tells x~_s from x_t
    output   o = (P, q), class probabilities and depth of the task network G_task; D_out tells o(x~_s) from o(x_t)

    G_img, G_task:  min  lambda_seg L_seg(P(x~_s), y_s) + lambda_depth L_depth(q(x~_s), d_s)
                         + lambda_img L(D_img(x~_s), target) + lambda_out L(D_out(o(x_t)), source)
                         + lambda_self mean |x~_s - x_s|
    D_img:          min  1/2 [ L(D_img(x~_s), source) + L(D_img(x_t), target) ]
    D_out:          min  1/2 [ L(D_out(o(x~_s)), source) + L(D_out(o(x_t)), target) ]

There is no cycle: the losses of the task, which reach G_img through x~_s, keep a translated image true to its label and
depth. No code was published; what is not known of networks, losses, weights and stages is as in CycleGAN, AdaptSegNet
and DADA for the same part, and most of it an option.
"""

import dataclasses
import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from uda_jax import ops
from uda_jax.errors import UserError
from uda_jax.losses import absolute_depth, berhu
from uda_jax.methods import base
from uda_jax.methods.parts.alignment import Discriminator, DiscriminatorInputs, probabilities
from uda_jax.methods.parts.depth import depth_map, source_depth
from uda_jax.methods.parts.forward import segmentation_losses, segmenter_scores
from uda_jax.methods.parts.translation import (
    CYCLEGAN_ADAM,
    IMAGE_DISCRIMINATOR,
    TRANSLATOR,
    ImageDiscriminator,
    Translator,
    exchange,
)
from uda_jax.methods.parts.updates import (
    DiscriminatorLosses,
    GeneratorLosses,
    Players,
    initial_state,
    two_player_step,
)
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, sgd


class GIOInputs(NamedTuple):
    """What D_out and D_img see of an iteration; None where a level is off.

    Attributes:
      outputs: maps of the task network.
      translated: x~_s [B, H, W, 3] in [-1, 1], or images drawn from the pool.
    """

    outputs: DiscriminatorInputs | None
    translated: jax.Array | None


@dataclasses.dataclass(frozen=True)
class GIOAda(base.SegmentationMethod):
    """Adaptation of the images that go into the task network, and of the classes and depth that come out."""

    segmenter: base.Segmenter = config_field(base.Segmenter(name="deeplab_v2_vgg16"), "The task network, G_task.")
    optimiser: Optimiser = config_field(sgd(), "Optimiser of the task network.")
    discriminator: Discriminator = config_field(Discriminator(), "D_out, and the loss of the output level.")
    translator: Translator = config_field(Translator(), "G_img.")
    image_discriminator: Discriminator = config_field(
        Discriminator(kind="least_squares", optimiser=CYCLEGAN_ADAM), "D_img, and the loss of the input level."
    )
    image_decay: str = config_field(
        "constant_linear", "Schedule of G_img's and D_img's rates.", choices=("constant_linear", "constant", "poly")
    )
    input_level: str = config_field(
        "image+label+depth",
        "What of the source G_img sees; none: the task network gets the images as they are.",
        choices=("image+label+depth", "image+label", "image+depth", "image", "none"),
    )
    output_level: str = config_field("seg+depth", "What D_out sees.", choices=("seg+depth", "seg", "none"))
    output_input: str = config_field(
        "concat", "How: depth as one more channel, or times self-information as DADA.", choices=("concat", "product")
    )
    depth_head: bool = config_field(True, "Whether the task network predicts depth; without, nothing learns depth.")
    depth_target: str = config_field(
        "metric", "What it predicts: shares of farthest_depth, or inverse depth as DADA.", choices=("metric", "inverse")
    )
    depth_loss: str = config_field("l1", "Loss on depth: absolute error or reverse Huber.", choices=("l1", "berhu"))
    farthest_depth: float = config_field(80.0, "Metres; depth beyond it counts as it, for G_img and as metric target.")
    nearest_depth: float = config_field(0.1, "Inverse target: metres below which depth is invalid, see DADA.", low=0.0)
    depth_unit: float = config_field(1.0, "Inverse target: the unit that it is divided by, see DADA.")
    task_grad_to_transform: bool = config_field(
        True, "Whether the task network's losses on translated images reach G_img."
    )
    train_on_untranslated: bool = config_field(False, "Whether the task network learns the images as they are, too.")
    freeze_task: bool = config_field(
        False, "Whether G_img and D_img alone learn, for a stage between warm-up and joint."
    )
    image_pool: int = config_field(
        0, "Redrawn images that are kept, of which half of D_img's are drawn (CycleGAN: 50); 0 = the new ones.", low=0
    )
    segmentation_weight: float = config_field(1.0, "lambda_seg, weight of the source's cross entropy.", low=0.0)
    depth_weight: float = config_field(0.1, "lambda_depth, weight of the source's depth loss.", low=0.0)
    image_weight: float = config_field(1.0, "lambda_img, weight of D_img's loss for G_img; 0 = no D_img.", low=0.0)
    target_weight: float = config_field(
        0.001, "lambda_out, weight of D_out's loss on the target; 0 = no D_out.", low=0.0
    )
    self_weight: float = config_field(0.0, "lambda_self, weight of the mean change of a translated image.", low=0.0)

    def check(self, path: str) -> None:
        """Raises a UserError for fields that contradict each other, or of which one leaves another without effect."""
        joint, translates = self.output_level == "seg+depth", self.input_level != "none"
        supervised = self.segmentation_weight or (self.depth_head and self.depth_weight)
        translated_alone = self._discriminates_images or (translates and self.self_weight)
        unsupervised = translated_alone or self._discriminates_outputs
        translator_learns = translated_alone or (self.task_grad_to_transform and supervised)
        requirements = [
            ("segmentation_weight", supervised or unsupervised, "a number above 0, since no other loss is on"),
            ("depth_head", self.depth_head or not joint, "True with output_level 'seg+depth'"),
            ("output_input", joint or self.output_input == "concat", "'concat' unless output_level is 'seg+depth'"),
            ("image_pool", not self.image_pool or self._discriminates_images, "0 without an image discriminator"),
            ("freeze_task", not self.freeze_task or translates, "False without a translator"),
            ("output_level", not self.freeze_task or self.output_level == "none", "'none' with a frozen task network"),
            (
                "train_on_untranslated",
                not self.train_on_untranslated or translates,
                "False without a translator",
            ),
            ("train_on_untranslated", not (self.train_on_untranslated and self.freeze_task), "False with freeze_task"),
            ("train_on_untranslated", not self.train_on_untranslated or supervised, "False with no loss of the task"),
            ("task_grad_to_transform", not translates or translator_learns, "True where no other loss teaches G_img"),
            ("farthest_depth", self.farthest_depth > 0, "metres above 0"),
            ("depth_unit", self.depth_unit > 0, "a number above 0"),
            ("segmenter.multi_level", not self.segmenter.multi_level, "False, since one head predicts classes"),
        ]
        for field, fulfilled, expected in requirements:
            if not fulfilled:
                raise UserError(f"{path}.{field}: expected {expected}, got {operator.attrgetter(field)(self)!r}")

    @property
    def network(self) -> nn.Module:
        """The Flax module of the task network."""
        decided = {"depth_head": self.depth_head}
        if self.depth_head:
            decided["depth_activation"] = "sigmoid" if self.depth_target == "metric" else "linear"
        return self.segmenter.build(self.num_classes, self.precision, **decided)

    @property
    def discriminator_channels(self) -> int:
        """Channels of the maps that D_out reads."""
        beside = self.output_level == "seg+depth" and self.output_input == "concat"
        return self.num_classes + 1 if beside else self.num_classes

    @property
    def _images(self) -> ImageDiscriminator:
        section = self.image_discriminator
        return ImageDiscriminator(section.of_images(self.precision), section.kind)

    @property
    def _discriminates_images(self) -> bool:
        return self.input_level != "none" and self.image_weight > 0

    @property
    def _discriminates_outputs(self) -> bool:
        return self.output_level != "none" and self.target_weight > 0

    @property
    def needed_domains(self) -> tuple[str, ...]:
        """The source, and the target if anything is compared with it."""
        return self.DOMAINS if self._discriminates_images or self._discriminates_outputs else ("source",)

    def players(self, networks: Iterable[str]) -> tuple[Players, Players]:
        """Returns who trains the networks of a state: G_task, unless it is frozen, and G_img; D_out and D_img.

        The rates of what draws and discriminates images have a decay of their own form.
        """
        images = dataclasses.replace(self.schedule, name=self.image_decay)
        generators = {} if self.freeze_task else {"segmenter": self.player("segmenter", optimiser=self.optimiser)}
        discriminators = {}
        if TRANSLATOR in networks:
            generators[TRANSLATOR] = self.player(TRANSLATOR, optimiser=self.translator.optimiser, schedule=images)
        if "discriminator" in networks:
            discriminators["discriminator"] = self.player("discriminator", optimiser=self.discriminator.optimiser)
        if IMAGE_DISCRIMINATOR in networks:
            section = self.image_discriminator
            discriminators[IMAGE_DISCRIMINATOR] = self.player(
                IMAGE_DISCRIMINATOR, optimiser=section.optimiser, schedule=images
            )
        return generators, discriminators

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state; a level that is off adds no network, the image pool is empty."""
        variables = {"segmenter": self.initial_segmenter(key, example_batch)}
        shape = example_batch["source"]["image"].shape
        # Keys 0 to 2 belong to the segmenter and its discriminators.
        if self._discriminates_outputs:
            discriminators = self.discriminator.of_outputs(self.precision)
            of_segmenter = (self.network, variables["segmenter"], shape, self.discriminator_channels)
            variables |= discriminators.init(key, *of_segmenter)
        if self.input_level != "none":
            channels = 3 + ("depth" in self.input_level) + ("label" in self.input_level) * self.num_classes
            inputs = jnp.zeros((1, *shape[1:3], channels))
            variables[TRANSLATOR] = self.translator.build(self.precision).init(jax.random.fold_in(key, 3), inputs)
        if self._discriminates_images:
            images = jnp.zeros((1, *shape[1:3], 3))
            variables[IMAGE_DISCRIMINATOR] = self._images.module.init(jax.random.fold_in(key, 4), images)
        generators, others = self.players(variables)
        pool = ops.empty_pool(self.image_pool, shape[1:3]) if self.image_pool else None
        return initial_state(key, variables, {**generators, **others}, extra=pool)

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration of all players; with a level off, or a weight of 0, without its part."""
        source = batch["source"]
        discriminators = self.discriminator.of_outputs(self.precision)

        def generator_loss(params) -> GeneratorLosses:
            losses, output_inputs, image_inputs, pool = {}, None, None, {}
            images, model_state = source["image"], state.model_state["segmenter"]
            if self.input_level != "none":
                translated = self.translate(params, source)
                losses |= self._input_losses(params, translated, source["image"])
                if self._discriminates_images:
                    image_inputs, pool = exchange(state, translated)
                images = translated if self.task_grad_to_transform else jax.lax.stop_gradient(translated)
                images = ops.from_tanh(images)
            # Translated source, source, target: each has its own batch statistics, and updates the running ones.
            outputs_s, model_state = self.forward(params["segmenter"], model_state, images)
            losses |= self._task_losses(outputs_s, source)
            if self.train_on_untranslated:
                outputs, model_state = self.forward(params["segmenter"], model_state, source["image"])
                terms = self._task_losses(outputs, source)
                losses |= {f"untranslated_{name}": value for name, value in terms.items()}
            if self._discriminates_outputs:
                outputs_t, model_state = self.forward(params["segmenter"], model_state, batch["target"]["image"])
                pairs = ((outputs_s, images), (outputs_t, batch["target"]["image"]))
                output_inputs = DiscriminatorInputs(*(self.output_maps(outputs, x.shape[1:3]) for outputs, x in pairs))
                weights = {"logits": self.target_weight}
                losses |= discriminators.adversarial_losses(params, output_inputs.target, weights)
            statistics = {} if self.freeze_task else {"segmenter": model_state}
            return GeneratorLosses(losses, GIOInputs(output_inputs, image_inputs), statistics, pool)

        def discriminator_loss(params, inputs: GIOInputs) -> DiscriminatorLosses:
            losses, metrics = {}, {}
            if inputs.outputs is not None:
                losses, metrics = discriminators.discriminator_losses(params, inputs.outputs)
            if inputs.translated is not None:
                real = ops.normalise(batch["target"]["image"], "tanh")
                loss, share = self._images.discriminator_loss(params, inputs.translated, real)
                losses[IMAGE_DISCRIMINATOR], metrics[f"{IMAGE_DISCRIMINATOR}/accuracy"] = loss, share
            return DiscriminatorLosses(losses, metrics)

        return two_player_step(state, *self.players(state.params), generator_loss, discriminator_loss)

    def predict(self, state: base.TrainState, images: jax.Array, size: tuple[int, int]) -> dict[str, jax.Array]:
        """As any method's; the parameters of the depth head and of the other networks are not read."""
        network = self.segmenter.build(self.num_classes, self.precision, depth_head=False)
        return {"scores": segmenter_scores(network, self.segmenter, state, images, size)}

    def illustrate(self, state: base.TrainState, batch: base.Batch) -> dict[str, jax.Array]:
        """Returns the source's images and what G_img makes of them, uint8 RGB [B, H, W, 3]; nothing without it."""
        if self.input_level == "none":
            return {}
        translated = ops.to_pixels(self.translate(state.params, batch["source"]))
        return {"source": batch["source"]["image"], "translated": translated}

    def translate(self, params: Mapping[str, Any], source: Mapping[str, jax.Array]) -> jax.Array:
        """Returns x~_s, float RGB [B, H, W, 3] in [-1, 1], for a batch of the source."""
        with jax.named_scope(TRANSLATOR):
            return self.translator.build(self.precision).apply({"params": params[TRANSLATOR]}, self.condition(source))

    def condition(self, source: Mapping[str, jax.Array]) -> jax.Array:
        """Returns what G_img sees of the source [B, H, W, 3 + 1 + C], as far as the input level has it.

        The image in [-1, 1]; depth in [-1, 1], invalid 0; the label one-hot, all zeros where it is ignored.
        """
        parts = [ops.normalise(source["image"], "tanh")]
        if "depth" in self.input_level:
            depth = source_depth(source)
            parts.append(jnp.where(depth > 0, 2.0 * self._shares(depth) - 1.0, 0.0))
        if "label" in self.input_level:
            parts.append(jax.nn.one_hot(source["label"].astype(jnp.int32), self.num_classes))
        return jnp.concatenate(parts, axis=-1)

    def output_maps(self, outputs: Mapping[str, jax.Array], size: tuple[int, int]) -> dict[str, jax.Array]:
        """Returns what D_out reads, {"logits": [B, *size, C or C + 1]}: probabilities, and as the level says depth."""
        p = probabilities(self.segmenter, outputs, size)["logits"]
        if self.output_level == "seg":
            return {"logits": p}
        depth = depth_map(self.segmenter, outputs, size)
        product = self.output_input == "product"
        return {"logits": ops.self_information(p) * depth if product else jnp.concatenate([p, depth], axis=-1)}

    def _input_losses(
        self, params: Mapping[str, Any], translated: jax.Array, images: jax.Array
    ) -> dict[str, jax.Array]:
        """G_img's side of the input level: translated images shall be taken for the target's, and change little."""
        losses = {}
        if self._discriminates_images:
            losses["adversarial_image"] = self.image_weight * self._images.adversarial_loss(params, translated)
        if self.self_weight:
            losses["self"] = self.self_weight * jnp.mean(jnp.abs(translated - ops.normalise(images, "tanh")))
        return losses

    def _task_losses(self, outputs: Mapping[str, jax.Array], source: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The supervised losses on the source, on its images in whichever form."""
        losses = {}
        if self.segmentation_weight:
            terms = segmentation_losses(self.segmenter, outputs, source["label"])
            losses = {name: self.segmentation_weight * value for name, value in terms.items()}
        if self.depth_head and self.depth_weight:
            target, mask = self.depth_supervision(source_depth(source))
            loss = absolute_depth if self.depth_loss == "l1" else berhu
            prediction = depth_map(self.segmenter, outputs, target.shape[1:3])
            losses["depth"] = self.depth_weight * loss(prediction, target, mask)
        return losses

    def depth_supervision(self, depth: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns what depth in metres [B, H, W, 1], 0 = invalid, teaches: targets and which pixels count."""
        if self.depth_target == "inverse":
            target = ops.inverse_depth(depth, nearest=self.nearest_depth) / self.depth_unit
            return target, jnp.ones_like(target, bool)
        return self._shares(depth), depth > 0

    def _shares(self, depth: jax.Array) -> jax.Array:
        return jnp.clip(depth / self.farthest_depth, 0.0, 1.0)


METHOD = GIOAda
