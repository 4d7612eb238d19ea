"""Rules that tie the names, layouts and shapes of a PyTorch state dict to those of Flax variables, in both directions.

A rule is a pair of name templates, such as `layer3.{i}.conv2.weight` and `params/encoder/layer3_{i}/conv2/kernel`,
with a layout and a symbolic shape. In a template `{i}` stands for a block's number and `{n}` for the number of blocks
of the repeating group before; both take an offset, `{i+10}`. A form is a sequence of groups of rules in the order of
its state dict; a dialect has one form or several, of which the one that fits the names best is taken. The same tables
convert both ways.
"""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from uda_jax.errors import UserError

TORCH, FLAX = 0, 1

# One axis: a fixed size, or the name of a channel count that is the same wherever the name stands in a form. "a|b" is
# "a" in the first block of a group and "b" in the later ones.
Axis = int | str


class Layout(NamedTuple):
    """How one kind of tensor is laid out.

    Attributes:
      axes: what PyTorch's axes are, in order.
      order: the axes of PyTorch in Flax's order, for a (lazy) transpose.
    """

    axes: tuple[str, ...]
    order: tuple[int, ...]

    def to_flax(self, array: np.ndarray) -> np.ndarray:
        """Returns a view in Flax's order."""
        return array.transpose(self.order)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Returns a view in PyTorch's order."""
        return array.transpose(np.argsort(self.order))

    def on(self, side: int, values: Sequence) -> tuple:
        """Returns one value per axis, given in PyTorch's order, in the order of `side`."""
        return tuple(values) if side == TORCH else tuple(values[axis] for axis in self.order)


KERNEL = Layout(("out", "in", "height", "width"), (2, 3, 1, 0))
# `[height, width, in, out]` with both spatial axes as PyTorch stores them. A transposed convolution adds kernel element
# k of input x to output stride * x + k - padding, so a network that computes it as a convolution of the dilated input
# has to flip both axes; the parameters are not flipped.
TRANSPOSED_KERNEL = Layout(("in", "out", "height", "width"), (2, 3, 0, 1))
MATRIX = Layout(("out", "in"), (1, 0))
VECTOR = Layout(("channels",), (0,))
COUNTER = Layout((), ())


class Rule(NamedTuple):
    """One row of a form.

    Attributes:
      torch: template of the state-dict name.
      flax: template of the path in the variables, or None for PyTorch's batch counters: they may be absent, are
        dropped on the way in and written as int64 0 on the way out.
      layout: of the tensor.
      shape: one `Axis` per axis of PyTorch's.
    """

    torch: str
    flax: str | None
    layout: Layout
    shape: tuple[Axis, ...]

    @property
    def repeats(self) -> bool:
        """Whether there is one tensor per block."""
        return "{i" in self.torch


class Group(NamedTuple):
    """Rules that stand or fall together.

    The names of a group must be there for `{i}` = 0 to its highest value found; rules without `{i}` count once.

    Attributes:
      rules: in the order of the state dict.
      optional: whether the whole group may be absent.
    """

    rules: Sequence[Rule]
    optional: bool = False


Form = Sequence[Group]


class Tensor(NamedTuple):
    """A rule applied to one block: the tensor's name, its path ("" for a counter), layout and symbolic shape."""

    torch: str
    flax: str
    layout: Layout
    shape: tuple[Axis, ...]

    @property
    def counter(self) -> bool:
        """Whether it is a batch counter, which only PyTorch has."""
        return not self.flax

    def name(self, side: int) -> str:
        """Returns its name on one side."""
        return (self.torch, self.flax)[side]


def conv(torch: str, flax: str, out: Axis, into: Axis, size: int, *, bias: bool = False) -> list[Rule]:
    """Returns the rules of a `size` x `size` convolution: `weight` and, if `bias`, `bias`."""
    rules = [Rule(f"{torch}.weight", f"params/{flax}/kernel", KERNEL, (out, into, size, size))]
    return rules + [_bias(torch, flax, out)] if bias else rules


