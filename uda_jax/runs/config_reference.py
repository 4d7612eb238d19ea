"""The page of all config fields, docs/config.md, made of the fields' own sentences.

python -m uda_jax.runs.config_reference > docs/config.md
"""

import dataclasses
import inspect
import typing
from collections.abc import Iterator
from typing import Any

from uda_jax import methods
from uda_jax.config import Experiment
from uda_jax.runs import config_listing, kinds
from uda_jax.schema import Named

HEAD = """# Config fields

Every field of every section. `uda config advent:streets` prints those of one config with their values, and
`uda train --config advent:streets --config.train.steps=2000` sets one. This page is made of the fields' own sentences:
`python -m uda_jax.runs.config_reference > docs/config.md`.
"""


def page() -> str:
    """Returns the page as Markdown."""
    seen: set[type] = set()
    parts = [HEAD, *_sections(Experiment, "The experiment: the top of a config", seen)]
    for name in methods.names():
        parts += _sections(methods.get(name), f"Method `{name}`", seen)
    for name in kinds.names():
        parts += _sections(kinds.get(name, "config.kind"), f"Kind of stage `{name}`", seen)
    return "\n".join(parts)


def _sections(cls: type, title: str, seen: set[type]) -> Iterator[str]:
    """Yields the heading and the table of a section, then those of the sections within it that were not seen yet."""
    seen.add(cls)
    yield f"## {title}\n\n{inspect.getdoc(cls).splitlines()[0]}\n"
    yield _table(cls, config_listing.DECIDED if "predict" in dir(cls) else ())
    variants = [cls]
    if issubclass(cls, Named):
        variants += map(cls.variant, cls.known_names())
        shared = tuple(field.name for field in dataclasses.fields(cls))
        for name in cls.known_names():
            if set(shared) < {field.name for field in dataclasses.fields(cls.variant(name))}:
                yield f"Further fields of `{name}`:\n"
                yield _table(cls.variant(name), shared)
    for hint in (hint for variant in variants for hint in typing.get_type_hints(variant).values()):
        for found in _dataclasses(hint):
            if found not in seen:
                yield from _sections(found, f"Section `{found.__name__}`", seen)


def _dataclasses(hint: Any) -> Iterator[type]:
    if dataclasses.is_dataclass(hint):
        yield hint
    for argument in typing.get_args(hint):
        yield from _dataclasses(argument)


def _table(cls: type, without: tuple[str, ...]) -> str:
    hints = typing.get_type_hints(cls)
    lines = ["| Field | May be | Default | What it does |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(cls):
        if field.name in without or field.metadata.get("decided"):
            continue
        default = config_listing.default(field)
        shown = "its fields' own" if dataclasses.is_dataclass(default) else f"`{default!r}`"
        cells = (f"`{field.name}`", config_listing.allowed(hints[field.name], field.metadata), shown)
        lines.append("| " + " | ".join(_cell(cell) for cell in (*cells, field.metadata["text"])) + " |")
    return "\n".join(lines if len(lines) > 2 else ["It has no fields."]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
