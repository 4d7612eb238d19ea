"""What self-training on mixed images shares: DACS and CorDA.

A student learns from labelled source images and from mixed ones, into whose target half a teacher's predictions are
filled. The teacher is an average of the student over its training (a mean teacher). `SelfTraining` holds the fields,
the teacher and the mixing; a method file adds the losses and the order of one iteration.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from uda_jax import ops
from uda_jax.errors import UserError
from uda_jax.methods import base
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
            return 255.0 * ops.colour_jitter(x / 255.0, *ops.draw_jitter(jitter_key, count, **spans))

        def blurred(x: jax.Array) -> jax.Array:
            low, high = self.blur_sigma
            sigmas = jax.random.uniform(blur_key, (count,), minval=low, maxval=high)
            return ops.gaussian_blur(x, sigmas, ops.blur_kernel_size(size))

        # Conditions rather than selections: what is off costs nothing.
        images = images.astype(jnp.float32)
        images = jax.lax.cond(jax.random.bernoulli(jitter_switch, self.jitter), jittered, lambda x: x, images)
        return jax.lax.cond(jax.random.bernoulli(blur_switch, self.blur), blurred, lambda x: x, images)


class Mixed(NamedTuple):
    """A batch of mixed images.

    Attributes:
      mask: bool [B, H, W], M: True where the pixel is the source's.
      image: float32 RGB [B, H, W, 3] on the scale of 0 to 255, augmented.
      label: int32 [B, H, W]: the source's label where M, the pseudo-label elsewhere.
      weight: float32 [B, H, W], how far a pixel counts.
    """

    mask: jax.Array
    image: jax.Array
    label: jax.Array
    weight: jax.Array


@dataclasses.dataclass(frozen=True)
class SelfTraining(base.SegmenterAlone):
    """Fields, teacher and mixing of a method that learns from its own labels on mixed images."""

    # Fields that a trained run can still change, since they act in `predict` alone.
    PREDICTION_FIELDS = ("predict_with",)

    teacher_alpha: float = config_field(
        0.99,
        "Share of the teacher that an update keeps; the first, t = 0 on, keep less, 1 - 1 / (t + 1).",
        low=0,
        high=1,
    )
    threshold: float = config_field(0.968, "Confidence at which a pseudo-label is trusted.", low=0.0, high=1.0)
    pixel_weight: str = config_field(
        "threshold_uniform",
        "Weight of target pixels in mixed images. threshold_uniform: the share of the batch's pseudo-labels that is "
        "trusted, for all; threshold: 1 where trusted, 0 elsewhere; none: 1.",
        choices=("threshold_uniform", "threshold", "none"),
    )
    # In the released code unlabelled pixels are one of an image's classes; the line against it is commented out.
    mix_ignored: bool = config_field(True, "Whether the ignored pixels of a source image count as one of its classes.")
    mixed_weight: float = config_field(1.0, "Weight of the cross entropy on mixed images; 0 = off.", low=0.0)
    augmentation: StrongAugmentation = config_field(StrongAugmentation(), "Colours of the mixed images.")
    predict_with: str = config_field("student", "Network that predicts.", choices=("student", "teacher"))

    def check(self, path: str) -> None:
        """Raises a UserError for a second classifier, which nothing would train."""
        if self.segmenter.multi_level:
            raise UserError(f"{path}.segmenter.multi_level: expected False: this method trains one head, got True")

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state: student and teacher."""
        _check_sizes(example_batch)
        state = super().init(key, example_batch)
        # Memory of its own: the step donates both.
        return state.replace(teacher=jax.tree.map(jnp.copy, _student(state)))

    def forward(self, params: Any, model_state: Any, images: jax.Array) -> tuple[dict[str, jax.Array], Any]:
        """Returns the outputs for RGB images of the scale 0 to 255 in training mode, and the next statistics."""
        inputs = ops.normalise(images, self.segmenter.input_norm)
        return base.forward(self.network, params, model_state, inputs, train=True)

    def teacher(self, state: base.TrainState) -> dict[str, Any]:
        """Returns the teacher's params and model state; at step 0 the student's, whatever its weights come from."""
        first = state.step == 0
        return jax.tree.map(lambda s, t: jnp.where(first, s, t), _student(state), state.teacher)

    def followed(self, teacher: Any, state: base.TrainState) -> Any:
        """Returns the teacher's parameters after a step of the student; between the batches of one update they stay.

        Args:
          teacher: its parameters before.
          state: the student after its step, with the step's number still that of before.
        """
        moved = average(teacher, state.params["segmenter"], state.step // self.accumulation, self.teacher_alpha)
        if self.accumulation == 1:
            return moved
        updated = (state.step + 1) % self.accumulation == 0
        return jax.tree.map(lambda before, after: jnp.where(updated, after, before), teacher, moved)

    def mix(self, state: base.TrainState, batch: base.Batch, labels: jax.Array, confidence: jax.Array) -> Mixed:
        """Pastes half of each source image's classes onto the target image of the same place in the batch.

        Args:
          state: gives the random numbers of the step.
          batch: source and target.
          labels, confidence: the target's pseudo-labels and their probabilities `[B, H, W]`.
        """
        mask, image = self.mixed_images(state, batch)
        label = ops.mix(mask, batch["source"]["label"].astype(jnp.int32), labels)
        return Mixed(mask, image, label, self.pixel_weights(mask, confidence))

    def mixed_images(self, state: base.TrainState, batch: base.Batch) -> tuple[jax.Array, jax.Array]:
        """Returns M and the augmented images of `Mixed`."""
        _check_sizes(batch)
        source, target = batch["source"], batch["target"]
        classes_key, colours_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        chosen = ops.choose_classes(classes_key, source["label"], ignore_label=None if self.mix_ignored else 255)
        mask = ops.classmix_mask(source["label"], chosen)
        return mask, self.augmentation.apply(colours_key, ops.mix(mask, source["image"], target["image"]))

    def pixel_weights(self, mask: jax.Array, confidence: jax.Array) -> jax.Array:
        """Returns w `[B, H, W]`: 1 where M, elsewhere what the confidence of the pseudo-labels is worth."""
        trusted = (confidence >= self.threshold).astype(jnp.float32)
        worth = {"threshold_uniform": jnp.mean(trusted), "threshold": trusted, "none": 1.0}
        return jnp.where(mask, 1.0, worth[self.pixel_weight])

    def illustrate(self, state: base.TrainState, batch: base.Batch) -> dict[str, jax.Array]:
        """Returns {"mixed": uint8 RGB [B, H, W, 3]}, the images that the next step would learn from."""
        _, image = self.mixed_images(state, batch)
        return {"mixed": jnp.clip(jnp.round(image), 0, 255).astype(jnp.uint8)}

    def predict(self, state: base.TrainState, images: jax.Array, size: tuple[int, int]) -> dict[str, jax.Array]:
        """Returns {"scores": logits [B, *size, C]} of the network that `predict_with` names; see the base class."""
        if self.predict_with == "teacher":
            chosen = {name: {"segmenter": part} for name, part in self.teacher(state).items()}
            state = state.replace(**chosen)
        return super().predict(state, images, size)


def pseudo_labels(logits: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Reads labels off a teacher's logits: interpolated first, normalised after.

    Args:
      logits: `[B, h, w, C]`.
      size: height and width of the labels.

    Returns:
      The most probable class, int32 `[B, *size]`, and its probability, float32 `[B, *size]`.
    """
    logits = ops.resize_bilinear(logits, size, align_corners=True)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), jnp.max(jax.nn.softmax(logits), axis=-1)


def average(teacher: Any, student: Any, step: jax.Array, alpha: float) -> Any:
    """Moves a teacher towards its student: theta_g <- a theta_g + (1 - a) theta_f, a = min(1 - 1 / (t + 1), alpha).

    Args:
      teacher, student: parameters of one structure.
      step: t, the updates before this one; at 0 the result is the student.
      alpha: the largest a.
    """
    kept = jnp.minimum(1.0 - 1.0 / (step + 1.0), alpha)
    return jax.tree.map(lambda t, s: kept * t + (1.0 - kept) * s, teacher, student)


def _student(state: base.TrainState) -> dict[str, Any]:
    return {"params": state.params["segmenter"], "model_state": state.model_state["segmenter"]}


def _check_sizes(batch: base.Batch) -> None:
    """Raises a UserError unless source and target can be laid over each other."""
    source, target = (batch[name]["image"].shape[1:3] for name in ("source", "target"))
    if source != target:
        raise UserError(
            f"config.data: expected source and target frames of one size, since they are mixed, got {source} and "
            f"{target}; give both the same size or crop"
        )
