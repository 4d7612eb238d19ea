"""Config sections: each becomes one frozen, validated dataclass whose every field is described.

A section is a frozen dataclass whose fields are made by `config_field`. `from_mapping` turns a plain mapping (one
part of an `ml_collections` config) into it, recursively, and reports the first mistake as one line that
names the field: `config.train.steps: expected an integer >= 1, got -3`.

A section whose `name` decides which further fields it has (a network, an optimiser) derives from `Named`.
"""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from uda_jax.errors import UserError

T = TypeVar("T")

_TYPE_WORDS = {int: "an integer", float: "a number", str: "a string", bool: "True or False"}


def config_field(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple | None = None,
    decided: bool = False,
) -> Any:
    """Declares one config field.

    Args:
      default: the field's default; a frozen dataclass instance makes a nested section, a dict is copied.
      text: one sentence saying what the field does, with its unit and source.
      low, high: inclusive bounds of a number, or of every entry of a tuple of numbers.
      choices: the allowed values, if they can be listed.
      decided: whether code decides the value, such as a method that of its network's depth head; then the field is
        no part of the config.

    Returns:
      A `dataclasses.field` that carries the description.
    """
    metadata = {"text": text, "low": low, "high": high, "choices": choices, "decided": decided}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Named:
    """Base of a section whose field `name` decides which further fields it has, and their defaults.

    A subclass is a frozen dataclass of the fields that all names share. Its instances are made as those of any section,
    `Segmenter(name="deeplab_v2_vgg16", width=8)`, and have the fields of their name besides; they belong to a subclass
    for that name, its `variant`. None stands for a field's default. `dataclasses.replace` with another name keeps the
    fields that differ from the old name's defaults, as far as the new name has them, and drops the others.
    """

    @classmethod
    def known_names(cls) -> Sequence[str]:
        """Returns the allowed names."""
        raise NotImplementedError

    @classmethod
    def own_fields(cls, name: str) -> tuple[type, Mapping[str, Any]]:
        """Returns a dataclass of the name's own fields, and defaults that differ from theirs or the shared fields'."""
        raise NotImplementedError

    @classmethod
    def variant(cls: type[T], name: str, path: str | None = None) -> type[T]:
        """Returns the dataclass of all fields of a name; raises UserError, with the closest known one, if unknown."""
        section = _section(cls)
        if name not in (known := section.known_names()):
            raise UserError(f"{path or section.__name__}.name: unknown name {name!r}{did_you_mean(str(name), known)}")
        return _variant(section, name)

    def __new__(cls, name: str | None = None, *args: Any, **fields: Any) -> Any:
        """Returns an instance of the name's variant."""
        variant = cls.variant(_default_name(cls) if name is None else name)
        if not issubclass(variant, cls):
            # `dataclasses.replace` with another name; the result is complete, so that no __init__ follows.
            return _renamed(cls, variant, fields)
        _check_names(variant, fields, variant.__name__)
        return super().__new__(variant)

    def __post_init__(self) -> None:
        """Puts defaults where None was given."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is None:
                object.__setattr__(self, field.name, _default(field))


def _section(cls: type) -> type:
    """Returns the class that derives from Named directly, of itself or of one of its variants."""
    return next(base for base in cls.__mro__ if Named in base.__bases__)


def _default_name(cls: type) -> str:
    return next(field.default for field in dataclasses.fields(cls) if field.name == "name")


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


@functools.cache
def _variant(section: type, name: str) -> type:
    options, defaults = section.own_fields(name)
    defaults = {**defaults, "name": name}
    fields = []
    for cls in (section, options):
        for field in dataclasses.fields(cls):
            if not field.metadata["decided"]:
                default = defaults.get(field.name, _default(field))
                new = dataclasses.field(default=default, metadata=field.metadata)
                fields.append((field.name, _hints(cls)[field.name], new))
    namespace = {"__module__": section.__module__, "__doc__": section.__doc__}
    return dataclasses.make_dataclass(section.__name__, fields, bases=(section,), frozen=True, namespace=namespace)


def _renamed(old: type, new: type, values: Mapping[str, Any]) -> Any:
    """Returns a section of another name with those values that are not the old name's defaults and that it has."""
    defaults = {field.name: _default(field) for field in dataclasses.fields(old)}
    known = {field.name for field in dataclasses.fields(new)} - {"name"}
    _check_names(new, [name for name in values if name not in defaults], new.__name__)
    return new(**{name: value for name, value in values.items() if name in known and value != defaults.get(name)})


def from_mapping(cls: type[T], values: Mapping[str, Any], path: str = "config", base: T | None = None) -> T:
    """Builds a section from a mapping and validates it.

    Args:
      cls: a frozen dataclass whose fields were made with `config_field`.
      values: field name to value; fields left out take their default.
      path: dotted name of this section, used in messages.
      base: a section whose values take the defaults' place, unless `values` has another `Named` name.

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
    if issubclass(cls, Named):
        default = _default_name(cls if base is None else type(base))
        cls = cls.variant(default if values.get("name") is None else values["name"], path)
        # None is no value, so that it is not refused where another name's field would be.
        values = {name: value for name, value in values.items() if value is not None or name in _hints(cls)}
    _check_names(cls, values, path)
    fields, hints = {field.name: field for field in dataclasses.fields(cls)}, _hints(cls)
    arguments = {name: getattr(base, name) for name in fields} if isinstance(base, cls) else {}
    for name, value in values.items():
        given = value is not None or not issubclass(cls, Named)
        field, default = fields[name], fields[name].default
        arguments[name] = _value(value, hints[name], field.metadata, f"{path}.{name}", default) if given else default
    section = cls(**arguments)
    if hasattr(section, "check"):
        section.check(path)
    return section


def _check_names(cls: type, names: typing.Iterable[str], path: str) -> None:
    """Raises a UserError that names the first unknown field."""
    known = [field.name for field in dataclasses.fields(cls)]
    for name in names:
        if name not in known:
            which = f" of {_default_name(cls)!r}" if issubclass(cls, Named) else ""
            raise UserError(f"{path}.{name}: unknown field{which}{did_you_mean(name, known)}")


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


def _value(value: Any, hint: Any, metadata: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """Returns `value` as the annotated type, or raises a UserError that names `path`.

    A section takes what `value` leaves out from the field's `default`.
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        if value is None and len(options) < len(typing.get_args(hint)):
            return None
        return _value(value, _fitting(options, value), metadata, path, default)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        return from_mapping(hint, value, path, default if isinstance(default, hint) else None)
    if typing.get_origin(hint) is dict:
        if not isinstance(value, Mapping):
            cure = ", such as \"{'name': 1}\" with the names in quotes" if isinstance(value, str) else ""
            raise UserError(f"{path}: expected a mapping{cure}, got {value!r}")
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
