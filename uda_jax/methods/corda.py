"""CorDA: domain adaptation with self-supervised depth (Wang et al., ICCV 2021, arXiv 2104.13613).

Take it first, where both domains have depth; that of a stereo pair will do.

DACS with a second task. The network predicts classes S and inverse depth z, before (i) and after the exchange of
features between the tasks, and depth with one head per domain, D_s for the source and D_t for the target:

    source          L_s = CE(S, y_s) + CE(S_i, y_s) + lambda_s [ berHu(D_s, z_s) + berHu(D_si, z_s) ]
    mixing          M, x_m, y_m, w as in DACS;  z_m = M z_s + (1 - M) z_t,  D_m = M D_s + (1 - M) D_t
    difficulty      dw = clip(relu(1 - |D_s - D_t| / z_m) + 0.001, 0, 1),  1 without depth;  W = w dw / mean(dw)
    mixed           L_m = W CE(S, y_m) + W CE(S_i, y_m) + lambda_m [ berHu(D_m, z_m) + berHu(D_mi, z_m) ]

With a weight of `masking` (MIC, arXiv 2212.01322) the student also learns y_t of target images that it sees in part.

Where the two depth heads disagree the domains are taken to be far apart, and the pseudo-label counts less.

Ablations are other structures of the network: without the exchange there are no predictions before it ("uncorrelated");
with depth as a plain auxiliary task, one head learns that of both domains, and nothing tells a difficulty
("multi_task").
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from uda_jax import ops
from uda_jax.errors import UserError
from uda_jax.losses import berhu, cross_entropy
from uda_jax.methods import base
from uda_jax.methods.parts.masking import Masking, masked_parts
from uda_jax.methods.parts.mixing import Mixed, Mixing, check_single_head, illustrate_mixing
from uda_jax.methods.parts.teacher import MeanTeacher, init_with_teacher, predict_with_teacher
from uda_jax.methods.parts.updates import Previous, single_player_step
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, sgd

# The least weight of a pixel with depth.
_FLOOR = 0.001


@dataclasses.dataclass(frozen=True)
class CorDA(base.SegmentationMethod):
    """DACS with depth as a second task and as a measure of difficulty."""

    PREDICTION_FIELDS = ("predict_with",)

    optimiser: Optimiser = config_field(sgd(), "Optimiser of the student.")
    teacher: MeanTeacher = config_field(MeanTeacher(alpha=0.999), "The teacher.")
    mixing: Mixing = config_field(Mixing(), "The mixed images and their pseudo-labels.")
    mixed_weight: float = config_field(1.0, "Weight of the cross entropy on mixed images; 0 = off.", low=0.0)
    source_depth_weight: float = config_field(0.01, "lambda_s, of each depth loss on source images.", low=0.0)
    mixed_depth_weight: float = config_field(0.001, "lambda_m, of each depth loss on mixed images.", low=0.0)
    # The released code multiplies arrays of different ranks: its weights broadcast over the images of a batch.
    depth_weight_mode: str = config_field(
        "per_image",
        "Weight of pixels by difficulty. per_image: their own, as the paper says; reference: the mean over the batch's "
        "images at the same pixel, as the released code; none: all the same.",
        choices=("per_image", "reference", "none"),
    )
    initial_steps: int = config_field(
        0, "First steps in which pseudo-labels come from the prediction before the exchange (GTA5: 25001).", low=0
    )
    # The paper's targets run to hundreds near the camera, which a small network without pretrained weights and with a
    # large learning rate does not survive.
    depth_unit: float = config_field(
        1.0, "Unit of the inverse depth that is regressed: targets are divided by it. 1 is the paper's.", low=1e-3
    )
    source_nearest: float = config_field(
        0.1,
        "Metres; source depth below it is invalid. 0, the released code's for SYNTHIA, takes every value as it is.",
        low=0.0,
    )
    masking: Masking = config_field(Masking(weight=0.0), "Masked target images (MIC) as one more loss.")
    predict_with: str = config_field("student", "Network that predicts.", choices=("student", "teacher"))

    init, predict, illustrate = init_with_teacher, predict_with_teacher, illustrate_mixing

    def check(self, path: str) -> None:
        """Raises a UserError for a network without the heads, or with one that nothing trains."""
        check_single_head(self, path)
        if not self.segmenter.name.startswith("corda_"):
            raise UserError(
                f"{path}.segmenter.name: expected a network with depth heads for each domain, such as "
                f"corda_resnet101, got {self.segmenter.name!r}"
            )
        structure = self.segmenter.structure
        if structure == "multi_task" and self.depth_weight_mode != "none":
            raise UserError(
                f"{path}.depth_weight_mode: expected 'none' with the structure 'multi_task', whose one depth head "
                f"disagrees with no other, got {self.depth_weight_mode!r}"
            )
        if structure != "correlated" and self.initial_steps:
            raise UserError(
                f"{path}.initial_steps: expected 0 with the structure {structure!r}, which predicts nothing before an "
                f"exchange, got {self.initial_steps}"
            )

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration: the teacher labels the target, the student learns both tasks, the teacher is updated."""
        source, target = batch["source"], batch["target"]
        outputs, teacher = self.teacher.forward(self, state, target["image"])
        logits = self.pseudo_label_logits(state.step, outputs)
        mixed, shares = self.mixing.label_and_mix(self.segmenter, state, batch, logits)
        masked = masked_parts(self, state, batch, logits)

        def source_loss(params):
            model_state = state.model_state["segmenter"]
            outputs, model_state = self.forward(params["segmenter"], model_state, source["image"])
            return self.source_objective(outputs, batch), {"segmenter": model_state}

        def mixture_loss(params, before: Previous):
            # Normalised by its own batch statistics, which update those that the source has updated.
            images, model_state = before.then(mixed.image), before.found[1]["segmenter"]
            outputs, model_state = self.forward(params["segmenter"], model_state, images)
            return self.mixed_objective(outputs, batch, mixed), {"segmenter": model_state}

        student = self.player("segmenter", optimiser=self.optimiser)
        state, metrics = single_player_step(state, student, source_loss, mixture_loss, *masked)
        return self.teacher.update(teacher, state, self.accumulation), metrics | shares

    def pseudo_label_logits(self, step: jax.Array, outputs: Mapping[str, jax.Array]) -> jax.Array:
        """Returns those of the teacher's maps that become pseudo-labels in a step, logits `[B, h, w, C]`."""
        if not self.initial_steps:
            return outputs["logits"]
        return jnp.where(step < self.initial_steps, outputs["aux_logits"], outputs["logits"])

    def source_objective(self, outputs: Mapping[str, jax.Array], batch: base.Batch) -> dict[str, jax.Array]:
        """Returns L_s as weighted losses by name.

        Args:
          outputs: the network's maps of the source images.
          batch: gives their labels and inverse depth.
        """
        labels, target = batch["source"]["label"], self.inverse_depth(batch, "source")
        known, target = target > ops.NO_SUPERVISION, target / self.depth_unit
        maps, losses = self._upsampled(outputs, labels.shape[1:3]), {}
        for before, suffix in _predictions(maps):
            losses[f"segmentation{suffix}"] = cross_entropy(maps[f"{before}logits"], labels)
            depth = _source_depth(maps, before)[..., 0]
            losses[f"depth{suffix}"] = self.source_depth_weight * berhu(depth, target, known)
        return losses

    def mixed_objective(
        self, outputs: Mapping[str, jax.Array], batch: base.Batch, mixed: Mixed
    ) -> dict[str, jax.Array]:
        """Returns L_m as weighted losses by name.

        Args:
          outputs: the network's maps of the mixed images.
          batch: gives the inverse depth of both domains.
          mixed: the mixed batch.
        """
        target = ops.mix(mixed.mask, *(self.inverse_depth(batch, domain) for domain in ("source", "target")))
        known, target = target > ops.NO_SUPERVISION, target / self.depth_unit
        maps, losses = self._upsampled(outputs, mixed.label.shape[1:3]), {}
        weight = mixed.weight * self.difficulty(_source_depth(maps), maps["depth"], target, known)
        for before, suffix in _predictions(maps):
            loss = cross_entropy(maps[f"{before}logits"], mixed.label, pixel_weights=weight)
            losses[f"mixed{suffix}"] = self.mixed_weight * loss
            # Each half of a mixed image teaches the head of the domain that it comes from.
            depth = ops.mix(mixed.mask, _source_depth(maps, before), maps[f"{before}depth"])[..., 0]
            losses[f"mixed_depth{suffix}"] = self.mixed_depth_weight * berhu(depth, target, known)
        return losses

    def _upsampled(self, outputs: Mapping[str, jax.Array], size: tuple[int, int]) -> dict[str, jax.Array]:
        return {name: self.segmenter.upsample(x, size) for name, x in outputs.items() if name != "features"}

    def difficulty(self, source_depth: jax.Array, depth: jax.Array, target: jax.Array, known: jax.Array) -> jax.Array:
        """Returns dw / mean(dw) `[B, H, W]`, by which a pixel's weight is multiplied; no gradient passes.

        Args:
          source_depth, depth: what the heads of the source and of the target predict for the mixed images
            `[B, H, W, 1]`.
          target: z_m in the same unit `[B, H, W]`.
          known: bool `[B, H, W]`, where there is a target.
        """
        if self.depth_weight_mode == "none":
            return jnp.ones_like(target)
        weight = depth_weight(source_depth[..., 0], depth[..., 0], target, known)
        if self.depth_weight_mode == "reference":
            weight = jnp.broadcast_to(jnp.mean(weight, axis=0, keepdims=True), weight.shape)
        return jax.lax.stop_gradient(weight / jnp.mean(weight))

    def inverse_depth(self, batch: base.Batch, domain: str) -> jax.Array:
        """Returns z `[B, H, W]` of a domain, at least 1, 1 = unknown: from metres, or from relative disparity."""
        maps = batch[domain]
        if "depth" in maps:
            nearest = {"nearest": self.source_nearest} if domain == "source" else {}
            return ops.inverse_depth(maps["depth"], **nearest)
        if "disparity" in maps:
            return ops.relative_inverse_depth(maps["disparity"])
        raise UserError(
            f"config.data.{domain}.fields: expected 'depth' or 'disparity' among them, got {tuple(sorted(maps))}; add "
            "the one that the data set has"
        )


