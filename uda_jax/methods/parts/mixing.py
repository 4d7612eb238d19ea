"""Mixed images: half of a source image's classes pasted onto a target image, with pseudo-labels on the rest.

Source: DACS (arXiv 2007.08702) with its released code, and the other masks and pairs that the paper compares with.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from uda_jax import ops
from uda_jax.errors import UserError
from uda_jax.losses import cross_entropy
from uda_jax.methods.parts.segmenter import Segmenter
from uda_jax.methods.parts.state import Batch, Metrics, TrainState
from uda_jax.schema import config_field


@dataclasses.dataclass(frozen=True)
class StrongAugmentation:
    """Section: what is done to the colours of mixed images. Each half is on or off for a whole batch."""

    jitter: float = config_field(0.8, "Probability of the colour jitter.", low=0.0, high=1.0)
    brightness: float = config_field(
        0.25, "Largest change of brightness, added on a scale of 0 to 1.", low=0.0, high=1.0
    )
    contrast: float = config_field(0.25, "Largest deviation of the contrast's factor from 1.", low=0.0, high=1.0)
    saturation: float = config_field(0.25, "Largest deviation of the saturation's factor from 1.", low=0.0, high=1.0)
    hue: float = config_field(0.25, "Largest turn of the hue, in full turns.", low=0.0, high=0.5)
    blur: float = config_field(0.5, "Probability of the Gaussian blur.", low=0.0, high=1.0)
    blur_sigma: tuple[float, float] = config_field(
        (0.15, 1.15), "Bounds of the Gaussian's standard deviation, in pixels.", low=0.01
    )
    # kornia draws one order per call. DACS calls it for a batch, DAFormer for each mixed image, MIC for a batch again.
    order: str = config_field(
        "batch", "Whether the jitter's order is drawn for a batch or for each image.", choices=("batch", "image")
    )
    sigma: str = config_field(
        "image", "Whether the blur's deviation is drawn for a batch or for each image.", choices=("batch", "image")
    )

    def check(self, path: str) -> None:
        """Raises a UserError if the bounds are in the wrong order."""
        if self.blur_sigma[0] > self.blur_sigma[1]:
            raise UserError(f"{path}.blur_sigma: expected (low, high), got {self.blur_sigma!r}")

    def apply(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Returns float32 images on the scale of 0 to 255 for RGB images `[B, H, W, 3]` on the same scale."""
        jitter_key, jitter_switch, blur_key, blur_switch = jax.random.split(key, 4)
        count, size = images.shape[0], images.shape[1:3]

        def jittered(x: jax.Array) -> jax.Array:
            spans = {name: getattr(self, name) for name in ("brightness", "contrast", "saturation", "hue")}
            factors, order = ops.draw_jitter(jitter_key, count, **spans)
            if self.order == "batch":
                return 255.0 * ops.colour_jitter(x / 255.0, factors, order)
            orders = jax.vmap(lambda i: jax.random.permutation(jax.random.fold_in(jitter_key, i), 4))(jnp.arange(count))
            alone = lambda x, factors, order: ops.colour_jitter(x[None], factors[None], order)[0]  # noqa: E731
            return 255.0 * jax.vmap(alone)(x / 255.0, factors, orders)

        def blurred(x: jax.Array) -> jax.Array:
            low, high = self.blur_sigma
            drawn = jax.random.uniform(blur_key, (count if self.sigma == "image" else 1,), minval=low, maxval=high)
            return ops.gaussian_blur(x, jnp.broadcast_to(drawn, (count,)), ops.blur_kernel_size(size))

        # Conditions rather than selections: what is off costs nothing.
        images = images.astype(jnp.float32)
        images = jax.lax.cond(jax.random.bernoulli(jitter_switch, self.jitter), jittered, lambda x: x, images)
        return jax.lax.cond(jax.random.bernoulli(blur_switch, self.blur), blurred, lambda x: x, images)


class Mixed(NamedTuple):
    """A batch of mixed images.

    Attributes:
      mask: bool [B, H, W], M: True where the pixel is pasted, which is the source's but in naive mixing.
      image: float32 RGB [B, H, W, 3] on the scale of 0 to 255, augmented.
      label: int32 [B, H, W]: the source's label where M, the pseudo-label elsewhere.
      weight: float32 [B, H, W], how far a pixel counts.
    """

    mask: jax.Array
    image: jax.Array
    label: jax.Array
    weight: jax.Array


