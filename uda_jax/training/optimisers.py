"""The optimisers: PyTorch's SGD with per-parameter rules, Adam and AdamW.

Which parameters train, at which multiple of the rate and with which decay, is decided by ordered regular expressions
over their "/"-joined paths. The first match wins.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import optax

from uda_jax.errors import UserError
from uda_jax.schema import Named, config_field
from uda_jax.training import schedules
from uda_jax.training.schedules import Schedule
from uda_jax.training.torch_sgd import torch_sgd

FROZEN = "frozen"
_TRAINED = "trained"

# Heads are whatever lies outside the encoder; a network may add branches and batch norms of its own there.
_HEAD = r"^(?!(.*/)?encoder/)"
_NORM_AFFINE = r"(^|/)encoder/(\w+/)*(bn\w*|downsample_1)/(scale|bias)$"
_ANY = ""


class Rule(NamedTuple):
    """How the parameters whose path contains a match of `pattern`, and of no earlier rule, are updated.

    Attributes:
      group: name under which their optimiser state is kept; `FROZEN` leaves them as they are, without state.
      pattern: regular expression, searched in "network/module/.../kernel".
      rate_multiple: factor on the scheduled learning rate.
      repeats: how often one gradient is applied per update.
      weight_decay: replaces the section's, unless it is None.
    """

    group: str
    pattern: str
    rate_multiple: float = 1.0
    repeats: int = 1
    weight_decay: float | None = None


@dataclasses.dataclass(frozen=True)
class Optimiser(Named):
    """Section: an optimiser. Its name adds fields to these and decides the defaults."""

    name: str = config_field(
        "sgd",
        "SGD as PyTorch computes it (sgd), Adam with an L2 penalty (adam) or with decoupled decay (adamw).",
        choices=("sgd", "adam", "adamw"),
    )
    learning_rate: float = config_field(2.5e-4, "Rate at update 0, of the backbone.", low=0.0)
    weight_decay: float = config_field(
        5e-4,
        "L2 penalty, added to the gradient of everything that trains; of adamw the share of the parameter that a rate "
        "of 1 takes away, whatever the gradient.",
        low=0.0,
    )
    head_multiplier: float = config_field(
        10.0, "Multiple of the rate outside the encoder: in classifiers and other new branches.", low=0.0
    )
    train_norm_affine: bool = config_field(
        False, "Whether scale and shift of the encoder's batch norm train; the references freeze them."
    )
    layer_decay: float = config_field(
        1.0,
        "Factor on the rate per layer between a parameter and the heads, in the network's own order of depth (BEiT, "
        "arXiv 2106.08254); 1 = off.",
        low=0.0,
        high=1.0,
    )
    clip_norm: float = config_field(
        0.0, "Norm that the gradient of all that trains is shortened to where it is longer; 0 = off.", low=0.0
    )
    groups: tuple[tuple[str, float, float | None], ...] = config_field(
        (),
        "Parameters with a rule of their own, tried in order before all other rules: a regular expression for their "
        "path, the multiple of their rate (0 freezes them) and their weight decay (None = weight_decay).",
        low=0.0,
    )

    @classmethod
    def known_names(cls) -> Sequence[str]:
        """Returns the names of the optimisers."""
        return tuple(_KINDS)

    @classmethod
    def own_fields(cls, name: str) -> tuple[type, Mapping[str, Any]]:
        """Returns an optimiser's own fields and the defaults of all."""
        return _KINDS[name].fields, _KINDS[name].defaults

    def check(self, path: str) -> None:
        """Raises a UserError for a pattern that is no regular expression."""
        for i, (pattern, _, _) in enumerate(self.groups):
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(
                    f"{path}.groups[{i}]: expected a regular expression, got {pattern!r}: {error}"
                ) from error

    def rules(self) -> tuple[Rule, ...]:
        """Returns the rules that these fields stand for, in order."""
        rules = [
            Rule(f"group_{i}" if rate else FROZEN, pattern, rate_multiple=rate, weight_decay=decay)
            for i, (pattern, rate, decay) in enumerate(self.groups)
        ]
        if not self.train_norm_affine:
            rules.append(Rule(FROZEN, _NORM_AFFINE))
        if self.name != "sgd" and self.head_multiplier == 1.0:
            return (*rules, Rule("all", _ANY))
        rules.append(Rule("head", _HEAD, rate_multiple=self.head_multiplier))
        if self.name != "sgd" or self.update_multiplicity == "off":
            return (*rules, Rule("backbone", _ANY))
        # No catch-all: how often the reference would list the tensors of another network is not known.
        block = r"encoder/layer\d_\d+/"
        return (
            *rules,
            Rule("stem", r"encoder/(conv|bn)1/"),
            Rule("convolutions", block + r"(conv|bn)\d/", repeats=3),
            Rule("shortcuts", block + r"downsample_\d/", repeats=4),
        )

    def transform(self, rule: Rule, rate: optax.Schedule) -> optax.GradientTransformation:
        """Returns the update of the parameters of one rule."""
        decay = self.weight_decay if rule.weight_decay is None else rule.weight_decay
        return _KINDS[self.name].make(self, rule, rate, decay)


