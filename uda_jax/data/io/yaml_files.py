"""YAML of the user: read strictly, whatever it holds, with one line for what is wrong."""

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
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from None
    # The parser itself goes down into what is nested, before it says a word of it.
    except RecursionError:
        raise ValueError(f"lists within lists deeper than {_DEPTH}") from None