@dataclasses.dataclass(frozen=True)
class Trust:
    """Section: how far pseudo-labels are trusted."""

    threshold: float = config_field(0.968, "Confidence at which a pseudo-label is trusted.", low=0.0, high=1.0)
    pixel_weight: str = config_field(
        "threshold_uniform",
        "Weight of target pixels in mixed images. threshold_uniform: the share of the batch's pseudo-labels that is "
        "trusted, for all; threshold: 1 where trusted, 0 elsewhere; none: 1.",
        choices=("threshold_uniform", "threshold", "none"),
    )

    def target_weights(self, confidence: jax.Array, distrust: jax.Array | None = None) -> jax.Array:
        """Returns how far pseudo-labels count, `[B, H, W]`: by their confidence, and nothing in distrusted pixels.

        Distrusted pixels count towards the share of confident ones all the same, as in DAFormer's code.

        Args:
          confidence: the probabilities of the labels `[B, H, W]`.
          distrust: the map of that name, 1 where a label is to be left out, 0 elsewhere; None = nowhere.
        """
        trusted = (confidence >= self.threshold).astype(jnp.float32)
        weights = {"threshold_uniform": jnp.mean(trusted), "threshold": trusted, "none": 1.0}[self.pixel_weight]
        return jnp.broadcast_to(weights if distrust is None else weights * (1.0 - distrust), confidence.shape)


