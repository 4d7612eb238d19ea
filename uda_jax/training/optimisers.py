"""Optimisers of the papers: PyTorch's SGD with per-parameter rules, and Adam.

Which parameters train, at which multiple of the rate, is decided by ordered regular expressions over their
"/"-joined paths. The first match wins and a parameter without one is an error.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from uda_jax.errors import UserError
from uda_jax.schema import config_field
from uda_jax.training import schedules
from uda_jax.training.schedules import Schedule

FROZEN = "frozen"

# Heads are whatever lies outside the encoder; a network may add branches and batch norms of its own there.
_HEAD = r"^(?!(.*/)?encoder/)(.*/)?(kernel|bias|scale)$"
_NORM_AFFINE = r"(^|/)encoder/(\w+/)*(bn\w*|downsample_1)/(scale|bias)$"
_KERNEL_OR_AFFINE = r"(^|/)(kernel|bias|scale)$"


class Rule(NamedTuple):
    """How the parameters whose path contains a match of `pattern`, and of no earlier rule, are updated.

    Attributes:
      group: name under which their optimiser state is kept; `FROZEN` leaves them as they are, without state.
      pattern: regular expression, searched in "network/module/.../kernel".
      rate_multiple: factor on the scheduled learning rate.
      repeats: how often one gradient is applied per update.
    """

    group: str
    pattern: str
    rate_multiple: float = 1.0
    repeats: int = 1


@dataclasses.dataclass(frozen=True)
class Sgd:
    """Section: SGD in PyTorch's form, d = g + weight_decay p; buf = momentum buf + d; p = p - rate buf."""

    learning_rate: float = config_field(2.5e-4, "rate of the backbone at update 0", low=0.0)
    head_multiplier: float = config_field(
        10.0, "multiple of the rate outside the encoder: in classifiers and other new branches", low=0.0
    )
    momentum: float = config_field(0.9, "share of the buffer that is kept per update", low=0.0, high=1.0)
    weight_decay: float = config_field(5e-4, "L2 penalty, added to the gradient of everything that trains", low=0.0)
    nesterov: bool = config_field(False, "Nesterov momentum; two papers name it, their code does not use it")
    # AdaptSegNet's parameter list names each backbone tensor once per enclosing module, and the optimiser steps once
    # per occurrence. ADVENT, IntraDA, DACS and CorDA inherit it; their published numbers contain it.
    update_multiplicity: str = config_field(
        "off",
        "reference: apply one gradient 3 times to backbone convolutions, 4 times to shortcuts, as AdaptSegNet's code",
        choices=("off", "reference"),
    )
    train_norm_affine: bool = config_field(
        False, "whether scale and shift of the encoder's batch norm train; the references freeze them"
    )

    def rules(self) -> tuple[Rule, ...]:
        """Returns the rules that these fields stand for, in order."""
        norm = () if self.train_norm_affine else (Rule(FROZEN, _NORM_AFFINE),)
        head = Rule("head", _HEAD, rate_multiple=self.head_multiplier)
        if self.update_multiplicity == "off":
            return (*norm, head, Rule("backbone", _KERNEL_OR_AFFINE))
        # No catch-all: how often the reference would list the tensors of another network is not known.
        block = r"encoder/layer\d_\d+/"
        return (
            *norm,
            head,
            Rule("stem", r"encoder/(conv|bn)1/"),
            Rule("convolutions", block + r"(conv|bn)\d/", repeats=3),
            Rule("shortcuts", block + r"downsample_\d/", repeats=4),
        )

    def transform(self, rule: Rule, rate: optax.Schedule) -> optax.GradientTransformation:
        """Returns the update of the parameters of one rule."""
        return torch_sgd(
            rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            repeats=rule.repeats,
        )


@dataclasses.dataclass(frozen=True)
class Adam:
    """Section: Adam in PyTorch's form; the defaults are those of the references' discriminators."""

    learning_rate: float = config_field(1e-4, "rate at update 0", low=0.0)
    beta1: float = config_field(0.9, "decay of the gradient's mean", low=0.0, high=1.0)
    beta2: float = config_field(0.99, "decay of the squared gradient's mean", low=0.0, high=1.0)
    epsilon: float = config_field(1e-8, "added to the root of the squared gradient's mean", low=0.0)
    weight_decay: float = config_field(0.0, "L2 penalty, added to the gradient before the means are taken", low=0.0)

    def rules(self) -> tuple[Rule, ...]:
        """Returns the one rule: everything trains alike."""
        return (Rule("all", ""),)

    def transform(self, rule: Rule, rate: optax.Schedule) -> optax.GradientTransformation:
        """Returns the update of the parameters of one rule."""
        del rule  # The only one has no factors.
        adam = optax.adam(rate, b1=self.beta1, b2=self.beta2, eps=self.epsilon)
        return optax.chain(optax.add_decayed_weights(self.weight_decay), adam) if self.weight_decay else adam


