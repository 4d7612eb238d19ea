"""VFM-UDA: a foundation encoder, adapted by a teacher's labels (Englert et al., CVPR-W 2024, arXiv 2406.09896).

Take it where a foundation encoder's weights (DINOv2) are at hand, and a GPU.

    pseudo-labels   p = (softmax g(x_t) + flip softmax g(flip x_t)) / 2,  y_t = argmax p,
                    w = share of the batch's pixels with max p >= threshold, 0 where labels are distrusted
    mixing          M = pixels of half of the classes of all source images of the batch
                    x_m = augment(M x_s + (1 - M) weak(x_t)),  y_m, w_m likewise, of weight 1 where M
    student f       min  CE(f(A(x_s)), y_s) + mean_pixels w_m CE(f(x_m), y_m) + mean_pixels w CE(f(mask(x_t')), y_t)
                    with x_t' = augment(x_t), seven in ten of its patches hidden
    teacher g       after the step:  theta_g <- a theta_g + (1 - a) theta_f,  a = min(1 - 1 / (t + 1), alpha),
                    t the steps done

VFM-UDA++ (ICCV-W 2025, arXiv 2503.10685) augments source images strongly, has an adapter between the encoder's blocks,
and keeps the projected features h(f) of both domains near those of a frozen, larger encoder F_0:

                    + lambda sum over domains of the distance of h(f(weak(x))) and F_0(x)

The source's cross entropy is a mean over its labelled pixels, the other two over all pixels. With a weight of `masking`
the hidden parts are MIC's (arXiv 2212.01322): blocks of the image in place of patches.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from uda_jax import ops
from uda_jax.errors import UserError
from uda_jax.methods import base
from uda_jax.methods.parts.augmentation import Augmentation, weak
from uda_jax.methods.parts.forward import dropout_key, forward, segmentation_losses
from uda_jax.methods.parts.frozen_features import HEAD, FrozenFeatures
from uda_jax.methods.parts.labelled import Labelled, weighted_cross_entropy
from uda_jax.methods.parts.masking import Masking
from uda_jax.methods.parts.mixing import as_picture, check_sizes
from uda_jax.methods.parts.pseudo_labels import PseudoLabels, flip_averaged
from uda_jax.methods.parts.teacher import MeanTeacher, predict_with_teacher
from uda_jax.methods.parts.updates import Player, Previous, initial_state, single_player_step
from uda_jax.networks.foundation import InputOptions
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, adamw

# What a step draws for; each has a key of its own.
_DRAWS = ("classes", "source", "mixed", "mixed_target", "masked", "mask", "features_source", "features_target")


@dataclasses.dataclass(frozen=True)
class VfmUda(base.SegmentationMethod):
    """Self-training of a foundation encoder on mixed and on masked images."""

    PREDICTION_FIELDS = ("predict_with",)

    optimiser: Optimiser = config_field(adamw(head_multiplier=10.0), "Optimiser of the student.")
    teacher: MeanTeacher = config_field(MeanTeacher(alpha=0.999, first_update=1), "The teacher.")
    threshold: float = config_field(
        0.968, "Confidence at which a pseudo-label counts towards the share that all weigh.", low=0.0, high=1.0
    )
    source_augmentation: Augmentation = config_field(weak(), "Colours of source images (VFM-UDA++: strong).")
    weak: Augmentation = config_field(weak(), "Colours of target images before they are mixed, and of features'.")
    augmentation: Augmentation = config_field(Augmentation(), "Colours of mixed and of masked images.")
    mixed_weight: float = config_field(1.0, "Weight of the cross entropy on mixed images.", low=0.0)
    masked_weight: float = config_field(1.0, "Weight of the cross entropy on masked images.", low=0.0)
    mask_ratio: float = config_field(
        0.7, "Share of a masked image's patches, or of its blocks with a pyramid, that are hidden.", low=0.0, high=1.0
    )
    masking: Masking = config_field(
        Masking(weight=0.0), "Masked images as MIC has them; with a weight, masked_weight has to be 0."
    )
    distance: FrozenFeatures = config_field(FrozenFeatures(), "The distance to a frozen encoder's features.")
    predict_with: str = config_field("student", "Network that predicts.", choices=("student", "teacher"))

    predict = predict_with_teacher

    def check(self, path: str) -> None:
        """Raises a UserError for a network that cannot hide patches, and for parts that exclude each other."""
        if not isinstance(self.segmenter.options, InputOptions):
            raise UserError(
                f"{path}.segmenter.name: expected a network on a foundation encoder, such as light_dinov2_vitb14, got "
                f"'{self.segmenter.name}'"
            )
        if self.masked_weight and self.masking.weight:
            raise UserError(
                f"{path}.masked_weight: expected 0 with a weight of masking, whose masked images take the place of "
                f"these, got {self.masked_weight}"
            )
        self.distance.check_student(self.segmenter, path)

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state; with a distance, the projection and the frozen encoder, too."""
        check_sizes(example_batch)
        segmenter = self.initial_segmenter(key, example_batch)
        image = example_batch["source"]["image"][:1]
        further, frozen = self.distance.init(self, key, segmenter, image)
        variables = {"segmenter": segmenter, **further}
        state = initial_state(key, variables, {"segmenter": self.student(variables)}, frozen=frozen)
        return self.teacher.init(self.distance.with_start(state))

    def student(self, networks: Any) -> Player:
        """Returns who learns: the segmenter and, if it is among the networks, the projection of its features."""
        names = ("segmenter", HEAD) if HEAD in networks else ("segmenter",)
        player = self.player(*names, optimiser=self.optimiser)
        return dataclasses.replace(player, depth=self.segmenter.layer_depth)

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration: the teacher labels the target, the student learns, the teacher is updated."""
        source, target, state = batch["source"], batch["target"], self.distance.with_start(state)
        keys = dict(zip(_DRAWS, jax.random.split(jax.random.fold_in(state.key, state.step), len(_DRAWS)), strict=True))
        labels, teacher = self.pseudo_labels(state, target)
        pasted, mixed = self.mixed(keys, batch, labels)
        seen = self.source_augmentation.apply(keys["source"], source["image"])

        def source_loss(params):
            model_state, key = state.model_state["segmenter"], dropout_key(state, 0)
            outputs, model_state = self.forward(params["segmenter"], model_state, seen, key=key)
            return segmentation_losses(self.segmenter, outputs, source["label"]), {"segmenter": model_state}

        def mixed_loss(params, before: Previous):
            images, model_state = before.then(mixed.image), before.found[1]["segmenter"]
            outputs, model_state = self.forward(params["segmenter"], model_state, images, key=dropout_key(state, 1))
            loss = self.mixed_weight * weighted_cross_entropy(self.segmenter, outputs["logits"], mixed)
            return {"mixed": loss}, {"segmenter": model_state}

        masked = self.masked_losses(state, target["image"], labels, keys)
        parts = [source_loss, mixed_loss, *masked, *self.feature_losses(state, batch, keys)]
        state, metrics = single_player_step(state, self.student(state.params), *parts)
        metrics["teacher/confident_share"] = (labels.confidence >= self.threshold).mean()
        metrics["mixing/source_share"] = pasted.mean()
        return self.teacher.update(teacher, state, self.accumulation), metrics

    def pseudo_labels(self, state: base.TrainState, target: Any) -> tuple[PseudoLabels, dict[str, Any]]:
        """Returns the target's labels by the teacher, who sees the images as they are and mirrored, and its entry."""
        images = target["image"]
        outputs, teacher = self.teacher.forward(self, state, images)
        mirrored, model_state = self.forward(teacher["params"], teacher["model_state"], images[:, :, ::-1])
        logits = (self.segmenter.upsample(maps["logits"], images.shape[1:3]) for maps in (outputs, mirrored))
        labels = flip_averaged(*logits, threshold=self.threshold, distrust=target.get("distrust"))
        return labels, teacher | {"model_state": model_state}

    def mixed(self, keys: dict[str, jax.Array], batch: base.Batch, labels: PseudoLabels) -> tuple[jax.Array, Labelled]:
        """Returns M `[B, H, W]`, and the mixed images with their labels, of which ignored ones weigh nothing."""
        pasted, images = self.mixed_images(keys, batch)
        label = batch["source"]["label"].astype(jnp.int32)
        weight = ops.mix(pasted, (label != 255).astype(jnp.float32), labels.weight)
        return pasted, Labelled(images, ops.mix(pasted, label, labels.label), weight)

    def mixed_images(self, keys: dict[str, jax.Array], batch: base.Batch) -> tuple[jax.Array, jax.Array]:
        """Returns M, and the augmented images; of a source image all classes of the batch may be pasted, 255, too."""
        source, target = batch["source"], batch["target"]
        pasted = ops.classmix_mask(source["label"], ops.choose_classes(keys["classes"], source["label"], of_batch=True))
        weakly = self.weak.apply(keys["mixed_target"], target["image"])
        images = ops.mix(pasted, source["image"].astype(jnp.float32), weakly)
        return pasted, self.augmentation.apply(keys["mixed"], images)

    def masked_losses(
        self, state: base.TrainState, images: jax.Array, labels: PseudoLabels, keys: dict[str, jax.Array]
    ) -> list[Callable]:
        """Returns the part of the loss that masked images are: of hidden patches, or of MIC's hidden blocks."""
        if self.masking.weight:
            return [self.masking.part(self, state, Labelled(images, labels.label, labels.weight))]
        masked = Labelled(self.augmentation.apply(keys["masked"], images), labels.label, labels.weight)

        def masked_loss(params, before: Previous):
            images, model_state = before.then(masked.image), before.found[1]["segmenter"]
            outputs, model_state = self.forward_masked(
                params["segmenter"], model_state, images, keys["mask"], dropout_key(state, 2)
            )
            loss = self.masked_weight * weighted_cross_entropy(self.segmenter, outputs["logits"], masked)
            return {"masked": loss}, {"segmenter": model_state}

        return [masked_loss]

    def forward_masked(
        self, params: Any, model_state: Any, images: jax.Array, key: jax.Array, dropout: jax.Array
    ) -> tuple[dict[str, jax.Array], Any]:
        """Forwards images as `forward` does, a share of whose patches or blocks is hidden."""
        uniform = jax.random.uniform(key, (len(images), *self.network.mask_grid(images.shape[1:3])))
        inputs, mask = ops.normalise(images, self.segmenter.input_norm), uniform < self.mask_ratio
        return forward(self.network, params, model_state, inputs, train=True, key=dropout, mask=mask)

    def feature_losses(self, state: base.TrainState, batch: base.Batch, keys: dict[str, jax.Array]) -> list[Callable]:
        """Returns the distances to the frozen encoder's features as parts of the loss, one for each domain."""
        if not self.distance.weight:
            return []

        def part(domain: str, number: int) -> Callable:
            images = batch[domain]["image"]
            reference = self.distance.reference(self, state, images)
            weakly = self.weak.apply(keys[f"features_{domain}"], images)

            def feature_loss(params, before: Previous):
                model_state, key = before.found[1]["segmenter"], dropout_key(state, number)
                outputs, model_state = self.forward(params["segmenter"], model_state, before.then(weakly), key=key)
                loss = self.distance.loss(self, params, outputs, reference)
                return {f"features_{domain}": loss}, {"segmenter": model_state}

            return feature_loss

        return [part("source", 3), part("target", 4)]

    def illustrate(self, state: base.TrainState, batch: base.Batch) -> dict[str, jax.Array]:
        """Returns {"mixed": uint8 RGB [B, H, W, 3]} of the next step."""
        keys = dict(zip(_DRAWS, jax.random.split(jax.random.fold_in(state.key, state.step), len(_DRAWS)), strict=True))
        return {"mixed": as_picture(self.mixed_images(keys, batch)[1])}


METHOD = VfmUda