@dataclasses.dataclass(frozen=True)
class Mixing(Trust):
    """Section: how images are mixed and how far pseudo-labels are trusted."""

    masks: str = config_field(
        "classes",
        "Which part is pasted. classes: half of the classes (ClassMix); box: all but a box of half the area (CutMix); "
        "cow: irregular blots of half the area (CowMix); none: nothing, so that only pseudo-labels are learnt.",
        choices=("classes", "box", "cow", "none"),
    )
    # No script of DACS draws them; these are the bounds of ClassMix's, by the same authors, for crops of 512 pixels.
    cow_sigma: tuple[float, float] = config_field(
        (8.0, 32.0), "Bounds of the standard deviation, in pixels, of the blur that shapes blots.", low=0.1
    )
    # In the released code unlabelled pixels are one of an image's classes; the line against it is commented out.
    mix_ignored: bool = config_field(True, "Whether the ignored pixels of a source image count as one of its classes.")
    classes_of: str = config_field(
        "image",
        "Whether half of the classes of each source image are pasted (DACS) or of those of all images of the batch, of "
        "which an image may lack some (DAFormer).",
        choices=("image", "batch"),
    )
    augmentation: StrongAugmentation = config_field(StrongAugmentation(), "Colours of the mixed images.")

    def check(self, path: str) -> None:
        """Raises a UserError if the bounds are in the wrong order."""
        if self.cow_sigma[0] > self.cow_sigma[1]:
            raise UserError(f"{path}.cow_sigma: expected (low, high), got {self.cow_sigma!r}")

    def mix(self, state: TrainState, batch: Batch, labels: jax.Array, confidence: jax.Array) -> Mixed:
        """Pastes a part of each source image onto the target image at the same position of the batch.

        Args:
          state: gives the random numbers of the step.
          batch: source and target.
          labels, confidence: the target's pseudo-labels and their probabilities `[B, H, W]`.
        """
        mask, image = self.mixed_images(state, batch)
        label = ops.mix(mask, batch["source"]["label"].astype(jnp.int32), labels)
        weight = self.pixel_weights(mask, confidence, batch["target"].get("distrust"))
        return Mixed(mask, image, label, weight)

    def mix_targets(self, state: TrainState, images: jax.Array, labels: jax.Array, confidence: jax.Array) -> Mixed:
        """Pastes target images onto each other, each onto the next one of the batch: DACS's "naive mixing".

        Args:
          state: gives the random numbers of the step.
          images: the target's `[B, H, W, 3]`.
          labels, confidence: their pseudo-labels, by which classes are chosen, and the probabilities `[B, H, W]`.

        Raises:
          UserError: a batch of one image, which has no next one.
        """
        if len(images) == 1:
            raise UserError(
                "config.train.batch_size: expected at least 2, since target images are pasted onto each other, got 1"
            )
        following = lambda x: jnp.roll(x, -1, axis=0)  # noqa: E731
        pairs = {"source": {"image": images, "label": labels}, "target": {"image": following(images)}}
        mask, image = self.mixed_images(state, pairs)
        weight = self.pixel_weights(jnp.zeros_like(mask), confidence)
        mixed = (ops.mix(mask, x, following(x)) for x in (labels, weight))
        return Mixed(mask, image, *mixed)

    def mixed_images(self, state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns M and the augmented images of `Mixed`; raises a UserError for frames of two sizes."""
        check_sizes(batch)
        source, target = batch["source"], batch["target"]
        masks_key, colours_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        mask = self.drawn_masks(masks_key, source["label"])
        return mask, self.augmentation.apply(colours_key, ops.mix(mask, source["image"], target["image"]))

    def drawn_masks(self, key: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns M `[B, H, W]` for images to paste, with labels `[B, H, W]`."""
        match self.masks:
            case "classes":
                options = {"ignore_label": None if self.mix_ignored else 255, "of_batch": self.classes_of == "batch"}
                chosen = ops.choose_classes(key, labels, **options)
                return ops.classmix_mask(labels, chosen)
            case "box":
                return ops.box_masks(key, len(labels), labels.shape[1:])
            case "cow":
                return ops.cow_masks(key, len(labels), labels.shape[1:], self.cow_sigma)
        return jnp.zeros(labels.shape, bool)

    def pixel_weights(self, mask: jax.Array, confidence: jax.Array, distrust: jax.Array | None = None) -> jax.Array:
        """Returns w `[B, H, W]`: 1 where M, elsewhere by `target_weights`."""
        return jnp.where(mask, 1.0, self.target_weights(confidence, distrust))

    def label_and_mix(
        self, segmenter: Segmenter, state: TrainState, batch: Batch, logits: jax.Array, *, pasted: str = "source"
    ) -> tuple[Mixed, Metrics]:
        """Mixes a batch whose target is labelled by a teacher.

        Args:
          segmenter: the network's section, which says how its maps are interpolated.
          state: gives the random numbers of the step.
          batch: source and target.
          logits: the teacher's on the target `[B, h, w, C]`.
          pasted: "source", or "target" for `mix_targets`.

        Returns:
          The mixed batch, and the shares of confident pseudo-labels and, if any do, of pixels that come from the
          source.
        """
        images = batch["target"]["image"]
        labels, confidence = pseudo_labels(segmenter, logits, images.shape[1:3])
        shares = {"teacher/confident_share": (confidence >= self.threshold).mean()}
        if pasted == "target":
            return self.mix_targets(state, images, labels, confidence), shares
        mixed = self.mix(state, batch, labels, confidence)
        return mixed, shares | {"mixing/source_share": mixed.mask.mean()}


def pseudo_labels(segmenter: Segmenter, logits: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Reads labels off a teacher's logits: interpolated first, normalised after.

    Args:
      segmenter: the network's section, which says how its maps are interpolated.
      logits: `[B, h, w, C]`.
      size: height and width of the labels.

    Returns:
      The most probable class, int32 `[B, *size]`, and its probability, float32 `[B, *size]`.
    """
    logits = segmenter.upsample(logits, size)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), jnp.max(jax.nn.softmax(logits), axis=-1)


def mixed_loss(segmenter: Segmenter, logits: jax.Array, mixed: Mixed) -> jax.Array:
    """Cross entropy of the student's logits `[B, h, w, C]` on mixed images, weighted by pixel, over all pixels."""
    logits = segmenter.upsample(logits, mixed.label.shape[1:3])
    return cross_entropy(logits, mixed.label, pixel_weights=mixed.weight)


def illustrate_mixing(method: Any, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
    """The `illustrate` of a method with a field `mixing`: {"mixed": uint8 RGB [B, H, W, 3]} of the next step."""
    _, image = method.mixing.mixed_images(state, batch)
    return {"mixed": as_picture(image)}


def as_picture(image: jax.Array) -> jax.Array:
    """Returns uint8 images for float ones on the scale of 0 to 255."""
    return jnp.clip(jnp.round(image), 0, 255).astype(jnp.uint8)


def check_single_head(method: Any, path: str) -> None:
    """The `check` of a method that trains one head: raises a UserError for a second one, which nothing would train."""
    if method.segmenter.multi_level:
        raise UserError(f"{path}.segmenter.multi_level: expected False: this method trains one head, got True")


def check_sizes(batch: Batch) -> None:
    """Raises a UserError unless source and target can be laid over each other."""
    source, target = (batch[name]["image"].shape[1:3] for name in ("source", "target"))
    if source != target:
        raise UserError(
            f"config.data: expected source and target frames of one size, since they are mixed, got {source} and "
            f"{target}; give both the same size or crop"
        )
