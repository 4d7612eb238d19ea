"""DACS: domain adaptation via cross-domain mixed sampling (Tranheden et al., WACV 2021, arXiv 2007.08702).

    pseudo-labels   p = softmax(g(x_t)),  y_t = argmax p,  u = share of the batch's pixels with max p >= threshold
    mixing          M = pixels of half of the classes of y_s
                    x_m = augment(M x_s + (1 - M) x_t),  y_m = M y_s + (1 - M) y_t,  w = M + (1 - M) u
    student f       min  L_seg(x_s, y_s) + lambda mean_pixels w CE(f(x_m), y_m)
    teacher g       theta_g <- a theta_g + (1 - a) theta_f,  a = min(1 - 1 / (t + 1), alpha)

The teacher runs in training mode, on the batch statistics of its target images; only its parameters are averaged.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from uda_jax import ops
from uda_jax.losses import cross_entropy
from uda_jax.methods import base
from uda_jax.methods.self_training import Mixed, SelfTraining, pseudo_labels


@dataclasses.dataclass(frozen=True)
class Dacs(SelfTraining):
    """Self-training on images that mix both domains."""

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration: the teacher labels the target, the student learns, the teacher follows."""
        teacher = self.teacher(state)
        outputs, teacher_state = self.forward(teacher["params"], teacher["model_state"], batch["target"]["image"])
        labels, confidence = pseudo_labels(self.taught(state, outputs), batch["target"]["image"].shape[1:3])
        mixed = self.mix(state, batch, labels, confidence)

        def total(params):
            losses, model_state = self.student_losses(params, state, batch, mixed)
            return sum(losses.values()), (losses, model_state)

        value_and_gradient = jax.value_and_grad(total, has_aux=True)
        (value, (losses, model_state)), gradient = value_and_gradient(state.params["segmenter"])
        optimiser = self.transformation(state.params)
        state, norm = base.apply_player(state, "segmenter", {"segmenter": gradient}, optimiser)
        followed = self.followed(teacher["params"], state)
        state = state.replace(
            step=state.step + 1,
            model_state={"segmenter": model_state},
            teacher={"params": followed, "model_state": teacher_state},
        )
        metrics = base.loss_metrics(losses | {"total": value}) | {"norm/segmenter": norm}
        metrics["teacher/confident_share"] = (confidence >= self.threshold).mean()
        return state, metrics | {"mixing/source_share": mixed.mask.mean()}

    def taught(self, state: base.TrainState, outputs: Mapping[str, jax.Array]) -> jax.Array:
        """Returns those of the teacher's maps that become pseudo-labels, logits `[B, h, w, C]`."""
        del state  # There is one head for all steps.
        return outputs["logits"]

    def student_losses(
        self, params: Any, state: base.TrainState, batch: base.Batch, mixed: Mixed
    ) -> tuple[dict[str, jax.Array], Any]:
        """Forwards both batches of the student; returns the weighted losses by name and the next statistics."""
        outputs, model_state = self.student_outputs(params, state, batch, mixed)
        return self.objective(outputs, batch, mixed), model_state

    def student_outputs(
        self, params: Any, state: base.TrainState, batch: base.Batch, mixed: Mixed
    ) -> tuple[dict[str, Mapping[str, jax.Array]], Any]:
        """Returns the student's outputs, "source" and "mixed", and the next statistics."""
        outputs, model_state = {}, state.model_state["segmenter"]
        # Source, then mixed: each is normalised by its own batch statistics, which both update.
        outputs["source"], model_state = self.forward(params, model_state, batch["source"]["image"])
        outputs["mixed"], model_state = self.forward(params, model_state, mixed.image)
        return outputs, model_state

    def objective(
        self, outputs: Mapping[str, Mapping[str, jax.Array]], batch: base.Batch, mixed: Mixed
    ) -> dict[str, jax.Array]:
        """Returns the weighted losses by name, as functions of what the network says about both batches."""
        labels = batch["source"]["label"]
        logits_s, logits_m = (up(outputs[name]["logits"], labels.shape[1:3]) for name in ("source", "mixed"))
        return {
            "segmentation": cross_entropy(logits_s, labels),
            "mixed": self.mixed_weight * cross_entropy(logits_m, mixed.label, pixel_weights=mixed.weight),
        }


def up(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns maps `[B, h, w, C]` at the size of the images, corners aligned as everywhere in the released codes."""
    return ops.resize_bilinear(maps, size, align_corners=True)


METHOD = Dacs
