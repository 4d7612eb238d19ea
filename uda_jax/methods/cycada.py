"""CyCADA's pixel stage: two translators, source to target and back, that keep images true to themselves and to class.

Take it as the pixel stage of the digits recipe, where domains differ in looks rather than in layout.

Source: Hoffman et al., "CyCADA: Cycle-Consistent Adversarial Domain Adaptation" (ICML 2018, arXiv 1711.03213), in the
form of the released code for digits. With x~_s = G(x_s) and x~_t = F(x_t), discriminators D_t and D_s, and a classifier
C that learns the source's images as they are:

    G, F:  min  w_t L(D_t(x~_s), real) + w_s L(D_s(x~_t), real)
                + lambda (mean |F(x~_s) - x_s| + mean |G(x~_t) - x_t|)
                + lambda_sem [ CE(C(x~_s), y_s) + CE(C(x~_t), argmax C(x_t)) ]     while C's own loss is low
    D_t:   min  1/2 [ L(D_t(x~_s), drawn) + L(D_t(x_t), real) ]        D_s likewise, of x~_t and x_s
    C:     min  CE(C(x_s), y_s)

The paper's C is the classifier of the source and constant; the code trains it from scratch beside the translators, as
here, unless an earlier stage gives it. What a later stage trains on is G(x_s) with the labels y_s, which a stage of the
kind `translate` writes; nothing of the target but its images takes part.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from uda_jax import ops
from uda_jax.losses import cross_entropy
from uda_jax.methods import base
from uda_jax.methods.parts.alignment import Discriminator
from uda_jax.methods.parts.forward import dropout_key, forward, segmentation_losses
from uda_jax.methods.parts.translation import (
    CYCLEGAN_ADAM,
    IMAGE_DISCRIMINATOR,
    TRANSLATOR,
    ImageDiscriminator,
    Translator,
)
from uda_jax.methods.parts.updates import (
    DiscriminatorLosses,
    GeneratorLosses,
    Players,
    initial_state,
    two_player_step,
)
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, adam
from uda_jax.training.schedules import Schedule

# F, which draws the target like the source, and D_s.
BACK_TRANSLATOR, BACK_DISCRIMINATOR = "back_translator", "back_discriminator"


class Images(NamedTuple):
    """Images in [-1, 1] that the translators drew [B, H, W, 3].

    Attributes:
      translated: x~_s, the source's drawn like the target.
      back: x~_t, the target's drawn like the source.
    """

    translated: jax.Array
    back: jax.Array


@dataclasses.dataclass(frozen=True)
class Cycada(base.SegmentationMethod):
    """CycleGAN between the domains, whose translators must not change what a classifier sees."""

    num_classes: int = config_field(10, "Classes of the head.", low=2)
    segmenter: base.Segmenter = config_field(
        base.Segmenter(name="lenet", input_norm="tanh"), "C, the classifier of the semantic losses."
    )
    optimiser: Optimiser = config_field(
        adam(learning_rate=1e-3, beta1=0.5, beta2=0.999), "Optimiser of the classifier; its rate is constant."
    )
    schedule: Schedule = config_field(
        Schedule(name="constant_linear"), "Decay of the translators' and the discriminators' rates."
    )
    translator: Translator = config_field(Translator(), "G and F, two networks of this form.")
    image_discriminator: Discriminator = config_field(
        Discriminator(kind="least_squares", optimiser=CYCLEGAN_ADAM), "D_t and D_s, and the adversarial loss."
    )
    image_weight: float = config_field(2.0, "w_t, weight of D_t's loss for G.", low=0.0)
    back_weight: float = config_field(1.0, "w_s, weight of D_s's loss for F.", low=0.0)
    cycle_weight: float = config_field(
        1.0, "lambda, weight of the mean change after both ways (CycleGAN: 10).", low=0.0
    )
    semantic_weight: float = config_field(1.0, "lambda_sem, weight of the two semantic losses.", low=0.0)
    semantic_below: float = config_field(
        1.0, "The classifier's cross entropy on a batch of the source below which the semantic losses are on.", low=0.0
    )
    image_pool: int = config_field(
        50,
        "Earlier results of each translator, of which half of its discriminator's are drawn; 0 = the new ones.",
        low=0,
    )

    @property
    def _discriminator(self) -> ImageDiscriminator:
        section = self.image_discriminator
        return ImageDiscriminator(section.of_images(self.precision), section.kind)

    def players(self) -> tuple[Players, Players]:
        """Returns who trains what: G with F, and C beside them; D_t with D_s."""
        constant = Schedule(name="constant")
        generators = {
            TRANSLATOR: self.player(TRANSLATOR, BACK_TRANSLATOR, optimiser=self.translator.optimiser),
            "segmenter": self.player("segmenter", optimiser=self.optimiser, schedule=constant),
        }
        optimiser = self.image_discriminator.optimiser
        both = self.player(IMAGE_DISCRIMINATOR, BACK_DISCRIMINATOR, optimiser=optimiser)
        return generators, {IMAGE_DISCRIMINATOR: both}

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state, with empty pools of images."""
        variables = {"segmenter": self.initial_segmenter(key, example_batch)}
        sizes = {name: example_batch[name]["image"].shape[1:3] for name in ("source", "target")}
        module = self.translator.build(self.precision)
        discriminator = self._discriminator.module
        # Key 0 is the segmenter's.
        networks = ((TRANSLATOR, module, "source"), (BACK_TRANSLATOR, module, "target"))
        networks += ((IMAGE_DISCRIMINATOR, discriminator, "target"), (BACK_DISCRIMINATOR, discriminator, "source"))
        for number, (name, network, domain) in enumerate(networks, start=1):
            variables[name] = network.init(jax.random.fold_in(key, number), jnp.zeros((1, *sizes[domain], 3)))
        generators, discriminators = self.players()
        pools = {}
        if self.image_pool:
            pools = {"translated": ops.empty_pool(self.image_pool, sizes["source"])}
            pools["back"] = ops.empty_pool(self.image_pool, sizes["target"])
        return initial_state(key, variables, {**generators, **discriminators}, extra=pools)

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration: G, F and C against constant discriminators, then these on what was drawn, old or new."""
        source, target = (ops.normalise(batch[name]["image"], "tanh") for name in ("source", "target"))

        def generator_loss(params) -> GeneratorLosses:
            there, back = (self._drawing(params, name) for name in (TRANSLATOR, BACK_TRANSLATOR))
            drawn = Images(there(source), back(target))
            cycle = jnp.mean(jnp.abs(back(drawn.translated) - source)) + jnp.mean(jnp.abs(there(drawn.back) - target))
            losses = {
                "adversarial_image": self.image_weight
                * self._discriminator.adversarial_loss(
                    _discriminator_params(params, IMAGE_DISCRIMINATOR), drawn.translated
                ),
                "adversarial_back": self.back_weight
                * self._discriminator.adversarial_loss(_discriminator_params(params, BACK_DISCRIMINATOR), drawn.back),
                "cycle": self.cycle_weight * cycle,
            }
            learnt, statistics = self._classifier_losses(params, state, batch["source"])
            losses |= learnt
            if self.semantic_weight:
                # The code looks at the loss of the batch before.
                enough = jax.lax.stop_gradient(learnt["segmentation"]) < self.semantic_below
                terms = self._semantic_losses(params, state, drawn, batch)
                losses |= {name: self.semantic_weight * enough * value for name, value in terms.items()}
            inputs, pools = self._exchange(state, drawn)
            return GeneratorLosses(losses, inputs, {"segmenter": statistics}, pools)

        def discriminator_loss(params, inputs: Images) -> DiscriminatorLosses:
            losses, metrics = {}, {}
            pairs = ((IMAGE_DISCRIMINATOR, inputs.translated, target), (BACK_DISCRIMINATOR, inputs.back, source))
            for name, images, real in pairs:
                loss, share = self._discriminator.discriminator_loss(_discriminator_params(params, name), images, real)
                losses[name], metrics[f"{name}/accuracy"] = loss, share
            return DiscriminatorLosses(losses, metrics)

        return two_player_step(state, *self.players(), generator_loss, discriminator_loss)

    def illustrate(self, state: base.TrainState, batch: base.Batch) -> dict[str, jax.Array]:
        """Returns the images of both domains and what the translators make of them, uint8 RGB [B, H, W, 3]."""
        back = self._drawing(state.params, BACK_TRANSLATOR)(ops.normalise(batch["target"]["image"], "tanh"))
        drawn = {"translated": self.translate(state.params, batch["source"]), "back": back}
        real = {name: batch[name]["image"] for name in ("source", "target")}
        return real | {name: ops.to_pixels(images) for name, images in drawn.items()}

    def translate(self, params: Mapping[str, Any], source: Mapping[str, jax.Array]) -> jax.Array:
        """Returns x~_s, float RGB [B, H, W, 3] in [-1, 1], for a batch of the source."""
        return self._drawing(params, TRANSLATOR)(ops.normalise(source["image"], "tanh"))

    def _drawing(self, params: Mapping[str, Any], name: str) -> Callable[[jax.Array], jax.Array]:
        """Returns a translator as a function of images in [-1, 1]."""
        module = self.translator.build(self.precision)

        def draw(images: jax.Array) -> jax.Array:
            with jax.named_scope(name):
                return module.apply({"params": params[name]}, images)

        return draw

    def _classifier_losses(
        self, params: Mapping[str, Any], state: base.TrainState, source: Mapping[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], Any]:
        """C's own loss, on the source's images as they are, and its next statistics."""
        model_state = state.model_state["segmenter"]
        key = dropout_key(state, 0)
        outputs, model_state = self.forward(params["segmenter"], model_state, source["image"], key=key)
        return segmentation_losses(self.segmenter, outputs, source["label"]), model_state

    def _semantic_losses(
        self, params: Mapping[str, Any], state: base.TrainState, drawn: Images, batch: base.Batch
    ) -> dict[str, jax.Array]:
        """The translators' side: what C, constant and in evaluation mode, sees in their images stays what it was."""
        constant = jax.lax.stop_gradient(params["segmenter"])

        def classify(images: jax.Array) -> dict[str, jax.Array]:
            inputs = ops.normalise(images, self.segmenter.input_norm)
            return forward(self.network, constant, state.model_state["segmenter"], inputs, train=False)[0]

        translated = classify(ops.from_tanh(drawn.translated))
        losses = segmentation_losses(self.segmenter, translated, batch["source"]["label"])
        seen = jnp.argmax(classify(batch["target"]["image"])["logits"], axis=-1)
        back = cross_entropy(classify(ops.from_tanh(drawn.back))["logits"], seen)
        return {"semantic": losses["segmentation"], "semantic_back": back}

    def _exchange(self, state: base.TrainState, drawn: Images) -> tuple[Images, dict[str, Any]]:
        """Returns the discriminators' inputs, detached, and the pools after them."""
        drawn = jax.lax.stop_gradient(drawn)
        inputs, pools = {}, {}
        for number, (name, images) in enumerate(drawn._asdict().items(), start=1):
            if name in state.extra:
                key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), number)
                inputs[name], pools[name] = ops.exchange_with_pool(state.extra[name], images, key)
        return drawn._replace(**inputs), pools


def _discriminator_params(params: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the parameters of one of the two discriminators where the section of image discriminators reads them."""
    return {IMAGE_DISCRIMINATOR: params[name]}


METHOD = Cycada