@dataclasses.dataclass(frozen=True)
class SgdFields:
    """The fields of "sgd" alone: d = g + weight_decay p; buf = momentum buf + d; p = p - rate buf."""

    momentum: float = config_field(0.9, "Share of the buffer that is kept per update.", low=0.0, high=1.0)
    nesterov: bool = config_field(False, "Nesterov momentum; two papers name it, their code does not use it.")
    # AdaptSegNet's parameter list names each backbone tensor once per enclosing module, and the optimiser steps once
    # per occurrence. ADVENT, IntraDA, DACS and CorDA inherit it; their published numbers contain it.
    update_multiplicity: str = config_field(
        "off",
        "Apply one gradient once, or as AdaptSegNet's code ('reference'), 3 times to backbone convolutions and 4 times "
        "to shortcuts.",
        choices=("off", "reference"),
    )
    # The authors of AdaptSegNet, ADVENT, IntraDA and DADA trained with PyTorch up to 1.4, those of DACS and CorDA with
    # 1.7. Over a run of AdvEnt the former decays the encoder about twice as much.
    repeated_decay: str = config_field(
        "fixed",
        "Weight decay where a gradient is applied several times. fixed: each time that of the parameter as it is "
        "then, as since PyTorch 1.5; accumulating: on top of those of the times before, as up to PyTorch 1.4.",
        choices=("fixed", "accumulating"),
    )


@dataclasses.dataclass(frozen=True)
class AdamFields:
    """The fields of "adam" and "adamw" alone."""

    beta1: float = config_field(0.9, "Decay of the gradient's mean.", low=0.0, high=1.0)
    beta2: float = config_field(0.99, "Decay of the squared gradient's mean.", low=0.0, high=1.0)
    epsilon: float = config_field(1e-8, "Added to the root of the squared gradient's mean.", low=0.0)


def sgd(**fields: Any) -> Optimiser:
    """Returns the section of SGD; its defaults are AdaptSegNet's."""
    return Optimiser(name="sgd", **fields)


def adam(**fields: Any) -> Optimiser:
    """Returns the section of Adam; its defaults are those of the references' discriminators, which train as a whole."""
    return Optimiser(name="adam", **fields)


def adamw(**fields: Any) -> Optimiser:
    """Returns the section of AdamW; its defaults are PyTorch's with DAFormer's rate, and everything decays."""
    return Optimiser(name="adamw", **fields)


def _make_sgd(config: Any, rule: Rule, rate: optax.Schedule, decay: float) -> optax.GradientTransformation:
    options = {"momentum": config.momentum, "nesterov": config.nesterov, "repeats": rule.repeats}
    accumulate = config.repeated_decay == "accumulating"
    return torch_sgd(rate, weight_decay=decay, accumulate_decay=accumulate, **options)


def _make_adam(config: Any, _: Rule, rate: optax.Schedule, decay: float) -> optax.GradientTransformation:
    moments = optax.adam(rate, b1=config.beta1, b2=config.beta2, eps=config.epsilon)
    return optax.chain(optax.add_decayed_weights(decay), moments) if decay else moments


def _make_adamw(config: Any, _: Rule, rate: optax.Schedule, decay: float) -> optax.GradientTransformation:
    return optax.adamw(rate, b1=config.beta1, b2=config.beta2, eps=config.epsilon, weight_decay=decay)


class _Kind(NamedTuple):
    """An optimiser: its own fields, the defaults of all fields that differ, and the update of one rule's parameters."""

    fields: type
    defaults: dict[str, Any]
    make: Callable[[Any, Rule, optax.Schedule, float], optax.GradientTransformation]


_WHOLE = {"head_multiplier": 1.0, "train_norm_affine": True}
_KINDS = {
    "sgd": _Kind(SgdFields, {}, _make_sgd),
    "adam": _Kind(AdamFields, _WHOLE | {"learning_rate": 1e-4, "weight_decay": 0.0}, _make_adam),
    "adamw": _Kind(AdamFields, _WHOLE | {"learning_rate": 6e-5, "weight_decay": 0.01, "beta2": 0.999}, _make_adamw),
}


