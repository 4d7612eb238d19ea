"""Sections as `ml_collections` configs, and the words of the command line that change one."""

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

from uda_jax import methods
from uda_jax.errors import UserError
from uda_jax.schema import Named, did_you_mean, from_mapping

# What Python says of a number that is none, and what is meant.
_EXPECTED = {"invalid literal for int()": "an integer", "could not convert string to float": "a number"}
# What ml_collections and absl raise for an override that does not fit.
_FLAG_ERRORS = (flags.Error, AttributeError, KeyError, TypeError, ValueError)


def as_config(section: Any, *, without: Sequence[str] = ()) -> ConfigDict:
    """Turns a section into a ConfigDict with every field present, for config files.

    A field that is None becomes a typed placeholder, so that the command line can set it. Mappings inside, such
    as an experiment's `method` and `data`, may hold sections.

    Args:
      section: a frozen dataclass made of `config_field` fields.
      without: top-level fields to leave out.
    """
    hints = typing.get_type_hints(type(section))
    entries = {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}
    return ConfigDict({name: _entry(value, hints[name]) for name, value in entries.items() if name not in without})


def _entry(value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return as_config(value)
    if isinstance(value, Mapping) and not isinstance(value, ConfigDict):
        return ConfigDict({name: _entry(entry, Any) for name, entry in value.items()})
    if value is None:
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        kind = typing.get_origin(options[0]) or options[0] if options else object
        return config_dict.placeholder(kind if kind in (int, float, str, bool, tuple) else object)
    return value


def apply(config: ConfigDict, words: Sequence[str], root: type) -> None:
    """Applies words such as "--config.train.steps=100" in place.

    The name of a network or an optimiser is applied before all other words, wherever it stands. Its section then has
    the fields of the new name; those that differ from the old name's defaults stay as far as the new name has them,
    all others take its defaults.

    Args:
      config: the config of a section.
      words: the overrides.
      root: the section's class.

    Raises:
      UserError: one that does not fit.
    """
    try:
        _apply(config, words, root)
    except _FLAG_ERRORS as error:
        word = _blame(words, config, root)
        name, _, value = word.partition("=")
        for words_of_python, plain in _EXPECTED.items():
            if words_of_python in str(error):
                raise UserError(f"{name}: expected {plain}, got {value!r}") from error
        raise UserError(f"{word}: {one_line(error)}") from error


def _apply(config: ConfigDict, words: Sequence[str], root: type) -> None:
    """Applies overrides with ml_collections' typed flags, and raises what they raise."""
    for path, name in _renames(config, words, root):
        _rename(config, path, name, root)
    for word in words:
        name, equals, _ = word.partition("=")
        if not name.startswith("--config.") or not equals:
            raise UserError(f"{word}: expected an override such as --config.train.steps=100")
        _holder(config, name.removeprefix("--config."))
    # Flags of tuples and strings would read "None" as an entry or a text.
    unset = [word for word in words if word.endswith("=None")]
    words = ["uda", *(word for word in words if word not in unset)]
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, lock_config=True, sys_argv=words)
    values(words)
    for word in unset:
        *parents, last = word.removeprefix("--config.").removesuffix("=None").split(".")
        functools.reduce(lambda node, field: node[field], parents, config)[last] = None


def set_field(config: ConfigDict, path: str, value: Any, root: type) -> None:
    """Sets the field at a dotted path, as `apply` does, to a value that need not be a word.

    Raises:
      UserError: an unknown field, or a value of another type than the field's.
    """
    holder, last = _holder(config, path)
    parents = path.split(".")[:-1]
    if last == "name" and _is_named(_class_at(config, parents, root)):
        _rename(config, parents, value, root)
        return
    if isinstance(value, list) and not isinstance(holder[last], ConfigDict):
        value = tuple(value)
    try:
        holder[last] = value
    except (TypeError, ValueError) as error:
        raise UserError(f"config.{path}: expected another type of value, got {value!r}: {one_line(error)}") from error


def _holder(config: ConfigDict, name: str) -> tuple[ConfigDict, str]:
    """Returns the section that holds a field, and the field's own name; raises a UserError if there is none."""
    node, path, holder, last = config, "config", config, ""
    for field in name.split("."):
        if not isinstance(node, ConfigDict) or field not in node:
            known = node.keys() if isinstance(node, ConfigDict) else ()
            raise UserError(f"{path}.{field}: unknown field{_moved(name, config) or did_you_mean(field, known)}")
        holder, last, node, path = node, field, node[field], f"{path}.{field}"
    return holder, last


def _moved(name: str, config: ConfigDict) -> str:
    """Returns where a field of an earlier version lies now: the section of a ranking is that of the stage that ranks.

    Args:
      name: of the field, such as "rank.fraction".
      config: the config that lacks it.
    """
    found = re.fullmatch(r"(?:stages\.[^.]+\.)?rank\.(.+)", name)
    if found is None:
        return ""
    stages = config.get("stages") or {}
    ranking = next((stage for stage in stages if (stages[stage].get("kind") or {}).get("name") == "rank"), "<name>")
    return f"; it lies in the stage that ranks now, as --config.stages.{ranking}.kind.{found[1]}"


def _renames(config: ConfigDict, words: Sequence[str], root: type) -> Iterator[tuple[list[str], str]]:
    """Yields the path of each section whose name the words change and whose fields depend on it, and that name."""
    for word in words:
        key, _, name = word.partition("=")
        *path, last = key.removeprefix("--config.").split(".")
        if last == "name" and _is_named(_class_at(config, path, root)):
            yield path, name


def _rename(config: ConfigDict, path: list[str], name: str, root: type) -> None:
    """Gives the section at a path the fields of another name."""
    where = ".".join(["config", *path])
    *parents, last = path
    node = functools.reduce(lambda node, field: node[field], parents, config)
    cls = _class_at(config, path, root)
    section = from_mapping(cls, node[last].to_dict(), where)
    cls.variant(name, where)  # Names the path if the name is unknown.
    with node.unlocked():
        del node[last]  # Otherwise the old fields' types would have to fit the new ones'.
        node[last] = as_config(dataclasses.replace(section, name=name))


def _class_at(config: ConfigDict, path: Sequence[str], root: type) -> Any:
    """Returns the section class at a path of a config; None if there is no such section."""
    hint, node = root, config
    for field in path:
        if not isinstance(node, ConfigDict) or node.get(field) is None:
            return None
        outer, node = hint, node[field]
        if typing.get_origin(outer) is dict:
            hint = typing.get_args(outer)[1]
        else:
            hint = typing.get_type_hints(outer).get(field) if dataclasses.is_dataclass(outer) else None
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        if isinstance(hint, types.UnionType):
            hint = next(filter(_is_named, options), options[0])
        if field == "method" and hint == dict[str, Any]:
            hint = methods.get(node.name)
    return hint


def _is_named(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Named)


def _blame(words: Sequence[str], config: ConfigDict, root: type) -> str:
    """Returns the first override that does not fit the config by itself, for the message."""
    names = [word for word in words if word.partition("=")[0].endswith(".name")]
    for word in words:
        try:
            _apply(ConfigDict(config.to_dict()), [*names, word], root)
        except _FLAG_ERRORS:
            return word
    return " ".join(words)


def one_line(error: Exception) -> str:
    """Returns an exception's message without line breaks."""
    return " ".join(str(error.args[0] if error.args else error).split())
