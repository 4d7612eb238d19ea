"""Who trains which networks, and one update of them: of one player alone, or of two that play against each other."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from uda_jax.methods.parts.state import Metrics, TrainState
from uda_jax.ops.platform import platform
from uda_jax.training import optimisers, sharding
from uda_jax.training.optimisers import Optimiser
from uda_jax.training.schedules import Schedule

Losses = dict[str, jax.Array]

# Arrays of at most so many numbers are joined before they are summed up.
_SHORT = 4096


@dataclasses.dataclass(frozen=True)
class Player:
    """Networks that learn together, and how.

    Attributes:
      networks: their names in the state.
      optimiser, schedule: the sections of their optimiser and of the decay of its rate.
      accumulation: successive gradients that are averaged into one update.
      frozen, depth: patterns of parameters that must not change, and the networks' order of depth, see
        `optimisers.build`.
    """

    networks: tuple[str, ...]
    optimiser: Optimiser
    schedule: Schedule
    accumulation: int = 1
    frozen: tuple[str, ...] = ()
    depth: Callable[[str], int] | None = None

    def transformation(self, params: Mapping[str, Any]) -> optax.GradientTransformation:
        """Returns the optimiser of this player's networks among `params`, network name -> parameters."""
        options = {"accumulation": self.accumulation, "frozen": self.frozen, "depth": self.depth}
        return optimisers.build(self.optimiser, self.schedule, self.of(params), **options)

    def of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Returns this player's entries of a mapping by network name."""
        return {name: params[name] for name in self.networks}

    def learning_rate(self, batches: jax.Array) -> jax.Array:
        """Returns the base rate of the update that the gradient after so many others belongs to."""
        first = batches - batches % self.accumulation
        return optimisers.learning_rate(self.optimiser, self.schedule, first)


Players = Mapping[str, Player]


def initial_state(
    key: jax.Array,
    variables: Mapping[str, Mapping[str, Any]],
    players: Players,
    *,
    extra: Mapping[str, Any] | None = None,
    frozen: Mapping[str, Mapping[str, Any]] | None = None,
) -> TrainState:
    """Returns the state at step 0.

    Args:
      key: the run's key.
      variables: network name -> fresh Flax variables, of the networks that learn or may learn in a later stage.
      players: by name, each of whom gets an optimiser's state.
      extra: arrays that the method owns.
      frozen: network name -> Flax variables of networks that never learn.
    """
    params = {name: entry["params"] for name, entry in variables.items()}
    split = lambda entry: {k: v for k, v in entry.items() if k != "params"}  # noqa: E731
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state={name: split(entry) for name, entry in variables.items()},
        opt_state={name: player.transformation(params).init(player.of(params)) for name, player in players.items()},
        teacher=None,
        key=key,
        extra=dict(extra or {}),
        frozen={
            name: {"params": entry["params"], "model_state": split(entry)} for name, entry in (frozen or {}).items()
        },
    )


def update_player(
    state: TrainState, name: str, player: Player, gradients: Mapping[str, Any], batches: jax.Array | None = None
) -> tuple[TrainState, Metrics]:
    """Updates the networks of one player; nothing else of the state changes, its step neither.

    Args:
      state: the state before.
      name: the player's key in `opt_state`, which also names the metrics.
      player: who learns.
      gradients: network name -> gradient, for every network of the player.
      batches: gradients that the player has had before; None = one per step.

    Returns:
      The new state and {"norm/<name>": global norm of the gradients, "update_norm/<name>": that of what is added
      to the parameters, "learning_rate/<name>": the base rate}.
    """
    params, gradients = player.of(state.params), sharding.added_up(player.of(gradients))
    updates, opt_state = player.transformation(params).update(gradients, state.opt_state[name], params)
    metrics = {
        f"norm/{name}": _norm(gradients),
        f"update_norm/{name}": _norm(updates),
        f"learning_rate/{name}": player.learning_rate(state.step if batches is None else batches),
    }
    params = state.params | optax.apply_updates(params, updates)
    return state.replace(params=params, opt_state=state.opt_state | {name: opt_state}), metrics


def _norm(tree: Any) -> jax.Array:
    """Returns the global norm of a tree; hundreds of sums of a few numbers would cost a CPU more than the long ones."""
    leaves = jax.tree.leaves(tree)
    short = [x.reshape(-1) for x in leaves if x.size <= _SHORT]
    long = [x for x in leaves if x.size > _SHORT]
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in [*long, *([jnp.concatenate(short)] if short else [])]))


class Previous(NamedTuple):
    """What the part of an iteration before this one left.

    Attributes:
      found: what its loss returned, as constants.
      gradients: of all parts so far.
    """

    found: Any
    gradients: Any

    def then(self, x: jax.Array) -> jax.Array:
        """Returns `x`, an array of any type, once the gradients are there.

        Whoever starts from it does so when the maps of the part before are no longer in memory.
        """
        if platform() != "cpu":
            return jax.lax.optimization_barrier((x, self.gradients))[0]
        # XLA's CPU backend drops barriers before it orders a program, but cannot know that this is 0.
        first = sum(leaf.reshape(-1)[0] for leaf in jax.tree.leaves(self.gradients))
        return x + jnp.minimum(jnp.abs(first), 0).astype(x.dtype)


