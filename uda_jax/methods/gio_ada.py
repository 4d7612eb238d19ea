"""GIO-Ada: geometrically guided input-output adaptation (Chen et al., CVPR 2019, arXiv 1812.05040).

The source has labels y_s and depth d_s, the target x_t neither. They meet at two levels, either of which may be off:

    input    x~_s = G_img(x_s, d_s, y_s), the source redrawn to look like the target; D_img tells x~_s from x_t
    output   o = (P, q), class probabilities and depth of the task network G_task; D_out tells o(x~_s) from o(x_t)

    G_img, G_task:  min  lambda_seg L_seg(P(x~_s), y_s) + lambda_depth L_depth(q(x~_s), d_s)
                         + lambda_img L(D_img(x~_s), target) + lambda_out L(D_out(o(x_t)), source)
                         + lambda_self mean |x~_s - x_s|
    D_img:          min  1/2 [ L(D_img(x~_s), source) + L(D_img(x_t), target) ]
    D_out:          min  1/2 [ L(D_out(o(x~_s)), source) + L(D_out(o(x_t)), target) ]

There is no cycle: the losses of the task, which reach G_img through x~_s, keep a redrawn image true to its label and
depth. No code was published; what is not known of networks, losses, weights and stages is as in CycleGAN, AdaptSegNet
and DADA for the same part, and most of it an option.
"""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from uda_jax import networks, ops
from uda_jax.errors import UserError
from uda_jax.losses import absolute_depth, adversarial, berhu, self_information
from uda_jax.methods import base
from uda_jax.methods.adversarial import TARGET, Discriminator, OutputAlignment, depth_map, judgement, source_depth
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Adam, Sgd
from uda_jax.training.precision import compute_dtype
from uda_jax.training.schedules import Schedule

TRANSLATOR, IMAGE_DISCRIMINATOR = "translator", "image_discriminator"

CYCLEGAN_ADAM = Adam(learning_rate=2e-4, beta1=0.5, beta2=0.999)


@dataclasses.dataclass(frozen=True)
class Translator:
    """Section: the network that redraws source images, G_img, and how it learns."""

    name: str = config_field(
        "translator", "CycleGAN's generator or SimGAN's refiner.", choices=("translator", "refiner")
    )
    width: int = config_field(64, "Channels of its first layer.", low=1)
    blocks: int = config_field(9, "Residual blocks; SimGAN has 4.", low=1)
    remat: bool = config_field(False, "Recompute its blocks' activations in the backward pass to save memory.")
    optimiser: Adam = config_field(CYCLEGAN_ADAM, "Its optimiser.")