def transposed_conv(torch: str, flax: str, into: Axis, out: Axis, size: int) -> list[Rule]:
    """Returns the rules of a transposed convolution with bias."""
    shape = (into, out, size, size)
    return [Rule(f"{torch}.weight", f"params/{flax}/kernel", TRANSPOSED_KERNEL, shape), _bias(torch, flax, out)]


def dense(torch: str, flax: str, out: Axis, into: Axis) -> list[Rule]:
    """Returns the rules of a linear layer with bias."""
    return [Rule(f"{torch}.weight", f"params/{flax}/kernel", MATRIX, (out, into)), _bias(torch, flax, out)]


def batch_norm(torch: str, flax: str, channels: Axis) -> list[Rule]:
    """Returns the rules of a batch norm: scale, bias, running mean and variance, and the counter."""
    return [
        Rule(f"{torch}.weight", f"params/{flax}/scale", VECTOR, (channels,)),
        _bias(torch, flax, channels),
        Rule(f"{torch}.running_mean", f"batch_stats/{flax}/mean", VECTOR, (channels,)),
        Rule(f"{torch}.running_var", f"batch_stats/{flax}/var", VECTOR, (channels,)),
        Rule(f"{torch}.num_batches_tracked", None, COUNTER, ()),
    ]


def layer_norm(torch: str, flax: str, channels: Axis) -> list[Rule]:
    """Returns the rules of a layer norm: scale and bias."""
    return [Rule(f"{torch}.weight", f"params/{flax}/scale", VECTOR, (channels,)), _bias(torch, flax, channels)]


def vector(torch: str, flax: str, channels: Axis) -> list[Rule]:
    """Returns the rule of one vector under its own name, such as a learnt scale."""
    return [Rule(torch, f"params/{flax}", VECTOR, (channels,))]


def _bias(torch: str, flax: str, channels: Axis) -> Rule:
    return Rule(f"{torch}.bias", f"params/{flax}/bias", VECTOR, (channels,))


def match(forms: Sequence[Form], names: Iterable[str], side: int, where: str) -> list[Tensor]:
    """Returns the tensors that a state dict (or variables) with these names consists of.

    Args:
      forms: those of a dialect.
      names: all names of a state dict (`side` TORCH) or all paths of variables (`side` FLAX).
      side: which side `names` are on.
      where: start of the messages, such as "advent weights".

    Returns:
      The tensors in the order of the state dict, counters included whether they are among the names or not.

    Raises:
      UserError: names that no rule knows, or that the others imply but are missing.
    """
    names = dict.fromkeys(names)
    best = None
    for form in forms:
        tensors = _expand(form, names, side)
        expected = {tensor.name(side) for tensor in tensors}
        unknown = [name for name in names if name not in expected]
        missing = [t.name(side) for t in tensors if not t.counter and t.name(side) not in names]
        if best is None or len(unknown) + len(missing) < len(best[1]) + len(best[2]):
            best = tensors, unknown, missing
    tensors, unknown, missing = best
    if unknown or missing:
        found = [f"{listed(group)} {word}" for group, word in ((unknown, "unknown"), (missing, "missing")) if group]
        raise UserError(f"{where}: {', '.join(found)}; check that the dialect is the right one")
    return tensors


def check(tensors: Sequence[Tensor], arrays: Mapping[str, np.ndarray], side: int, where: str) -> None:
    """Checks types and shapes.

    A named channel count is what most tensors say, so that a single wrong tensor is the one that is blamed.

    Args:
      tensors: from `match`.
      arrays: name on `side` to array; counters may be absent.
      side: which side the arrays are on.
      where: start of the messages.

    Raises:
      UserError: a tensor that is not float32 (a counter: int64) or does not have the shape that the others imply.
    """
    tensors = [tensor for tensor in tensors if tensor.name(side) in arrays]
    sizes = _sizes(tensors, arrays, side)
    for tensor in tensors:
        name = tensor.name(side)
        array = arrays[name]
        dtype = np.dtype(np.int64 if tensor.counter else np.float32)
        if array.dtype != dtype:
            what = "tensors first (weights.cast, uda convert --cast)" if side == TORCH else "variables first"
            remedy = f"convert the {what}"
            raise UserError(f"{where}: '{name}' is {array.dtype}, expected {dtype}; {remedy}")
        expected = tensor.layout.on(side, [sizes.get(axis, axis) for axis in tensor.shape])
        if array.shape != expected:
            axes = f" ({' '.join(tensor.layout.on(side, tensor.layout.axes))})" if expected else ""
            raise UserError(f"{where}: '{name}' has shape {array.shape}, expected {_shape_text(expected)}{axes}")


