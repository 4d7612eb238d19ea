"""Rules that tie the names and layouts of a PyTorch state dict to those of Flax variables, in both directions.

A rule is a pair of name templates, such as `layer3.{i}.conv2.weight` and `params/encoder/layer3_{i}/conv2/kernel`,
with a layout. `{i}` stands for a block number; each template becomes a regular expression. A dialect is a sequence
of groups of rules in the order of its state dict, and the same table converts both ways.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from uda_jax.errors import UserError

TORCH, FLAX = 0, 1


class Layout(NamedTuple):
    """How one kind of tensor is laid out: its rank and the (lazy) transposes between PyTorch and Flax."""

    axes: str
    to_flax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]

    @property
    def rank(self) -> int:
        """Number of dimensions, equal on both sides."""
        return len(self.axes.split())


KERNEL = Layout("out in height width", lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
VECTOR = Layout("channels", lambda x: x, lambda x: x)


class Rule(NamedTuple):
    """One row of a dialect's table.

    Attributes:
      torch: template of the state-dict name.
      flax: template of the path in the variables, or None for PyTorch's batch counters: they may be absent, are
        dropped on the way in and written as int64 0 on the way out.
      layout: of the tensor; None for counters.
    """

    torch: str
    flax: str | None
    layout: Layout | None


class Group(NamedTuple):
    """Rules that stand or fall together.

    The names of a group must be there for `{i}` = 0 to its highest value found; rules without `{i}` count once.

    Attributes:
      rules: in the order of the state dict.
      optional: whether the whole group may be absent.
    """

    rules: Sequence[Rule]
    optional: bool = False


def conv(torch: str, flax: str, *, bias: bool = False) -> list[Rule]:
    """Returns the rules of a convolution: `weight` and, if `bias`, `bias`."""
    rules = [Rule(f"{torch}.weight", f"params/{flax}/kernel", KERNEL)]
    return rules + [Rule(f"{torch}.bias", f"params/{flax}/bias", VECTOR)] if bias else rules


def batch_norm(torch: str, flax: str) -> list[Rule]:
    """Returns the rules of a batch norm: scale, bias, running mean and variance, and the counter."""
    return [
        Rule(f"{torch}.weight", f"params/{flax}/scale", VECTOR),
        Rule(f"{torch}.bias", f"params/{flax}/bias", VECTOR),
        Rule(f"{torch}.running_mean", f"batch_stats/{flax}/mean", VECTOR),
        Rule(f"{torch}.running_var", f"batch_stats/{flax}/var", VECTOR),
        Rule(f"{torch}.num_batches_tracked", None, None),
    ]


def rename(groups: Sequence[Group], names: Iterable[str], side: int, where: str) -> Iterator[tuple[Rule, str, str]]:
    """Pairs every name of one side with its name on the other.

    Args:
      groups: a dialect.
      names: all names of a state dict (`side` TORCH) or all paths of variables (`side` FLAX).
      side: which side `names` are on.
      where: the dialect's name, for messages.

    Yields:
      (rule, PyTorch name, Flax path) in the order of the state dict, counters included (with an empty path).

    Raises:
      UserError: a name that no rule matches, or one that the others imply but is missing.
    """
    names = set(names)
    numbers = _match(groups, names, side, where)
    for group, found in zip(groups, numbers, strict=True):
        if group.optional and not found:
            continue
        for number in range(max(found, default=0) + 1):
            for rule in group.rules:
                if number > 0 and "{i}" not in rule.torch:
                    continue
                torch, flax = rule.torch.format(i=number), (rule.flax or "").format(i=number)
                name = (torch, flax)[side]
                if rule.layout and name not in names:
                    raise UserError(f"{where} weights: '{name}' is missing; check that the dialect is the right one")
                yield rule, torch, flax


def _match(groups: Sequence[Group], names: set[str], side: int, where: str) -> list[set[int]]:
    """Returns the numbers `{i}` found for each group (0 for a name without one); the first matching rule wins."""
    patterns = [
        (index, re.compile(re.escape(rule[side]).replace(re.escape("{i}"), r"(\d+)")))
        for index, group in enumerate(groups)
        for rule in group.rules
        if rule[side]
    ]
    numbers = [set() for _ in groups]
    for name in sorted(names):
        index, match = next(((i, m) for i, pattern in patterns if (m := pattern.fullmatch(name))), (None, None))
        if match is None:
            raise UserError(f"{where} weights: no rule knows '{name}'; check that the dialect is the right one")
        numbers[index].add(int(match[1]) if match.groups() else 0)
    return numbers