@dataclasses.dataclass(frozen=True)
class GIOAda(OutputAlignment):
    """Adaptation of the images that go into the task network, and of the classes and depth that come out."""

    segmenter: base.Segmenter = config_field(base.Segmenter(name="deeplab_v2_vgg16"), "The task network, G_task.")
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
        True, "Whether the task network's losses on redrawn images reach G_img."
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
    self_weight: float = config_field(0.0, "lambda_self, weight of the mean change of a redrawn image.", low=0.0)

    def check(self, path: str) -> None:
        """Raises a UserError for fields that contradict each other, or of which one leaves another without effect."""
        joint, redraws = self.output_level == "seg+depth", self.input_level != "none"
        supervised = self.segmentation_weight or (self.depth_head and self.depth_weight)
        redrawn_alone = self._judges_images or (redraws and self.self_weight)
        unsupervised = redrawn_alone or self._judges_outputs
        taught = redrawn_alone or (self.task_grad_to_transform and supervised)
        requirements = [
            ("segmentation_weight", supervised or unsupervised, "a number above 0, since no other loss is on"),
            ("depth_head", self.depth_head or not joint, "True with output_level 'seg+depth'"),
            ("output_input", joint or self.output_input == "concat", "'concat' unless output_level is 'seg+depth'"),
            ("image_pool", not self.image_pool or self._judges_images, "0 without an image discriminator"),
            ("freeze_task", not self.freeze_task or redraws, "False where no image is redrawn"),
            ("output_level", not self.freeze_task or self.output_level == "none", "'none' with a frozen task network"),
            ("train_on_untranslated", not self.train_on_untranslated or redraws, "False where no image is redrawn"),
            ("train_on_untranslated", not (self.train_on_untranslated and self.freeze_task), "False with freeze_task"),
            ("train_on_untranslated", not self.train_on_untranslated or supervised, "False with no loss of the task"),
            ("task_grad_to_transform", not redraws or taught, "True where no other loss teaches G_img"),
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
    def transform(self) -> nn.Module:
        """The Flax module of G_img."""
        section, dtype = self.translator, compute_dtype(self.precision)
        options = {"width": section.width, "blocks": section.blocks, "remat": section.remat, "dtype": dtype}
        return networks.build(section.name, self.num_classes, **options)

    @property
    def image_judge(self) -> nn.Module:
        """The Flax module of D_img."""
        width, dtype = self.image_discriminator.width, compute_dtype(self.precision)
        return networks.build("patch_discriminator", self.num_classes, width=width, dtype=dtype)

    @property
    def adapted(self) -> tuple[str, ...]:
        """The networks on the side that is judged."""
        names = ("segmenter", TRANSLATOR) if self.input_level != "none" else ("segmenter",)
        return names[1:] if self.freeze_task else names

    @property
    def judged_channels(self) -> int:
        """Channels of the maps that D_out sees."""
        beside = self.output_level == "seg+depth" and self.output_input == "concat"
        return self.num_classes + 1 if beside else self.num_classes

    @property
    def _judges_images(self) -> bool:
        return self.input_level != "none" and self.image_weight > 0

    @property
    def _judges_outputs(self) -> bool:
        return self.output_level != "none" and self.target_weight > 0

    def players(self, names: list[str]) -> dict[str, tuple[Sgd | Adam, list[str]]]:
        """Every network is a player, but a frozen one."""
        sections = {name: getattr(self, name) for name in (TRANSLATOR, IMAGE_DISCRIMINATOR, "discriminator")}
        optimisers = {name: section.optimiser for name, section in sections.items()} | {"segmenter": self.optimiser}
        return {name: (optimisers[name], [name]) for name in names if name != "segmenter" or not self.freeze_task}

    def decay(self, player: str) -> Schedule:
        """The decay of a player's rate: one form for what draws and judges images, another for the rest."""
        images = player in (TRANSLATOR, IMAGE_DISCRIMINATOR)
        return dataclasses.replace(self.schedule, name=self.image_decay) if images else self.schedule

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state; a level that is off adds no network, the image pool is empty."""
        variables = self.initial_variables(key, example_batch, judges=self._judges_outputs)
        size = example_batch["source"]["image"].shape[1:3]
        # Keys 0 to 2 belong to the segmenter and its discriminators.
        if self.input_level != "none":
            channels = 3 + ("depth" in self.input_level) + ("label" in self.input_level) * self.num_classes
            variables[TRANSLATOR] = self.transform.init(jax.random.fold_in(key, 3), jnp.zeros((1, *size, channels)))
        if self._judges_images:
            images = jnp.zeros((1, *size, 3))
            variables[IMAGE_DISCRIMINATOR] = self.image_judge.init(jax.random.fold_in(key, 4), images)
        return self.first_state(key, variables, ops.empty_pool(self.image_pool, size) if self.image_pool else None)

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration of all players; with a level off, or a weight of 0, without its part."""
        source = batch["source"]

        def adapted_loss(params, others):
            params, losses, shown = {**others, **params}, {}, {"pool": {}}
            images, model_state = source["image"], state.model_state["segmenter"]
            if self.input_level != "none":
                redrawn = self.redraw(params, source)
                losses |= self._input_losses(params, redrawn, source["image"])
                if self._judges_images:
                    shown["images"], shown["pool"] = self._pooled(state, redrawn)
                images = ops.from_tanh(redrawn if self.task_grad_to_transform else jax.lax.stop_gradient(redrawn))
            # Redrawn source, source, target: each has its own batch statistics, and updates the running ones.
            outputs_s, maps_s, model_state = self.forward(params, model_state, images)
            losses |= self._task_losses(outputs_s, batch)
            if self.train_on_untranslated:
                outputs, _, model_state = self.forward(params, model_state, source["image"])
                terms = self._task_losses(outputs, batch)
                losses |= {f"untranslated_{name}": value for name, value in terms.items()}
            if self._judges_outputs:
                outputs_t, maps_t, model_state = self.forward(params, model_state, batch["target"]["image"])
                shown["outputs"] = (self.judged_maps(outputs_s, maps_s), self.judged_maps(outputs_t, maps_t))
                losses |= self.fooling_losses(params, shown["outputs"][1])
            return losses, shown, state.model_state["segmenter"] if self.freeze_task else model_state

        def judge_loss(judges, shown):
            losses, metrics = {}, {}
            if self._judges_outputs:
                losses, metrics = self.discriminator_losses(judges, *shown["outputs"])
            if self._judges_images:
                images = (shown["images"], ops.normalise(batch["target"]["image"], "tanh"))
                both, share = judgement(*self._decisions(judges, *images), kind=self.image_discriminator.kind)
                losses[IMAGE_DISCRIMINATOR], metrics[f"{IMAGE_DISCRIMINATOR}/accuracy"] = 0.5 * both, share
            return losses, metrics

        judging = judge_loss if self._judges_outputs or self._judges_images else None
        keep = lambda state, shown: state.replace(extra=state.extra | shown["pool"])  # noqa: E731
        return self.adversarial_step(state, adapted_loss, judging, keep)

    def predict(self, state: base.TrainState, images: jax.Array, size: tuple[int, int]) -> dict[str, jax.Array]:
        """As any method's; the parameters of the depth head and of the other networks are not read."""
        return super(GIOAda, dataclasses.replace(self, depth_head=False)).predict(state, images, size)

    def illustrate(self, state: base.TrainState, batch: base.Batch) -> dict[str, jax.Array]:
        """Returns the source's images and what G_img makes of them, uint8 RGB [B, H, W, 3]; nothing without it."""
        if self.input_level == "none":
            return {}
        pixels = jnp.round(ops.from_tanh(self.redraw(state.params, batch["source"])))
        return {"source": batch["source"]["image"], "translated": jnp.clip(pixels, 0, 255).astype(jnp.uint8)}

    def redraw(self, params: Mapping[str, Any], source: Mapping[str, jax.Array]) -> jax.Array:
        """Returns x~_s, float RGB [B, H, W, 3] in [-1, 1], for a batch of the source."""
        return self.transform.apply({"params": params[TRANSLATOR]}, self.condition(source))

    def condition(self, source: Mapping[str, jax.Array]) -> jax.Array:
        """Returns what G_img sees of the source [B, H, W, 3 + 1 + C], as far as the input level has it.

        The image in [-1, 1]; depth in [-1, 1], invalid 0; the label one-hot, all zeros where it is ignored.
        """
        parts = [ops.normalise(source["image"], "tanh")]
        if "depth" in self.input_level:
            depth = source_depth({"source": source})
            parts.append(jnp.where(depth > 0, 2.0 * self._shares(depth) - 1.0, 0.0))
        if "label" in self.input_level:
            parts.append(jax.nn.one_hot(source["label"].astype(jnp.int32), self.num_classes))
        return jnp.concatenate(parts, axis=-1)

    def judged_maps(self, outputs: Mapping[str, jax.Array], maps: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what D_out sees, {"logits": [B, H, W, C or C + 1]}: probabilities, and as the level says depth."""
        p = maps["logits"]
        if self.output_level == "seg":
            return {"logits": p}
        depth = depth_map(outputs, p.shape[1:3])
        product = self.output_input == "product"
        return {"logits": self_information(p) * depth if product else jnp.concatenate([p, depth], axis=-1)}

    def _input_losses(self, params: Mapping[str, Any], redrawn: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
        """G_img's side of the input level: redrawn images shall be taken for the target's, and change little."""
        losses, kind = {}, self.image_discriminator.kind
        if self._judges_images:
            (decisions,) = self._decisions(params, redrawn)
            losses["adversarial_image"] = self.image_weight * adversarial(decisions, TARGET, kind=kind)
        if self.self_weight:
            losses["self"] = self.self_weight * jnp.mean(jnp.abs(redrawn - ops.normalise(images, "tanh")))
        return losses

    def _decisions(self, judges: Mapping[str, Any], *images: jax.Array) -> list[jax.Array]:
        """D_img's logits of images [B, H, W, 3] in [-1, 1]."""
        return [self.image_judge.apply({"params": judges[IMAGE_DISCRIMINATOR]}, each) for each in images]

    def _task_losses(self, outputs: Mapping[str, jax.Array], batch: base.Batch) -> dict[str, jax.Array]:
        """The supervised losses on the source, on its images in whichever form."""
        losses = {}
        if self.segmentation_weight:
            terms = base.segmentation_losses(outputs, batch["source"]["label"].astype(jnp.int32))
            losses = {name: self.segmentation_weight * value for name, value in terms.items()}
        if self.depth_head and self.depth_weight:
            target, mask = self.depth_supervision(source_depth(batch))
            loss = absolute_depth if self.depth_loss == "l1" else berhu
            losses["depth"] = self.depth_weight * loss(depth_map(outputs, target.shape[1:3]), target, mask)
        return losses

    def depth_supervision(self, depth: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns what depth in metres [B, H, W, 1], 0 = invalid, teaches: targets and which pixels count."""
        if self.depth_target == "inverse":
            target = ops.inverse_depth(depth, nearest=self.nearest_depth) / self.depth_unit
            return target, jnp.ones_like(target, bool)
        return self._shares(depth), depth > 0

    def _shares(self, depth: jax.Array) -> jax.Array:
        return jnp.clip(depth / self.farthest_depth, 0.0, 1.0)

    def _pooled(self, state: base.TrainState, redrawn: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the images that D_img sees, and the pool after them."""
        redrawn = jax.lax.stop_gradient(redrawn)
        if not self.image_pool:
            return redrawn, {}
        expected, got = (f"{images.shape[1]}x{images.shape[2]}" for images in (redrawn, state.extra["pool"]))
        if got != expected:
            raise UserError(
                f"config.data.source.size: expected {expected} (height x width), the frames' own, which the image pool "
                f"has to know, got {got}; set it, or a crop"
            )
        return ops.exchange_with_pool(state.extra, redrawn, jax.random.fold_in(state.key, state.step))


METHOD = GIOAda
