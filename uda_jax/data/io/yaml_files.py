"""YAML of the user: read strictly, whatever it holds, with one line for what is wrong."""

import re
from typing import Any

import yaml

# A file of ours has three levels and some kilobytes; what has many more was not written for us.
_DEPTH = 20
_CHARACTERS = 1 << 20


class _Strict(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML's loaders keep the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if isinstance(name, str):
                if name in seen:
                    raise ValueError(f"line {key.start_mark.line + 1}: the key '{name}' stands twice; remove one")
                seen.add(name)
        return super().construct_mapping(node, deep)


# A key behind a value, as in "classes: [road, car]    ids: [0, 1]".
_KEY_BEHIND = re.compile(r"[^\s,\[{(:]\s+[A-Za-z_]+:(\s|$)")


def _cure(text: str, error: yaml.YAMLError) -> str:
    """Says what to do about the commonest slips, of which YAML's own words are hard to read."""
    mark = getattr(error, "problem_mark", None)
    lines = text.splitlines()
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    if line.lstrip(" ").startswith("\t"):
        return "; indent by spaces, not by tabs"
    return "; begin a new line for each key" if _KEY_BEHIND.search(line.partition("#")[0]) else ""


def load_yaml(text: str) -> Any:
    """Returns what a YAML text says.

    Raises:
      ValueError: why it cannot be read, in one line: it is no YAML, holds a key twice, is very long or deep, or has
        aliases, by which a few lines can stand for gigabytes.
    """
    if len(text) > _CHARACTERS:
        raise ValueError(f"expected at most {_CHARACTERS} characters, got {len(text)}")
    depth = 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEPTH:
                raise ValueError(f"lists within lists deeper than {_DEPTH}")
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1
                raise ValueError(f"line {line}: aliases (*{event.anchor}) are not read; write the values out")
        return yaml.load(text, _Strict)
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}{_cure(text, error)}") from None
    # The parser itself goes down into what is nested, before it says a word of it.
    except RecursionError:
        raise ValueError(f"lists within lists deeper than {_DEPTH}") from None