def learning_rate(config: Optimiser, schedule: Schedule, step: jax.typing.ArrayLike) -> jax.Array:
    """Returns the learning rate of a step, before the multiples of heads, groups and layers: a float32 scalar.

    Args:
      config: the optimiser.
      schedule: how the rate changes.
      step: index of the step within the stage, 0 for the first.
    """
    return schedules.make(schedule, config.learning_rate)(step)


def build(
    config: Optimiser,
    schedule: Schedule,
    params: Any,
    *,
    accumulation: int = 1,
    frozen: Sequence[str] = (),
    depth: Callable[[str], int] | None = None,
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
      depth: the network's order of depth, from a parameter's path to its layer, for `layer_decay`. What is deepest
        trains at the full rate.

    Returns:
      The transformation. Frozen parameters get exactly zero updates and hold no state. The norm that is clipped is
      that of the averaged gradient of all that trains.

    Raises:
      UserError: no rule matches a parameter, or `layer_decay` without a depth.
    """
    rules = (*(Rule(FROZEN, pattern) for pattern in frozen), *config.rules())
    labels, factors = assign_groups(params, rules), {rule.group: 1.0 for rule in rules}
    if config.layer_decay != 1.0:
        labels, factors = _by_depth(params, labels, depth, config.layer_decay)
    rule_of, used = {rule.group: rule for rule in rules}, set(jax.tree.leaves(labels))
    unchanged = {FROZEN: optax.set_to_zero()} if FROZEN in used else {}
    transforms = {}
    for label in sorted(used - {FROZEN}):
        rule = rule_of[label.partition("@")[0]]
        rate = schedules.make(schedule, config.learning_rate * rule.rate_multiple * factors[label])
        transforms[label] = config.transform(rule, _per_update(rate, accumulation))
    if config.clip_norm:
        labels, transforms = _clipped(labels, transforms, config.clip_norm)
    # Wrapped around each group rather than around the whole, so that frozen parameters hold no gradient sums either.
    accumulated = {label: _accumulated(transform, accumulation) for label, transform in transforms.items()}
    return optax.partition(unchanged | accumulated, labels)


def assign_groups(params: Any, rules: Sequence[Rule]) -> Any:
    """Returns `params` with every leaf replaced by the group of the first rule that matches its path.

    Raises:
      UserError: no rule matches a parameter.
    """

    def group(path: tuple, _: Any) -> str:
        name = _joined(path)
        for rule in rules:
            if re.search(rule.pattern, name):
                return rule.group
        known = ", ".join(dict.fromkeys(rule.group for rule in rules))
        raise UserError(f"optimiser: expected parameter '{name}' to be in one of {known}, got no match; add a rule")

    return jax.tree.map_with_path(group, params)


def _by_depth(
    params: Any, groups: Any, depth: Callable[[str], int] | None, decay: float
) -> tuple[Any, dict[str, float]]:
    """Splits each group by depth into "group@depth"; returns the new groups and the factor on the rate of each."""
    if depth is None:
        raise UserError(f"optimiser.layer_decay: expected 1.0, since the network has no order of depth, got {decay}")
    depths = jax.tree.map_with_path(lambda path, _: depth(_joined(path)), params)
    # Layers that are not there, such as the last blocks of a shorter encoder, do not count.
    place = {n: i for i, n in enumerate(sorted(set(jax.tree.leaves(depths))))}
    depths, deepest = jax.tree.map(place.get, depths), len(place) - 1
    labels = jax.tree.map(lambda group, n: group if group == FROZEN else f"{group}@{n}", groups, depths)
    pairs = zip(jax.tree.leaves(labels), jax.tree.leaves(depths), strict=True)
    return labels, {label: decay ** (deepest - n) for label, n in pairs}


def _clipped(
    labels: Any, transforms: dict[str, optax.GradientTransformation], norm: float
) -> tuple[Any, dict[str, optax.GradientTransformation]]:
    """Joins all groups that train into one, the norm of whose gradient is limited before they take their parts."""
    by_path = dict(jax.tree.leaves_with_path(labels))
    parts = optax.partition(transforms, lambda tree: jax.tree.map_with_path(lambda path, _: by_path[path], tree))
    labels = jax.tree.map(lambda label: FROZEN if label == FROZEN else _TRAINED, labels)
    return labels, {_TRAINED: optax.chain(optax.clip_by_global_norm(norm), parts)}


def _joined(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _per_update(rate: optax.Schedule, batches: int) -> optax.Schedule:
    """Returns the rate as a function of the update, each of so many batches, rather than of the batch."""
    return rate if batches == 1 else lambda update: rate(update * batches)


def _accumulated(transform: optax.GradientTransformation, batches: int) -> optax.GradientTransformation:
    return transform if batches == 1 else optax.MultiSteps(transform, batches).gradient_transformation()
