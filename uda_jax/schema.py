"""Config sections: each becomes one frozen, validated dataclass whose every field is described.

A section is a frozen dataclass whose fields are made by `config_field`. `from_mapping` turns a plain mapping (one
part of an `ml_collections` config) into it, recursively, and reports the first mistake as one line that
names the field: `config.train.steps: expected an integer >= 1, got -3`.
"""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from uda_jax.errors import UserError

T = TypeVar("T")

_TYPE_WORDS = {int: "an integer", float: "a number", str: "a string", bool: "True or False"}


def config_field(
    default: Any, text: str, *, low: float | None = None, high: float | None = None, choices: tuple | None = None
) -> Any:
    """Declares one config field.

    Args:
      default: the field's default; a frozen dataclass instance makes a nested section, a dict is copied.
      text: one sentence saying what the field does, with its unit and source.
      low, high: inclusive bounds of a number, or of every entry of a tuple of numbers.
      choices: the allowed values, if they can be listed.

    Returns:
      A `dataclasses.field` that carries the description.
    """
    metadata = {"text": text, "low": low, "high": high, "choices": choices}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def from_mapping(cls: type[T], values: Mapping[str, Any], path: str = "config") -> T:
    """Builds a section from a mapping and validates it.

    Args:
      cls: a frozen dataclass whose fields were made with `config_field`.
      values: field name to value; fields left out take their default.
      path: dotted name of this section, used in messages.

    Returns:
      An instance of `cls`.

    Raises:
      UserError: an unknown field (with the closest known name), a value of the wrong type, a value out of
        range, or whatever the section's own `check(path)` method raises.
    """
    if not isinstance(values, Mapping):
        raise UserError(
            f"{path}: expected a section with fields {sorted(f.name for f in dataclasses.fields(cls))}, got {values!r}"
        )
    # A mapping that is frozen only on the outside (ml_collections) is read, never changed.
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = _hints(cls)
    for name in values:
        if name not in fields:
            raise UserError(f"{path}.{name}: unknown field{did_you_mean(name, fields)}")
    arguments = {
        name: _value(value, hints[name], fields[name].metadata, f"{path}.{name}") for name, value in values.items()
    }
    section = cls(**arguments)
    if hasattr(section, "check"):
        section.check(path)
    return section


def did_you_mean(name: str, known: typing.Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" for the most similar known name, else the sorted list of them."""
    known = sorted(known)
    match = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{match[0]}'?" if match else f"; known: {', '.join(known)}"


def to_dict(section: Any) -> dict[str, Any]:
    """Returns a section as nested plain dicts (tuples stay tuples), the inverse of `from_mapping`."""
    return dataclasses.asdict(section)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _value(value: Any, hint: Any, metadata: Mapping[str, Any], path: str) -> Any:
    """Returns `value` as the annotated type, or raises a UserError that names `path`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        if value is None and len(options) < len(typing.get_args(hint)):
            return None
        return _value(value, _fitting(options, value), metadata, path)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_mapping(hint, value, path)
    if typing.get_origin(hint) is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{path}: expected a mapping, got {value!r}")
        inner = typing.get_args(hint)[1]
        return {key: _value(entry, inner, metadata, f"{path}.{key}") for key, entry in value.items()}
    if typing.get_origin(hint) is tuple:
        return _tuple(value, typing.get_args(hint), metadata, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint is not Any and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise UserError(f"{path}: expected {_TYPE_WORDS.get(hint, hint)}, got {value!r}")
    _check_range(value, metadata, path)
    return value


def _fitting(options: list[Any], value: Any) -> Any:
    """Returns the option that a value is meant for; in doubt, the first one.

    Of several sections that is the first with all of the value's fields. A mapping of sections by names of the user's
    choice is meant by a value that holds nothing but sections, and other names than the fields of one.
    """
    if not isinstance(value, Mapping):
        return type(value) if type(value) in options else options[0]
    sections = [option for option in options if dataclasses.is_dataclass(option)]
    known = ((option, {field.name for field in dataclasses.fields(option)}) for option in sections)
    if found := [option for option, names in known if names >= set(value)]:
        return found[0]
    mappings = [option for option in options if typing.get_origin(option) is dict]
    if mappings and all(isinstance(entry, Mapping) or dataclasses.is_dataclass(entry) for entry in value.values()):
        return mappings[0]
    return options[0]


def _tuple(value: Any, hints: tuple, metadata: Mapping[str, Any], path: str) -> tuple:
    if isinstance(value, str) or not isinstance(value, (tuple, list)):
        raise UserError(f"{path}: expected a list of values, got {value!r}")
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise UserError(f"{path}: expected {len(hints)} values, got {len(value)}: {value!r}")
    return tuple(
        _value(entry, hint, metadata, f"{path}[{i}]") for i, (entry, hint) in enumerate(zip(value, hints, strict=True))
    )


def _check_range(value: Any, metadata: Mapping[str, Any], path: str) -> None:
    choices, low, high = metadata.get("choices"), metadata.get("low"), metadata.get("high")
    if choices is not None and value not in choices:
        raise UserError(f"{path}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        word = _TYPE_WORDS[type(value)]
        # Written so that NaN, which compares false with everything, is refused too.
        if low is not None and not value >= low:
            raise UserError(f"{path}: expected {word} >= {low}, got {value!r}")
        if high is not None and not value <= high:
            raise UserError(f"{path}: expected {word} <= {high}, got {value!r}")