def gradients_in_turn(parts: Sequence[Callable], params: Mapping[str, Any], constants: Mapping[str, Any]) -> tuple:
    """Differentiates the parts of a loss one after the other, as the released codes call `backward` for each domain.

    That of one part alone is then in memory at a time.

    Args:
      parts: each (parameters by network name, and after the first, `Previous`) -> a tuple that begins with weighted
        losses by name.
      params: network name -> parameters, those that learn.
      constants: those of the other networks.

    Returns:
      The sum of all losses, what each part returned, and the sum of the gradients.
    """
    value, found, gradients = 0.0, [], None
    for part in parts:
        previous = [Previous(found[-1], gradients)] if found else []

        def total(params: Mapping[str, Any], part=part, previous=previous) -> tuple[jax.Array, Any]:
            returned = part({**constants, **params}, *previous)
            return sum(returned[0].values()), returned

        (added, returned), new = jax.value_and_grad(total, has_aux=True)(params)
        gradients = new if gradients is None else jax.tree.map(jnp.add, gradients, new)
        value, found = value + added, [*found, returned]
    return value, found, gradients


def single_player_step(
    state: TrainState, player: Player, *parts: Callable[..., tuple[Losses, Mapping[str, Any]]]
) -> tuple[TrainState, Metrics]:
    """One iteration of a method with a single player: a backward for each part of its loss, one update.

    Args:
      state: the state before.
      player: who learns, named after its first network.
      *parts: as `gradients_in_turn` takes them: parameters by network name -> (weighted losses by name, network name
        -> next model state). Only the player's networks are differentiated.

    Returns:
      The state after, and the metrics: every loss, their total, and those of `update_player`.
    """
    value, found, gradients = gradients_in_turn(parts, player.of(state.params), state.params)
    state, metrics = update_player(state, player.networks[0], player, gradients)
    losses, model_state = (functools.reduce(operator.or_, map(dict, kind)) for kind in zip(*found, strict=True))
    state = state.replace(step=state.step + 1, model_state=state.model_state | model_state)
    return state, loss_metrics(losses | {"total": value}) | metrics


class GeneratorLosses(NamedTuple):
    """What the generators' side makes of a batch.

    Attributes:
      losses: weighted losses by name, which the total adds up.
      discriminator_inputs: any tree of arrays: what the discriminators shall see of this iteration.
      model_state: network name -> model state after its forwards.
      extra: entries of `TrainState.extra` that later iterations need.
    """

    losses: Losses
    discriminator_inputs: Any
    model_state: Mapping[str, Any]
    extra: Mapping[str, Any] = {}


class DiscriminatorLosses(NamedTuple):
    """Losses of the discriminators by name, and metrics such as their accuracy."""

    losses: Losses
    metrics: Metrics


def two_player_step(
    state: TrainState,
    generators: Players,
    discriminators: Players,
    generator_loss: Callable[..., GeneratorLosses] | Sequence[Callable[..., GeneratorLosses]],
    discriminator_loss: Callable[[Mapping[str, Any], Any], DiscriminatorLosses],
) -> tuple[TrainState, Metrics]:
    """One adversarial iteration: the generators against constant discriminators, then these on their inputs.

    There is no third forward: the discriminators learn from the detached outputs of the generators' own. All gradients
    are taken at the parameters of the iteration's start.

    Args:
      state: the state before.
      generators, discriminators: the players of both sides, by name.
      generator_loss: parameters by network name -> losses of the generators' side; only its networks are
        differentiated. Several, one for each domain, are as `gradients_in_turn` takes them, and the last one returns
        all that the discriminators shall see, and all that later iterations need.
      discriminator_loss: (parameters by network name, the inputs) -> losses of the discriminators' side, likewise.

    Returns:
      The state after, and the metrics: every loss, the generators' total, and those of `update_player`.
    """

    def discriminator_total(params):
        found = discriminator_loss({**state.params, **params}, generated.discriminator_inputs)
        return sum(found.losses.values()), found

    parts = (generator_loss,) if callable(generator_loss) else generator_loss
    value, generated_parts, gradients = gradients_in_turn(parts, _params(state, generators), state.params)
    losses = {name: loss for part in generated_parts for name, loss in part.losses.items()}
    generated, metrics = generated_parts[-1], loss_metrics(losses | {"total": value})
    if discriminators:
        differentiate = jax.value_and_grad(discriminator_total, has_aux=True)
        (_, found), theirs = differentiate(_params(state, discriminators))
        gradients, metrics = gradients | theirs, metrics | loss_metrics(found.losses) | found.metrics
    for name, player in {**generators, **discriminators}.items():
        state, found = update_player(state, name, player, gradients)
        metrics |= found
    model_state, extra = state.model_state | dict(generated.model_state), state.extra | dict(generated.extra)
    return state.replace(step=state.step + 1, model_state=model_state, extra=extra), metrics


def loss_metrics(losses: Mapping[str, jax.Array]) -> Metrics:
    """Returns {"loss/<name>": value} for a dict of weighted losses."""
    return {f"loss/{name}": value for name, value in losses.items()}


def _params(state: TrainState, players: Players) -> dict[str, Any]:
    """Returns the parameters of all networks of some players, by network name."""
    return {name: state.params[name] for player in players.values() for name in player.networks}
