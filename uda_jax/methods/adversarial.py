"""What methods with an output-space discriminator share: AdaptSegNet, ADVENT, IntraDA, ASS, DADA and GIO-Ada.

A segmenter and its discriminators play against each other. `OutputAlignment` holds the fields and networks of such a
method, `MultiLevel` those of a second head, `adversarial_step` the order of one iteration, which is the same for all of
them; a method file adds the losses of the two sides. Domain labels follow the released codes: source 0, target 1.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from uda_jax import networks, ops
from uda_jax.errors import UserError
from uda_jax.losses import adversarial
from uda_jax.methods import base
from uda_jax.schema import config_field
from uda_jax.training import optimisers
from uda_jax.training.optimisers import Adam, Sgd
from uda_jax.training.precision import compute_dtype
from uda_jax.training.schedules import Schedule

SOURCE, TARGET = 0, 1

# Each head of the segmenter and the discriminator that judges its maps.
DISCRIMINATOR_OF = {"logits": "discriminator", "aux_logits": "discriminator_aux"}


@dataclasses.dataclass(frozen=True)
class Discriminator:
    """Section: the fully convolutional discriminator and how it learns."""

    width: int = config_field(64, "Channels of its first convolution.", low=1)
    kind: str = config_field("bce", "Adversarial loss.", choices=("bce", "least_squares"))
    optimiser: Adam = config_field(Adam(), "Its optimiser.")


@dataclasses.dataclass(frozen=True)
class OutputAlignment(base.SegmentationMethod):
    """Fields and networks of a method whose discriminators judge maps of what the segmenter predicts, one per head."""

    optimiser: Sgd = config_field(Sgd(), "Optimiser of the segmenter.")
    discriminator: Discriminator = config_field(Discriminator(), "One per head; unused without an adversarial loss.")
    target_weight: float = config_field(0.001, "Weight of the main head's loss on the target, lambda_adv.", low=0.0)

    @property
    def adapted(self) -> tuple[str, ...]:
        """The networks on the side that is judged; all others of the state judge, or stay as they are."""
        return ("segmenter",)

    @property
    def judged_channels(self) -> int:
        """Channels of the maps that a discriminator sees."""
        return self.num_classes

    @property
    def domain_weight(self) -> float:
        """Weight of each domain in the discriminators' loss."""
        return 0.5

    @property
    def judge(self) -> nn.Module:
        """The Flax module of a discriminator; its parameters are the state's."""
        dtype = compute_dtype(self.precision)
        return networks.build("pixel_discriminator", self.num_classes, width=self.discriminator.width, dtype=dtype)

    def weight(self, head: str) -> float:
        """The weight of a head's loss on the target."""
        del head  # There is one.
        return self.target_weight

    def decay(self, player: str) -> Schedule:
        """The decay of a player's rate: everybody's."""
        del player
        return self.schedule

    def players(self, names: list[str]) -> dict[str, tuple[Sgd | Adam, list[str]]]:
        """Groups networks by who trains them: player -> its optimiser's section and its networks."""
        judges = [name for name in names if name != "segmenter"]
        found = {"segmenter": (self.optimiser, ["segmenter"])}
        return found | ({"discriminator": (self.discriminator.optimiser, judges)} if judges else {})

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state, with one discriminator per head."""
        return self.first_state(key, self.initial_variables(key, example_batch))

    def initial_variables(self, key: jax.Array, example_batch: base.Batch, *, judges: bool = True) -> dict[str, Any]:
        """Returns the fresh Flax variables of the segmenter and, unless `judges` is off, of one judge per head."""
        images = ops.normalise(example_batch["source"]["image"][:1], self.segmenter.input_norm)
        variables = {"segmenter": self.network.init(jax.random.fold_in(key, 0), images, train=False)}
        maps = jnp.zeros((*images.shape[:3], self.judged_channels))
        heads = jax.eval_shape(lambda: self.network.apply(variables["segmenter"], images, train=False))
        for i, head in enumerate(DISCRIMINATOR_OF if judges else ()):
            if head in heads:
                variables[DISCRIMINATOR_OF[head]] = self.judge.init(jax.random.fold_in(key, 1 + i), maps)
        return variables

    def first_state(self, key: jax.Array, variables: Mapping[str, Any], extra: dict | None = None) -> base.TrainState:
        """Returns the state at step 0 of these networks, with every player's optimiser."""
        params = {name: entry["params"] for name, entry in variables.items()}
        opt_state = {
            player: optimiser.init({name: params[name] for name in names})
            for player, (optimiser, names) in self.transformations(params).items()
        }
        return base.initial_state(key, variables, opt_state, extra)

    def transformations(self, params: Mapping[str, Any]) -> dict[str, tuple[optax.GradientTransformation, list[str]]]:
        """Returns each player's transformation and the networks it trains."""
        shared = {"accumulation": self.accumulation, "frozen": self.segmenter.frozen}
        return {
            player: (
                optimisers.build(section, self.decay(player), {name: params[name] for name in names}, **shared),
                names,
            )
            for player, (section, names) in self.players(list(params)).items()
        }

    def forward(
        self, params: Mapping[str, Any], model_state: Any, images: jax.Array
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array], Any]:
        """Forwards one domain through the segmenter in training mode.

        Args:
          params: network name -> parameters; the segmenter's are read.
          model_state: the segmenter's.
          images: RGB [B, H, W, 3] on the scale of 0 to 255, uint8 or float.

        Returns:
          The outputs at the network's stride, each head's probabilities at the image's size, and the next statistics.
        """
        inputs = ops.normalise(images, self.segmenter.input_norm)
        outputs, model_state = base.forward(self.network, params["segmenter"], model_state, inputs, train=True)
        return outputs, probabilities(outputs, inputs.shape[1:3]), model_state

    def fooling_losses(self, judges: Mapping[str, Any], maps: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The segmenter's side: each head's target maps, weighted, shall be taken for the source's."""
        return {
            named("adversarial", head): self.weight(head)
            * adversarial(self._judged(judges, head, maps[head]), SOURCE, kind=self.discriminator.kind)
            for head in maps
        }

    def discriminator_losses(
        self, judges: Mapping[str, Any], source: Mapping[str, jax.Array], target: Mapping[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], base.Metrics]:
        """The discriminators' side: tell the heads' source maps from their target maps, both domains weighing alike.

        Returns:
          The loss of each discriminator, and {"discriminator/accuracy": share of positions that they get right}.
        """
        losses, accuracies, kind = {}, [], self.discriminator.kind
        for head in source:
            logits_s, logits_t = (self._judged(judges, head, maps[head]) for maps in (source, target))
            both, share = judgement(logits_s, logits_t, kind=kind)
            losses[DISCRIMINATOR_OF[head]] = self.domain_weight * both
            accuracies += [share]
        return losses, {"discriminator/accuracy": sum(accuracies) / len(accuracies)}

    def _judged(self, judges: Mapping[str, Any], head: str, maps: jax.Array) -> jax.Array:
        return self.judge.apply({"params": judges[DISCRIMINATOR_OF[head]]}, maps)

    def adversarial_step(
        self,
        state: base.TrainState,
        adapted_loss: Callable[[Mapping, Mapping], tuple[dict[str, jax.Array], Any, Any]],
        judge_loss: Callable[[Mapping, Any], tuple[dict[str, jax.Array], base.Metrics]] | None,
        keep: Callable[[base.TrainState, Any], base.TrainState] | None = None,
    ) -> tuple[base.TrainState, base.Metrics]:
        """One iteration: the adapted networks against constant judges, then the judges on what these showed, detached.

        There is no third forward, and all gradients are taken at the parameters of the iteration's start.

        Args:
          state: the state before.
          adapted_loss: (adapted networks' params, other networks' params) -> (weighted losses, what the judges shall
            see, the segmenter's model state after its forwards); params by network name.
          judge_loss: (other networks' params, what they see) -> (losses, metrics); None where nobody judges, and judges
            that the state may hold all the same stay as they are.
          keep: (state, what the judges saw) -> the state with what later iterations need of it.

        Returns:
          The state after, and the metrics: every loss, the adapted side's total, each player's gradient norm.
        """
        adapted = {name: state.params[name] for name in self.adapted}
        judges = {name: tree for name, tree in state.params.items() if name not in adapted}

        def total(params):
            losses, shown, model_state = adapted_loss(params, judges)
            return sum(losses.values()), (losses, shown, model_state)

        (_, aux), gradients = jax.value_and_grad(total, has_aux=True)(adapted)
        losses, shown, model_state = jax.lax.stop_gradient(aux)
        metrics = base.loss_metrics(losses | {"total": sum(losses.values())})
        if judge_loss is not None:

            def judge_total(judges):
                judge_losses, seen = judge_loss(judges, shown)
                return sum(judge_losses.values()), (judge_losses, seen)

            (_, (judge_losses, seen)), judge_gradients = jax.value_and_grad(judge_total, has_aux=True)(judges)
            gradients = gradients | judge_gradients
            metrics |= base.loss_metrics(judge_losses) | seen
        for player, (optimiser, names) in self.transformations(state.params).items():
            if not gradients.keys() >= set(names):
                continue
            state, norm = base.apply_player(state, player, {name: gradients[name] for name in names}, optimiser)
            metrics[f"norm/{player}"] = norm
        state = state.replace(step=state.step + 1, model_state=state.model_state | {"segmenter": model_state})
        return keep(state, shown) if keep else state, metrics


@dataclasses.dataclass(frozen=True)
class MultiLevel(OutputAlignment):
    """The fields of a method whose segmenter may have a second head, on an earlier stage."""

    aux_weight: float = config_field(0.1, "Weight of the earlier head's cross entropy, lambda_seg.", low=0.0)
    target_aux_weight: float = config_field(0.0002, "Weight of the earlier head's loss on the target.", low=0.0)

    def weight(self, head: str) -> float:
        """The weight of a head's loss on the target."""
        return self.target_weight if head == "logits" else self.target_aux_weight


def named(loss: str, head: str) -> str:
    """The name of a head's loss: "adversarial" of the main head, "adversarial_aux" of the earlier one."""
    return loss if head == "logits" else f"{loss}_aux"


def probabilities(outputs: Mapping[str, jax.Array], size: tuple[int, int]) -> dict[str, jax.Array]:
    """Softmax maps [B, *size, C] of each head: interpolated first, normalised after, as the released codes do."""
    return {
        head: jax.nn.softmax(ops.resize_bilinear(outputs[head].astype(jnp.float32), size, align_corners=True))
        for head in DISCRIMINATOR_OF
        if head in outputs
    }


def judgement(logits_source: jax.Array, logits_target: jax.Array, *, kind: str) -> tuple[jax.Array, jax.Array]:
    """Returns a discriminator's loss, the sum of the two domains', and the share of positions that it gets right."""
    loss = adversarial(logits_source, SOURCE, kind=kind) + adversarial(logits_target, TARGET, kind=kind)
    return loss, accuracy(logits_source, logits_target, threshold=0.0 if kind == "bce" else 0.5)


def accuracy(logits_source: jax.Array, logits_target: jax.Array, *, threshold: float) -> jax.Array:
    """Share of positions that a discriminator assigns to the right domain, both domains weighing the same."""
    return 0.5 * (jnp.mean(logits_source < threshold) + jnp.mean(logits_target >= threshold))


def depth_map(outputs: Mapping[str, jax.Array], size: tuple[int, int]) -> jax.Array:
    """Depth [B, *size, 1] of the network's depth head, interpolated as the probabilities are."""
    return ops.resize_bilinear(outputs["depth"].astype(jnp.float32), size, align_corners=True)


def source_depth(batch: base.Batch) -> jax.Array:
    """Returns the source's depth [B, H, W, 1] in metres, 0 = invalid; raises a UserError if the batch lacks it."""
    if "depth" not in batch["source"]:
        found = sorted(batch["source"])
        raise UserError(f"config.data.source.fields: expected 'depth', in metres, among them, got {found}; add it")
    return batch["source"]["depth"][..., None]
