"""What a compiled or lowered program costs: operations, memory, communication."""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.extend
import numpy as np

# Instructions of HLO by which devices exchange arrays. GPUs split each into a start, with the operands, and a done.
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_INSTRUCTION = re.compile(rf"= (?P<type>.*?) (?P<kind>{'|'.join(_COLLECTIVES)})(?P<start>-start)?\(")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\) -> .* \{$")
_CALLED = re.compile(r"(?:body|condition|to_apply|calls)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
# As lists of devices, as a count of groups and of their members, or as axes of a mesh.
_GROUPS = re.compile(
    r"replica_groups=(?:\{\{(?P<list>[\d,]+)\}|\[\d+,(?P<iota>\d+)\]|mesh\[(?P<mesh>[^\]]*)\] \{(?P<axes>[^}]*)\})"
)


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a compiled program takes on each device, in bytes.

    Attributes:
      arguments: what it is called with.
      outputs: what it returns, that in memory of the arguments included.
      aliased: outputs in memory of donated arguments.
      temporaries: what it needs in between; XLA reserves it as a whole.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int

    @property
    def peak(self) -> int:
        """The sum of all that lives while the program runs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries


@dataclasses.dataclass(frozen=True)
class Costs:
    """What one call of a program costs.

    Attributes:
      operations: floating-point operations on all devices together, a multiplication and an addition being two.
      accessed: bytes that each device reads and writes; before a compiler joins operations, a multiple of that.
      memory: of each device; None where the program is not compiled.
      communication: kind of exchange -> bytes that each device gives into it; None where it is not compiled.
    """

    operations: float
    accessed: float
    memory: Memory | None = None
    communication: Mapping[str, int] | None = None


def costs(traced: Any, lowered: Any, compiled: Any = None, devices: int = 1) -> Costs:
    """Returns what a program costs.

    XLA's own count takes the body of a loop once. The matrix products and convolutions of its further rounds are added
    to it, where the number of rounds is known, as that of a scan is.

    Args:
      traced, lowered, compiled: the stages of one `jax.jit`; without the last, what it alone tells is None.
      devices: how many the program is for.
    """
    further = further_rounds(traced.jaxpr.jaxpr)
    if compiled is None:
        counted = lowered.cost_analysis()
        return Costs(counted["flops"] + further, counted["bytes accessed"] / devices)
    counted = compiled.cost_analysis()
    # A compiler may unroll a loop, what it counts is what one device does, and on a GPU not even the convolutions and
    # products that it leaves to cuDNN and cuBLAS.
    whole = further or jax.default_backend() != "cpu"
    operations = lowered.cost_analysis()["flops"] + further if whole else devices * counted["flops"]
    found = compiled.memory_analysis()
    memory = Memory(
        found.argument_size_in_bytes,
        found.output_size_in_bytes,
        found.alias_size_in_bytes,
        found.temp_size_in_bytes,
    )
    exchanged = communication(compiled.as_text(), devices) if devices > 1 else {}
    return Costs(operations, counted["bytes accessed"], memory, exchanged)


def further_rounds(jaxpr: jax.extend.core.Jaxpr, rounds: int = 0) -> float:
    """Returns the operations of all but the first round of a program's scans, in matrix products and convolutions.

    Args:
      jaxpr: the program.
      rounds: how many times the whole of it is run besides.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        times = equation.params["length"] * (rounds + 1) - 1 if equation.primitive.name == "scan" else rounds
        total += sum(further_rounds(inner, times) for inner in _inner(equation.params))
        if rounds:
            total += rounds * _operations(equation)
    return total


def _inner(params: Mapping[str, Any]) -> Iterator[jax.extend.core.Jaxpr]:
    """Yields the programs that an equation holds; of those that it chooses from, all."""
    for value in params.values():
        for entry in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(entry, jax.extend.core.ClosedJaxpr):
                yield entry.jaxpr
            elif isinstance(entry, jax.extend.core.Jaxpr):
                yield entry


def _operations(equation: Any) -> float:
    """Returns the operations of a matrix product or a convolution, and 0 for all else."""
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == "conv_general_dilated":
        return _convolution(equation)
    return 0.0


def _convolution(equation: Any) -> float:
    """Counts as XLA does: no product with padding, nor with the holes of a dilated map."""
    x, kernel, params = equation.invars[0].aval.shape, equation.invars[1].aval.shape, equation.params
    numbers, after = params["dimension_numbers"], equation.outvars[0].aval.shape
    total = 2.0 * after[numbers.out_spec[0]] * after[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    axes = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    for i, (x_axis, kernel_axis, out_axis) in enumerate(axes):
        holes = params["lhs_dilation"][i]
        begins = np.arange(after[out_axis])[:, None] * params["window_strides"][i] - params["padding"][i][0]
        read = begins + np.arange(kernel[kernel_axis])[None] * params["rhs_dilation"][i]
        total *= np.count_nonzero((read >= 0) & (read <= (x[x_axis] - 1) * holes) & (read % holes == 0))
    return total


def communication(text: str, devices: int) -> dict[str, int]:
    """Returns kind of exchange -> bytes that each device gives into it, from the text of a compiled program.

    These are the operands. What goes over the wires depends on the algorithm: of a ring's all-reduce, each device sends
    2 (n - 1) / n of them.

    Args:
      text: HLO; an exchange in a loop counts as often as the loop is known to run, else once.
      devices: of the program, which all exchange unless an instruction names groups.
    """
    here, entry = None, None
    exchanged, called = collections.defaultdict(collections.Counter), collections.defaultdict(list)
    for line in text.splitlines():
        if begins := _COMPUTATION.match(line):
            here = begins["name"]
            entry = here if begins["entry"] else entry
        elif here is not None:
            trips = _TRIPS.search(line)
            for name, names in _CALLED.findall(line):
                times = int(trips[1]) if trips else 1
                called[here] += [(word.strip(" %"), times) for word in (names.split(",") if names else [name])]
            if found := _INSTRUCTION.search(line):
                exchanged[here][found["kind"]] += _operand_bytes(found, _group_size(line, devices))

    @functools.cache
    def total(name: str) -> collections.Counter:
        found = collections.Counter(exchanged[name])
        for other, times in called[name]:
            found.update({kind: times * size for kind, size in total(other).items()})
        return found

    return dict(total(entry)) if entry is not None else {}


def _operand_bytes(instruction: re.Match, group: int) -> int:
    """Returns the size of what a device gives into an exchange, from the type of what comes out."""
    sizes = [_array_bytes(*array) for array in _ARRAY.findall(instruction["type"])]
    kind = instruction["kind"]
    if instruction["start"] and kind in ("all-gather", "collective-permute"):
        # A tuple of operands and results.
        return sum(sizes) // (1 + group) if kind == "all-gather" else sizes[0]
    if kind == "all-gather":
        return sum(sizes) // group
    return sum(sizes) * (group if kind == "reduce-scatter" else 1)


def _array_bytes(element: str, shape: str) -> int:
    bits = 8 if element == "pred" else int(re.search(r"\d+", element)[0])
    return bits * math.prod(int(n) for n in shape.split(",") if n) // 8


def _group_size(line: str, devices: int) -> int:
    """Returns how many devices an exchange is between."""
    found = _GROUPS.search(line)
    if found is None:
        return devices
    if found["list"]:
        return found["list"].count(",") + 1
    if found["iota"]:
        return int(found["iota"])
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found["mesh"]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found["axes"]))


def tree_bytes(tree: Any) -> int:
    """Returns the bytes of all arrays of a tree, which may be shapes and types alone."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def shapes(tree: Any) -> Any:
    """Returns the shapes and types of a tree of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
