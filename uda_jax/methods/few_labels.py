"""UniMatch V2 as domain adaptation: few labelled target images, with a labelled source or without (arXiv 2410.10777).

Take it where about a hundred frames of the target can be labelled and a foundation encoder's weights are at hand.

    labelled    x, y: labelled target images and, if there is one, as many of the source, in one batch
    teacher g   in evaluation mode:  y_u = argmax g(u),  c_u = max softmax g(u)  of unlabelled images u
    views       s_1, s_2 = augment(u), each with boxes of the batch's images in reversed order pasted into half of them,
                y_k, c_k likewise
    student f   min  lambda_x OHEM(f(x), y) + lambda_u mean_k mean_pixels [c_k >= threshold] CE(f(s_k), y_k)
                of pixels that are no padding; both views pass together, and of a pair one keeps the channels of the
                encoder's maps that the other drops
    teacher     after the step:  theta_g <- a theta_g + (1 - a) theta_f,  a = min(1 - 1 / (t + 1), alpha)

OHEM is the cross entropy of hard pixels. The paper has no source; a batch that joins both is this library's choice.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from uda_jax import losses
from uda_jax.errors import UserError
from uda_jax.methods import base
from uda_jax.methods.parts.augmentation import Augmentation
from uda_jax.methods.parts.forward import dropout_key
from uda_jax.methods.parts.mixing import as_picture, check_single_head, pseudo_labels
from uda_jax.methods.parts.paired_views import PastedBoxes, View, drops_in_pairs, paired_dropout
from uda_jax.methods.parts.teacher import MeanTeacher, predict_with_teacher
from uda_jax.methods.parts.updates import Previous, initial_state, single_player_step
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, adamw

# What a step draws for; each has a key of its own.
_DRAWS = ("first", "second", "first_boxes", "second_boxes", "channels")
AUGMENTATION = Augmentation(
    jitter=0.8, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25, grey=0.2, blur=0.5, blur_sigma=(0.1, 2.0)
)


@dataclasses.dataclass(frozen=True)
class FewLabels(base.SegmentationMethod):
    """Supervision by few target labels, and consistency of two strong views with a teacher's labels."""

    DOMAINS = ("labelled_target", "target")
    OPTIONAL_DOMAINS = ("source",)
    PREDICTION_FIELDS = ("predict_with",)

    optimiser: Optimiser = config_field(
        adamw(learning_rate=5e-6, head_multiplier=40.0), "Optimiser of the student; its rate is the encoder's."
    )
    teacher: MeanTeacher = config_field(MeanTeacher(alpha=0.996, statistics="averaged"), "The teacher.")
    labelled_weight: float = config_field(0.5, "lambda_x, weight of the labels.", low=0.0)
    unlabelled_weight: float = config_field(
        0.5, "lambda_u, weight of the teacher's labels, as a mean over both views; 0 = off.", low=0.0
    )
    threshold: float = config_field(0.95, "Confidence at which a pseudo-label counts.", low=0.0, high=1.0)
    hard_threshold: float = config_field(
        0.7,
        "Probability of its own class up to which a labelled pixel is hard, and counts; 1 = all.",
        low=0.0,
        high=1.0,
    )
    min_kept: int = config_field(200_000, "Labelled pixels of a batch that count at least.", low=1)
    augmentation: Augmentation = config_field(AUGMENTATION, "Colours of the strong views.")
    boxes: PastedBoxes = config_field(PastedBoxes(), "Boxes of other images that are pasted into strong views.")
    channel_dropout: bool = config_field(
        True, "Whether the two views of an image drop complementary halves of the channels that the head reads."
    )
    predict_with: str = config_field("student", "Network that predicts.", choices=("student", "teacher"))

    predict = predict_with_teacher

    def check(self, path: str) -> None:
        """Raises a UserError for a second head, and for a network whose channels cannot be dropped in pairs."""
        check_single_head(self, path)
        if self.channel_dropout and not drops_in_pairs(self.network):
            raise UserError(
                f"{path}.channel_dropout: expected False with the network '{self.segmenter.name}'; set it, or take one "
                "whose name begins with dpt_, light_, linear_ or deeplab_v2_"
            )

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state: the segmenter and its average."""
        variables = {"segmenter": self.initial_segmenter(key, example_batch)}
        player = self.player("segmenter", optimiser=self.optimiser)
        return self.teacher.init(initial_state(key, variables, {"segmenter": player}))

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration: the teacher labels the target, the student learns, the teacher is updated."""
        images, labels = self.labelled(batch)
        shares, teacher, views = {}, self.teacher.current(state), None
        if self.unlabelled_weight:
            outputs, teacher = self.teacher.forward(self, state, batch["target"]["image"])
            views, shares = self.views(state, batch["target"], outputs["logits"])

        def labelled_loss(params):
            model_state = state.model_state["segmenter"]
            outputs, model_state = self.forward(params["segmenter"], model_state, images, key=dropout_key(state, 0))
            logits = self.segmenter.upsample(outputs["logits"], labels.shape[1:3])
            options = {"min_kept": self.min_kept, "threshold": self.hard_threshold}
            loss = self.labelled_weight * losses.ohem_cross_entropy(logits, labels, **options)
            return {"labelled": loss}, {"segmenter": model_state}

        def consistency_loss(params, before: Previous):
            model_state = before.found[1]["segmenter"]
            strong = before.then(jnp.concatenate([view.image for view in views]))
            with paired_dropout(self.keys(state)["channels"] if self.channel_dropout else None):
                outputs, model_state = self.forward(params["segmenter"], model_state, strong, key=dropout_key(state, 1))
            logits = self.segmenter.upsample(outputs["logits"], strong.shape[1:3])
            pairs = zip(jnp.split(logits, 2), views, strict=True)
            mean = 0.5 * sum(self.consistency(each, view) for each, view in pairs)
            return {"consistency": self.unlabelled_weight * mean}, {"segmenter": model_state}

        parts = (labelled_loss, consistency_loss) if views else (labelled_loss,)
        state, metrics = single_player_step(state, self.player("segmenter", optimiser=self.optimiser), *parts)
        return self.teacher.update(teacher, state, self.accumulation), metrics | shares

    def keys(self, state: base.TrainState) -> dict[str, jax.Array]:
        """Returns the keys of a step's draws by name."""
        return dict(zip(_DRAWS, jax.random.split(jax.random.fold_in(state.key, state.step), len(_DRAWS)), strict=True))

    def labelled(self, batch: base.Batch) -> tuple[jax.Array, jax.Array]:
        """Returns images `[B, H, W, 3]` and labels `[B, H, W]` of the source, if there is one, and of the target.

        Raises:
          UserError: frames of two sizes.
        """
        domains = [batch[name] for name in ("source", "labelled_target") if name in batch]
        sizes = {maps["image"].shape[1:3] for maps in domains}
        if len(sizes) > 1:
            raise UserError(
                f"config.data: expected source and labelled_target frames of one size, since they are one batch, got "
                f"{sorted(sizes)}; give both the same size or crop"
            )
        images, labels = (jnp.concatenate([maps[name] for maps in domains]) for name in ("image", "label"))
        return images, labels.astype(jnp.int32)

    def views(self, state: base.TrainState, target: Any, logits: jax.Array) -> tuple[tuple[View, View], base.Metrics]:
        """Returns both strong views of target images with labels of a teacher's logits, and what is shown of them."""
        images = target["image"]
        label, confidence = pseudo_labels(self.segmenter, logits, images.shape[1:3])
        padding = target["distrust"] > 0 if "distrust" in target else jnp.zeros(label.shape, bool)
        weak = View(images.astype(jnp.float32), label, confidence, padding)
        share = jnp.mean((confidence >= self.threshold).astype(jnp.float32))
        return self.strong(state, weak), {"teacher/confident_share": share}

    def strong(self, state: base.TrainState, weak: View) -> tuple[View, View]:
        """Returns two views of images, each with colours and boxes of its own."""
        keys = self.keys(state)
        coloured = (weak._replace(image=self.augmentation.apply(keys[name], weak.image)) for name in _DRAWS[:2])
        first, second = (self.boxes.paste(keys[name], view) for name, view in zip(_DRAWS[2:4], coloured, strict=True))
        return first, second

    def consistency(self, logits: jax.Array, view: View) -> jax.Array:
        """Returns the cross entropy of a view's confident labels, for logits `[B, H, W, C]` at its size."""
        return losses.confident_cross_entropy(
            logits, view.label, view.confidence, view.padding, threshold=self.threshold
        )

    def illustrate(self, state: base.TrainState, batch: base.Batch) -> dict[str, jax.Array]:
        """Returns {"view": uint8 RGB [B, H, W, 3]}, the first strong view of the next step."""
        images = batch["target"]["image"]
        nothing = jnp.zeros(images.shape[:3])
        return {"view": as_picture(self.strong(state, View(images, nothing, nothing, nothing))[0].image)}


METHOD = FewLabels
