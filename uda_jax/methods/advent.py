"""ADVENT: entropy minimisation for domain adaptation (Vu et al., CVPR 2019, arXiv 1811.12833).

Two objectives on the unlabelled target, chosen by `objective`:

    MinEnt  ("entropy"):      L_seg(x_s) + lambda_ent L_ent(x_t)
    AdvEnt  ("adversarial"):  L_seg(x_s) + lambda_adv BCE(D(I(x_t)), source)
                              while D learns to tell I(x_s) from I(x_t)

where P is the softmax map at the image's size, I = -P log2 P / log2 C its weighted self-information and L_ent
the mean over pixels of I summed over classes. With a multi-level segmenter both act on two heads, each with
its own weight and, in AdvEnt, its own discriminator. Domain labels follow the released code: source 0, target 1.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from uda_jax import networks, ops
from uda_jax.losses import adversarial, entropy, self_information
from uda_jax.methods import base
from uda_jax.sections import described
from uda_jax.training import optimizers
from uda_jax.training.optimizers import Adam, Sgd
from uda_jax.training.precision import compute_dtype
from uda_jax.training.schedules import Schedule

SOURCE, TARGET = 0, 1

# Each head of the segmenter and the discriminator that judges its maps.
DISCRIMINATOR_OF = {"logits": "discriminator", "aux_logits": "discriminator_aux"}


@dataclasses.dataclass(frozen=True)
class Discriminator:
    """Section: the fully convolutional discriminator and how it learns."""

    width: int = described(64, "Channels of its first convolution.", low=1)
    kind: str = described("bce", "Adversarial loss.", choices=("bce", "least_squares"))
    optimizer: Adam = described(Adam(), "Its optimiser.")


@dataclasses.dataclass(frozen=True)
class Advent:
    """MinEnt and AdvEnt."""

    objective: str = described("adversarial", "MinEnt or AdvEnt.", choices=("entropy", "adversarial"))
    num_classes: int = described(19, "Classes of the head.", low=2)
    precision: str = described("fp32", "Compute type of the networks.", choices=("fp32", "bf16"))
    accumulation: int = described(1, "Batches whose gradients are averaged into one update.", low=1)
    segmenter: base.Segmenter = described(base.Segmenter(), "The segmentation network.")
    optimizer: Sgd = described(Sgd(), "Optimiser of the segmenter.")
    schedule: Schedule = described(Schedule(), "Decay of all learning rates.")
    discriminator: Discriminator = described(Discriminator(), "Used by AdvEnt only.")
    aux_weight: float = described(0.1, "Weight of the earlier head's cross entropy.", low=0.0)
    target_weight: float = described(0.001, "lambda_ent or lambda_adv of the main head.", low=0.0)
    target_aux_weight: float = described(0.0002, "lambda_ent or lambda_adv of the earlier head.", low=0.0)

    @property
    def network(self) -> nn.Module:
        """The Flax module of the segmenter."""
        return self.segmenter.build(self.num_classes, self.precision)

    @property
    def judge(self) -> nn.Module:
        """The Flax module of a discriminator; its parameters are the state's."""
        dtype = compute_dtype(self.precision)
        return networks.build("pixel_discriminator", self.num_classes, width=self.discriminator.width, dtype=dtype)

    def _optimizers(self, params: Mapping) -> dict[str, optax.GradientTransformation]:
        """One transformation per player; the discriminators of both heads are one player."""
        segmenter = {"segmenter": params["segmenter"]}
        judges = {name: tree for name, tree in params.items() if name != "segmenter"}
        players = {"segmenter": (self.optimizer, segmenter)}
        if judges:
            players["discriminator"] = (self.discriminator.optimizer, judges)
        shared = {"accumulation": self.accumulation, "frozen": self.segmenter.frozen}
        return {
            player: optimizers.build(config, self.schedule, trees, **shared)
            for player, (config, trees) in players.items()
        }

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state; AdvEnt adds one discriminator per head."""
        images = ops.normalise(example_batch["source"]["image"][:1], self.segmenter.input_norm)
        variables = {"segmenter": self.network.init(jax.random.fold_in(key, 0), images, train=False)}
        if self.objective == "adversarial":
            maps = jnp.zeros((*images.shape[:3], self.num_classes))
            heads = jax.eval_shape(lambda: self.network.apply(variables["segmenter"], images, train=False))
            for i, head in enumerate(DISCRIMINATOR_OF):
                if head in heads:
                    variables[DISCRIMINATOR_OF[head]] = self.judge.init(jax.random.fold_in(key, 1 + i), maps)
        params = {name: entry["params"] for name, entry in variables.items()}
        players = self._optimizers(params)
        opt_state = {"segmenter": players["segmenter"].init({"segmenter": params.pop("segmenter")})}
        if params:
            opt_state["discriminator"] = players["discriminator"].init(params)
        return base.initial_state(key, variables, opt_state)

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration of the paper's training; all gradients are taken at the parameters of its start."""
        adapt = self._adversarial_step if self.objective == "adversarial" else self._entropy_step
        state, losses, metrics = adapt(state, batch)
        total = sum(losses.values())
        return state.replace(step=state.step + 1), base.loss_metrics(losses | {"total": total}) | metrics

    def _forwards(self, params, state, batch):
        """Source, then target, threading the batch statistics.

        Returns the segmentation losses, each domain's probability maps per head, and the model state.
        """
        images = {name: ops.normalise(batch[name]["image"], self.segmenter.input_norm) for name in ("source", "target")}
        model_state = state.model_state["segmenter"]
        source, model_state = base.forward(self.network, params, model_state, images["source"], train=True)
        target, model_state = base.forward(self.network, params, model_state, images["target"], train=True)
        losses = base.segmentation_losses(source, batch["source"]["label"].astype(jnp.int32), self.aux_weight)
        maps_s = _probabilities(source, images["source"].shape[1:3])
        maps_t = _probabilities(target, images["target"].shape[1:3])
        return losses, maps_s, maps_t, model_state

    def _weight(self, head: str) -> float:
        return self.target_weight if head == "logits" else self.target_aux_weight

    def _entropy_step(self, state, batch):
        """MinEnt: one player, the entropy of the target's prediction added to the source's cross entropy."""

        def segmenter_loss(params):
            losses, _, target, model_state = self._forwards(params, state, batch)
            for head, probabilities in target.items():
                losses[_named("entropy", head)] = self._weight(head) * entropy(probabilities)
            return sum(losses.values()), (losses, model_state)

        (_, (losses, model_state)), gradient = jax.value_and_grad(segmenter_loss, has_aux=True)(
            state.params["segmenter"]
        )
        optimizer = self._optimizers(state.params)["segmenter"]
        state, norm = base.apply_player(state, "segmenter", {"segmenter": gradient}, optimizer)
        return state.replace(model_state={"segmenter": model_state}), losses, {"norm/segmenter": norm}

    def _adversarial_step(self, state, batch):
        """AdvEnt: the segmenter against frozen discriminators, then they on the same, detached maps."""
        judges = {name: tree for name, tree in state.params.items() if name != "segmenter"}
        kind = self.discriminator.kind

        def segmenter_loss(params):
            losses, source, target, model_state = self._forwards(params, state, batch)
            source = {head: self_information(p) for head, p in source.items()}
            target = {head: self_information(p) for head, p in target.items()}
            for head, information in target.items():
                logits = self.judge.apply({"params": judges[DISCRIMINATOR_OF[head]]}, information)
                losses[_named("adversarial", head)] = self._weight(head) * adversarial(logits, SOURCE, kind=kind)
            return sum(losses.values()), (losses, model_state, source, target)

        def discriminator_loss(judges, source, target):
            losses, correct = {}, []
            for head in source:
                name = DISCRIMINATOR_OF[head]
                logits_s = self.judge.apply({"params": judges[name]}, source[head])
                logits_t = self.judge.apply({"params": judges[name]}, target[head])
                losses[name] = 0.5 * (
                    adversarial(logits_s, SOURCE, kind=kind) + adversarial(logits_t, TARGET, kind=kind)
                )
                correct += [_accuracy(logits_s, logits_t, threshold=0.0 if kind == "bce" else 0.5)]
            return sum(losses.values()), (losses, sum(correct) / len(correct))

        (_, aux), gradient = jax.value_and_grad(segmenter_loss, has_aux=True)(state.params["segmenter"])
        losses, model_state, source, target = jax.lax.stop_gradient(aux)
        (_, (judge_losses, accuracy)), judge_gradients = jax.value_and_grad(discriminator_loss, has_aux=True)(
            judges, source, target
        )
        players = self._optimizers(state.params)
        state, norm = base.apply_player(state, "segmenter", {"segmenter": gradient}, players["segmenter"])
        state, judge_norm = base.apply_player(state, "discriminator", judge_gradients, players["discriminator"])
        state = state.replace(model_state=state.model_state | {"segmenter": model_state})
        metrics = base.loss_metrics(judge_losses) | {
            "discriminator/accuracy": accuracy,
            "norm/segmenter": norm,
            "norm/discriminator": judge_norm,
        }
        return state, losses, metrics

    def predict(self, state: base.TrainState, images: jax.Array, size: tuple[int, int]) -> dict[str, jax.Array]:
        """Returns {"scores": logits [B, *size, C]} of the main head for uint8 RGB images [B, H, W, 3]."""
        return base.predict_scores(self.segmenter, self.network, state, images, size)


def _named(loss: str, head: str) -> str:
    return loss if head == "logits" else f"{loss}_aux"


def _probabilities(outputs: Mapping[str, jax.Array], size: tuple[int, int]) -> dict[str, jax.Array]:
    """Softmax maps [B, *size, C] of each head: interpolated first, normalised after, as the released code does."""
    return {
        head: jax.nn.softmax(ops.resize_bilinear(outputs[head].astype(jnp.float32), size, align_corners=True))
        for head in DISCRIMINATOR_OF
        if head in outputs
    }


def _accuracy(logits_source: jax.Array, logits_target: jax.Array, *, threshold: float) -> jax.Array:
    """Share of positions that a discriminator assigns to the right domain, both domains weighing the same."""
    return 0.5 * (jnp.mean(logits_source < threshold) + jnp.mean(logits_target >= threshold))


METHOD = Advent
