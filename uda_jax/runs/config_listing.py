"""A config as text: every field with its value, what it may be, its default and the sentence that says what it does."""

import dataclasses
import difflib
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from uda_jax import methods
from uda_jax.config import Experiment, StageConfig
from uda_jax.errors import UserError
from uda_jax.runs import kinds
from uda_jax.schema import from_mapping

WIDTH = 100
# A field's value where the other config has no such field.
ABSENT = "–"
# Fields of every method that the data and the loop decide.
DECIDED = ("num_classes", "precision", "accumulation")


class Row(NamedTuple):
    """One field of a config.

    Attributes:
      path: dotted name without "config.", such as "train.steps".
      value: as it is set.
      default: of the field.
      allowed: what it may be, in words.
      text: what it does.
    """

    path: str
    value: Any
    default: Any
    allowed: str
    text: str

    @property
    def changed(self) -> bool:
        """Whether the config sets another value than the field's default."""
        return self.value != self.default


def rows(experiment: Experiment) -> list[Row]:
    """Returns every field of an experiment, those of its method, its stages and their kinds among them."""
    return list(_of_section(experiment, ""))


def _of_section(section: Any, path: str, base: Any = None) -> Iterator[Row]:
    """Yields the fields of a section; `base` is the section that would stand there by default, if there is one."""
    hints = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        if field.metadata.get("decided") or (path.endswith("method.") and field.name in DECIDED):
            continue
        usual = getattr(base, field.name) if type(base) is type(section) else default(field)
        value, name = getattr(section, field.name), f"{path}{field.name}"
        if isinstance(section, (Experiment, StageConfig)) and field.name in _BY_NAME and value is not None:
            yield from _named(value, field.name, name)
        elif parts := _parts(value):
            for part, found in parts.items():
                yield from _of_section(found, f"{name}.{part}." if part else f"{name}.", usual)
        else:
            yield Row(name, value, usual, allowed(hints[field.name], field.metadata), field.metadata["text"])


def default(field: dataclasses.Field) -> Any:
    """Returns the default of a field."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


# Fields that hold a mapping of a name and that name's own fields, and where the name's class is found.
_BY_NAME = {"method": lambda name, path: methods.get(name), "kind": kinds.get}


def _named(value: Mapping[str, Any], field: str, path: str) -> Iterator[Row]:
    fields = dict(value)
    name = fields.pop("name")
    text = "The file in uda_jax/methods, or a module." if field == "method" else "The file in uda_jax/runs/kinds."
    yield Row(f"{path}.name", name, None, "a name", text)
    cls = _BY_NAME[field](name, path)
    yield from _of_section(from_mapping(cls, fields, f"config.{path}"), f"{path}.")


def _parts(value: Any) -> dict[str, Any]:
    """Returns the sections in a field's value by name, "" for a single one; none if it is a plain value."""
    if dataclasses.is_dataclass(value):
        return {"": value}
    if isinstance(value, Mapping) and value and all(dataclasses.is_dataclass(part) for part in value.values()):
        return dict(value)
    return {}


def allowed(hint: Any, metadata: Mapping[str, Any]) -> str:
    """Returns in words what a field may be, such as "integer >= 1" or "one of fp32, bf16"."""
    choices, low, high = (metadata.get(name) for name in ("choices", "low", "high"))
    if choices is not None:
        each = "any of " if typing.get_origin(hint) is tuple else "one of "
        return each + ", ".join(map(_word, choices))
    words = _type_words(hint)
    if low is not None and high is not None:
        return f"{words} from {low:g} to {high:g}"
    bound = f" >= {low:g}" if low is not None else f" <= {high:g}" if high is not None else ""
    return words + bound


_TYPES = {int: "integer", float: "number", str: "text", bool: "True or False", type(None): "None", Any: "any value"}


def _type_words(hint: Any) -> str:
    if hint in _TYPES:
        return _TYPES[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        inner = [_type_words(argument) for argument in arguments if argument is not Ellipsis]
        return f"tuple of {inner[0]}s" if Ellipsis in arguments else f"({', '.join(inner)})"
    if origin is dict:
        return f"mapping of names to {_type_words(arguments[1])}"
    if arguments:
        return " or ".join(_type_words(argument) for argument in arguments)
    return f"section {hint.__name__}" if dataclasses.is_dataclass(hint) else getattr(hint, "__name__", str(hint))


def _word(value: Any) -> str:
    return str(value) if isinstance(value, str) else repr(value)


def chosen(found: Sequence[Row], prefix: str | None) -> list[Row]:
    """Returns the rows of a field or of a section; raises UserError if there is none of that name."""
    prefix = (prefix or "").removeprefix("--").removeprefix("config.").rstrip(".")
    rows_below = [row for row in found if not prefix or row.path == prefix or row.path.startswith(f"{prefix}.")]
    if not rows_below:
        known = {row.path for row in found} | {row.path.rpartition(".")[0] for row in found} - {""}
        close = difflib.get_close_matches(prefix, sorted(known), n=1)
        tops = ", ".join(dict.fromkeys(row.path.partition(".")[0] for row in found))
        remedy = f"did you mean '{close[0]}'?" if close else f"expected one that begins with {tops}"
        raise UserError(f"{prefix}: no such field or section of this config; {remedy}")
    return rows_below


def listing(found: Sequence[Row]) -> str:
    """Returns the fields below each other; a star marks what differs from a default."""
    lines = []
    for row in found:
        default = f"; default {_value(row.default)}" if row.changed and row.default is not None else ""
        head = f"{'*' if row.changed else ' '} {row.path} = {_value(row.value)}"
        lines += textwrap.wrap(f"{head}  [{row.allowed}{default}]", WIDTH, subsequent_indent=6 * " ")
        lines += textwrap.wrap(row.text, WIDTH, initial_indent=6 * " ", subsequent_indent=6 * " ")
    return "\n".join(lines)


def differences(ours: Sequence[Row], theirs: Sequence[Row], names: tuple[str, str]) -> str:
    """Returns the fields in which two configs differ, both values of each; an empty text if they are equal."""
    found = [{row.path: _value(row.value) for row in side} for side in (ours, theirs)]
    lines = []
    for path in dict.fromkeys([*found[0], *found[1]]):
        values = [side.get(path, ABSENT) for side in found]
        if values[0] != values[1]:
            lines += [path, *(f"    {name}: {value}" for name, value in zip(names, values, strict=True))]
    return "\n".join(lines)


def _value(value: Any) -> str:
    return value if isinstance(value, str) and value else repr(value)