def depth_weight(source_depth: jax.Array, depth: jax.Array, target: jax.Array, known: jax.Array) -> jax.Array:
    """Weighs pixels by how well the depth heads of the two domains agree, relative to the depth itself.

    Args:
      source_depth, depth: predictions of the two heads `[B, H, W]`.
      target: inverse depth `[B, H, W]`, > 0, in the same unit.
      known: bool `[B, H, W]`, where there is a target.

    Returns:
      dw `[B, H, W]`: 1 where the heads agree or depth is unknown, down to 0.001 where they are further apart than the
      depth is large.
    """
    score = jax.nn.relu(1.0 - jnp.abs(source_depth - depth) / target) + _FLOOR
    return jnp.where(known, jnp.minimum(score, 1.0), 1.0)


def _predictions(maps: Mapping[str, jax.Array]) -> list[tuple[str, str]]:
    """Returns how the names of the network's maps begin, and those of the losses end, each time that it predicts."""
    return [("", ""), ("aux_", "_aux")] if "aux_logits" in maps else [("", "")]


def _source_depth(maps: Mapping[str, jax.Array], before: str = "") -> jax.Array:
    """Returns the depth that the source's head predicts, or the only one."""
    return maps.get(f"{before}source_depth", maps[f"{before}depth"])


METHOD = CorDA