def _expand(form: Form, names: Mapping[str, None], side: int) -> list[Tensor]:
    """Returns the tensors of a form with as many blocks as the names show."""
    tensors = []
    blocks = 0
    for group in form:
        repeats = any(rule.repeats for rule in group.rules)
        if repeats:
            blocks = _count(group, names, side)
        added = [
            Tensor(
                _fill(rule.torch, i, blocks),
                _fill(rule.flax or "", i, blocks),
                rule.layout,
                tuple(axis if isinstance(axis, int) else axis.split("|")[0 if i == 0 else -1] for axis in rule.shape),
            )
            for i in range(blocks if repeats else 1)
            for rule in group.rules
            if i == 0 or rule.repeats
        ]
        if not group.optional or any(tensor.name(side) in names for tensor in added):
            tensors += added
    return tensors


_PLACE = re.compile(r"\{([in])(?:\+(\d+))?\}")


def _fill(template: str, i: int, n: int) -> str:
    return _PLACE.sub(lambda place: str({"i": i, "n": n}[place[1]] + int(place[2] or 0)), template)


def _count(group: Group, names: Mapping[str, None], side: int) -> int:
    """Returns the number of blocks that the names show, at least one."""
    highest = 0
    for template in {rule[side] for rule in group.rules if rule[side] and rule.repeats}:
        place = _PLACE.search(template)
        pattern = re.compile(rf"{re.escape(template[: place.start()])}(\d+){re.escape(template[place.end() :])}")
        numbers = (int(found[1]) - int(place[2] or 0) for name in names if (found := pattern.fullmatch(name)))
        # There are no more blocks than names; a number beyond that is a stray name and will be told as unknown.
        highest = max([highest, *(number for number in numbers if number < len(names))])
    return highest + 1


def _sizes(tensors: Sequence[Tensor], arrays: Mapping[str, np.ndarray], side: int) -> dict[str, int]:
    """Returns the size of each named channel count: the one that occurs most often, of equals the first.

    A count that only wrong tensors have is left out.
    """
    shapes = [(tensor.layout.on(side, tensor.shape), arrays[tensor.name(side)].shape) for tensor in tensors]
    shapes = [list(zip(axes, shape, strict=True)) for axes, shape in shapes if len(axes) == len(shape)]
    sizes = {}
    # Twice: the second time a tensor speaks for an axis only if its other axes have their sizes, so that between a
    # transposed matrix and its bias the bias is believed.
    for _ in range(2):
        votes = collections.defaultdict(collections.Counter)
        for shape in shapes:
            wrong = [axis for axis, size in shape if sizes.get(axis, size if isinstance(axis, str) else axis) != size]
            for axis, size in shape:
                if isinstance(axis, str) and set(wrong) <= {axis}:
                    votes[axis][size] += 1
        sizes = {axis: counter.most_common(1)[0][0] for axis, counter in votes.items()}
    return sizes


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Returns "'a' is", "'a', 'b' are" or, for more than `limit` names, "'a', 'b' and 7 more are"."""
    text = ", ".join(f"'{name}'" for name in names[:limit])
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{text}{more} {'is' if len(names) == 1 else 'are'}"


def _shape_text(shape: Sequence[Axis]) -> str:
    """Returns a shape as NumPy prints it; a channel count that no tensor tells stays a name."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