def build(
    config: Sgd | Adam, schedule: Schedule, params: Any, *, accumulation: int = 1, frozen: Sequence[str] = ()
) -> optax.GradientTransformation:
    """Builds a player's optimiser.

    Args:
      config: which optimiser and its constants.
      schedule: how the rate changes; it advances by one per gradient, whatever is repeated or accumulated, so that a
        horizon means the same with and without accumulation.
      params: the parameters, or their shapes; only the paths are read. The optimiser serves this structure alone.
      accumulation: number of successive gradients that are averaged into one update; the calls in between leave the
        parameters as they are.
      frozen: patterns of further parameters that must not change, tried before all other rules, such as
        `r"head/branch_[23]/"` for the branches that a two-branch classifier does not use: their gradient is zero,
        but weight decay would shrink them.

    Returns:
      The transformation. Frozen parameters get exactly zero updates and hold no state.

    Raises:
      UserError: no rule matches a parameter.
    """
    rules = (*(Rule(FROZEN, pattern) for pattern in frozen), *config.rules())
    groups = assign_groups(params, rules)
    used = set(jax.tree.leaves(groups))
    transforms = {FROZEN: optax.set_to_zero()} if FROZEN in used else {}
    for rule in rules:
        if rule.group in used and rule.group != FROZEN:
            rate = schedules.make(schedule, config.learning_rate * rule.rate_multiple)
            transforms[rule.group] = _accumulated(functools.partial(config.transform, rule), rate, accumulation)
    return optax.partition(transforms, groups)


def assign_groups(params: Any, rules: Sequence[Rule]) -> Any:
    """Returns `params` with every leaf replaced by the group of the first rule that matches its path.

    Raises:
      UserError: no rule matches a parameter.
    """

    def group(path: tuple, _: Any) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for rule in rules:
            if re.search(rule.pattern, name):
                return rule.group
        known = ", ".join(dict.fromkeys(rule.group for rule in rules))
        raise UserError(f"optimiser: expected parameter '{name}' to be in one of {known}, got no match; add a rule")

    return jax.tree.map_with_path(group, params)


class TorchSgdState(NamedTuple):
    """State of `torch_sgd`: updates so far (int32 scalar) and the momentum buffers (like the parameters)."""

    count: jax.Array
    momentum: Any


def torch_sgd(
    rate: optax.Schedule, *, momentum: float, weight_decay: float, nesterov: bool = False, repeats: int = 1
) -> optax.GradientTransformation:
    """SGD in PyTorch's form, which can apply one gradient several times.

    One repetition is d = g + weight_decay p; buf = momentum buf + d; p = p - rate buf (with Nesterov momentum
    p - rate (d + momentum buf)). The gradient g and the rate stay fixed over the repetitions, p and buf do not. The
    rate multiplies the buffer, so that a change of it acts at once.

    Args:
      rate: learning rate of each update.
      momentum: share of the buffer that is kept.
      weight_decay: L2 penalty.
      nesterov: whether the step looks one repetition ahead.
      repeats: repetitions per update.

    Returns:
      The transformation; its update needs the parameters.
    """

    def init(params: Any) -> TorchSgdState:
        return TorchSgdState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(gradients: Any, state: TorchSgdState, params: Any = None) -> tuple[Any, TorchSgdState]:
        if params is None:
            raise ValueError(optax.NO_PARAMS_MSG)
        now = rate(state.count)
        moved, buffer = jax.tree.map(jnp.zeros_like, params), state.momentum
        for _ in range(repeats):
            decayed = jax.tree.map(lambda g, p, m: g + weight_decay * (p + m), gradients, params, moved)
            buffer = jax.tree.map(lambda b, d: momentum * b + d, buffer, decayed)
            step = jax.tree.map(lambda b, d: d + momentum * b, buffer, decayed) if nesterov else buffer
            moved = jax.tree.map(lambda m, s: m - now * s, moved, step)
        return moved, TorchSgdState(optax.safe_increment(state.count), buffer)

    return optax.GradientTransformation(init, update)


def _accumulated(
    make: Callable[[optax.Schedule], optax.GradientTransformation], rate: optax.Schedule, batches: int
) -> optax.GradientTransformation:
    if batches == 1:
        return make(rate)
    # Wrapped around each group rather than around the whole, so that frozen parameters hold no gradient sums either.
    return optax.MultiSteps(make(lambda update: rate(update * batches)), batches).gradient_transformation()
