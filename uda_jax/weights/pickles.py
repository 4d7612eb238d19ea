"""Pickles of tensors and plain containers, read without running anything that they name.

A pickle is a program for a stack machine. The standard library's machine lets it import and call any function and set
attributes of any object. This one executes the same opcodes but calls nothing except the builders of an explicit
table, fills nothing except containers that it made itself, and refuses every other name. Memory stays in proportion to
the size of the file. PyTorch's own reader of this kind (`weights_only`) comes with PyTorch alone, which this library
does without.

The strings of Python 2 arrive as text (latin-1), so a file does not show which Python wrote it.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

# Real checkpoints stay far below both. Without them a short pickle can hold what no program may walk through: lists
# nested a million deep, or sixty lists each of which holds the one before twice.
MAX_DEPTH = 100
MAX_NODES = 10_000_000


class Refusal(Exception):
    """Something in a file that is not read; one line that the caller completes with the file's name."""


class Damaged(Refusal):
    """A file that breaks the rules of its own format, as an interrupted download does."""


@dataclasses.dataclass(frozen=True, slots=True)
class Builder:
    """A function of ours that stands for a name in the pickle; all that a pickle can call."""

    make: Callable[..., Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Unsupported:
    """A name that is harmless but not read: `what` it makes, for the message, and the remedy."""

    what: str
    remedy: str


class Pending:
    """An object that a pickle creates first and completes later, by handing a state to `finish`."""

    __slots__ = ("finish", "results")

    def __init__(self, finish: Callable[[Any], Any]):
        self.finish = finish
        self.results = []


class Unpickler:
    """The stack machine for one pickle after the other.

    Attributes:
      names: what the pickle may name, `module.name` to a `Builder`, `Unsupported` or value.
      persistent_load: gives the object that a persistent id stands for; None refuses such ids.
      size: of the file in bytes; builders may copy no more than that in total.
    """

    def __init__(self, names: Mapping[str, Any], size: int, persistent_load: Callable[[Any], Any] | None = None):
        self.names = names
        self.persistent_load = persistent_load
        self.size = size

    def load(self, stream: BinaryIO) -> Any:
        """Executes one pickle and leaves the stream behind its end.

        Args:
          stream: a buffered file, a BytesIO or a memory map, at the start of the pickle.

        Returns:
          Dicts, lists, tuples, sets, numbers, text, bytes, and what the builders made of the rest (NumPy arrays).

        Raises:
          Refusal: a name, opcode or object that is not allowed.
          Damaged: not a pickle, or a broken one.
        """
        self.stack, self.memo, self.copied = [], {}, 0
        last = None
        try:
            for opcode, argument, position in pickletools.genops(stream):
                last = position
                self._step(opcode.name, argument)
            (value,) = self.stack
            _measure(value, {}, 0)
        # A broken pickle can ask for any nonsense: too few operands, arguments that do not fit, unknown memo entries.
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            where = "at its start" if last is None else f"near byte {last}"
            raise Damaged(f"the pickle is damaged or cut short {where}; copy or download the file again") from error
        return value

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _IGNORED:
            return
        if name in _PUSHED:
            stack.append(bytes(argument) if type(argument) is bytearray else argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _MEMO_WRITES:
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in _MEMO_READS:
            stack.append(_latest(self.memo[argument]))
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise _strange_opcode(name)

    def _find(self, module: str, name: str) -> Any:
        full = f"{_MODULES.get(module, module)}.{name}"
        full = full.replace("numpy.core.", "numpy._core.", 1)
        if full not in self.names:
            raise Refusal(
                f"the pickle asks for {shown(f'{module}.{name}')}, which is no tensor or plain container; "
                "refused (the file may be harmful)"
            )
        found = self.names[full]
        if isinstance(found, Unsupported):
            raise Refusal(f"holds {found.what} ({shown(full)}), which is not read; {found.remedy}")
        return found

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self._find(module, name))

    def _stack_global(self, _) -> None:
        module, name = self._pop(2)
        self.stack.append(self._find(as_text(module), as_text(name)))

    def _instance(self, argument: str) -> None:
        # The opcode imports and calls at once: what it names says more than what it is.
        self._global(argument)
        raise _strange_opcode("INST")

    def _pop(self, count: int) -> list[Any]:
        """Pops `count` operands; none of them can be a mark."""
        popped = self.stack[-count:]
        if len(popped) < count or any(value is _MARK for value in popped):
            raise IndexError
        del self.stack[-count:]
        return popped

    def _pop_to_mark(self) -> list[Any]:
        popped = []
        while (value := self.stack.pop()) is not _MARK:
            popped.append(value)
        return popped[::-1]

    def _tuple(self, count: int) -> None:
        self.stack.append(tuple(self._pop(count)))

    def _dict(self, _) -> None:
        items = self._pop_to_mark()
        self.stack.append({})
        self._set_items(items)

    def _append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise TypeError
        target += items

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise TypeError
        target.update(as_dict(zip(items[::2], items[1::2], strict=True)))

    def _add_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not set:
            raise TypeError
        target.update(map(as_key, items))

    def _call(self, function: Any, arguments: Any) -> None:
        if type(function) is not Builder or type(arguments) is not tuple:
            raise TypeError
        self._charge(arguments)
        self.stack.append(function.make(*arguments))

    def _build(self, _) -> None:
        target, state = self._pop(2)
        if type(target) is Pending and not target.results:
            self._charge(state if type(state) is tuple else (state,))
            target.results.append(target.finish(state))
            target = target.results[0]
        # Attributes that code hung on a dict or a tensor (`_metadata` of a state dict) are dropped.
        elif type(target) not in (dict, np.ndarray):
            raise TypeError
        self.stack.append(target)

    def _persistent(self, _) -> None:
        (identity,) = self._pop(1)
        if self.persistent_load is None:
            raise Refusal("the pickle refers to objects outside itself; save the file with torch.save")
        self.stack.append(self.persistent_load(identity))

    def _charge(self, arguments: Iterable[Any]) -> None:
        """Counts what a builder copies: a pickle could name one long string a million times."""
        self.copied += sum(len(argument) for argument in arguments if type(argument) in _COPIED)
        if self.copied > self.size:
            raise Refusal("the pickle expands to more than the size of its file; refused (the file may be harmful)")


def shown(value: Any) -> str:
    """Returns an untrusted value as one short line of ASCII, for messages."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _strange_opcode(name: str) -> Damaged:
    return Damaged(f"the pickle uses the opcode {name}, which no checkpoint needs; refused (the file may be harmful)")


_MARK = object()
_SCALARS = (type(None), bool, int, float, str, bytes)
_COPIED = (str, bytes, list, dict, set, frozenset)
# Python 2's names of modules.
_MODULES = {"__builtin__": "builtins"}


def _measure(node: Any, measures: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """Checks that everything below a node is plain; returns its height and its number of nodes, written out as a tree.

    `measures` holds those of the containers already seen, by identity; `depth` bounds the recursion, so that a list
    that holds itself ends here too.
    """
    if type(node) not in (dict, list, tuple, set, frozenset):
        if type(node) not in _SCALARS and not isinstance(node, (np.ndarray, np.generic, np.dtype)):
            raise Refusal("the pickle holds a function, class or storage where a value belongs; save tensors only")
        return 0, 1
    if id(node) not in measures:
        height, count = 0, 1
        if depth < MAX_DEPTH:
            for child in node.values() if type(node) is dict else node:
                child_height, child_count = _measure(child, measures, depth + 1)
                height, count = max(height, child_height + 1), count + child_count
        if depth >= MAX_DEPTH or height > MAX_DEPTH:
            raise Refusal(f"the pickle nests more than {MAX_DEPTH} containers; refused (the file may be harmful)")
        if count > MAX_NODES:
            raise Refusal(f"the pickle holds more than {MAX_NODES:,} objects; refused (the file may be harmful)")
        measures[id(node)] = height, count
    return measures[id(node)]


def _latest(value: Any) -> Any:
    """Returns the finished object in place of one that was pending when it was memoised."""
    return value.results[0] if type(value) is Pending and value.results else value


def as_key(value: Any) -> Any:
    """Returns a dict key or set member; scalars and flat tuples only, as hashing runs through nested ones unguarded."""
    parts = value if type(value) is tuple else (value,)
    if not all(type(part) in _SCALARS for part in parts):
        raise TypeError
    return value


def as_dict(items: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Returns pairs as a dict, the keys checked by `as_key`."""
    return {as_key(key): value for key, value in items}


def as_text(value: Any) -> str:
    """Returns a text; raises TypeError for anything else."""
    if type(value) is not str:
        raise TypeError
    return value


_IGNORED = {"PROTO", "FRAME", "STOP"}
_PUSHED = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"} | {
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}
_MEMO_WRITES = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_MEMO_READS = {"GET", "BINGET", "LONG_BINGET"}
_STEPS: dict[str, Callable[[Unpickler, Any], None]] = {
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine._pop_to_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine._pop_to_mark())),
    "LIST": lambda machine, _: machine.stack.append(machine._pop_to_mark()),
    "FROZENSET": lambda machine, _: machine.stack.append(frozenset(map(as_key, machine._pop_to_mark()))),
    "DICT": Unpickler._dict,
    "APPEND": lambda machine, _: machine._append(machine._pop(1)),
    "APPENDS": lambda machine, _: machine._append(machine._pop_to_mark()),
    "SETITEM": lambda machine, _: machine._set_items(machine._pop(2)),
    "SETITEMS": lambda machine, _: machine._set_items(machine._pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine._add_items(machine._pop_to_mark()),
    "GLOBAL": Unpickler._global,
    "STACK_GLOBAL": Unpickler._stack_global,
    "INST": Unpickler._instance,
    "REDUCE": lambda machine, _: machine._call(*machine._pop(2)),
    "NEWOBJ": lambda machine, _: machine._call(*machine._pop(2)),
    "BUILD": Unpickler._build,
    "BINPERSID": Unpickler._persistent,
}
