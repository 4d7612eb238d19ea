"""Which splits of a data set there are to check, and the label space that it takes if none is named."""

import inspect
import os
from collections.abc import Mapping
from typing import Any

from uda_jax.data import known_splits, open_dataset, reader
from uda_jax.data.io.archives import File
from uda_jax.errors import UserError


def available_splits(
    name: str,
    root: str | os.PathLike | None,
    label_space: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Returns the splits to check of a folder, and why others are skipped over.

    A split whose frames other splits hold already is left out without a word. A data set that is not read from files
    gives its first split alone.

    Returns:
      Names of splits, at least one, and {split: reason}.
    """
    known = list(known_splits(name))
    if root is None:
        return known[:1], {}
    images, skipped = {}, {}
    for split in known:
        try:
            dataset = open_dataset(name, root, split, label_space or default_label_space(name), **(options or {}))
        except UserError as error:
            skipped[split] = str(error)
        else:
            images[split] = {_identity(dataset.files(k)) or (split, k) for k in range(len(dataset))}
    kept, seen = set(), set()
    for split in sorted(images, key=lambda split: -len(images[split])):
        if not images[split] or not images[split] <= seen:
            kept.add(split)
            seen |= images[split]
    return ([split for split in known if split in kept], skipped) if kept else (known[:1], {})


def _identity(files: Mapping[str, File]) -> tuple[tuple[str, File], ...]:
    """Returns what tells a frame from others: all of its files, since splits may have other maps of one image."""
    return tuple(sorted(files.items(), key=lambda item: item[0]))


def default_label_space(name: str) -> str:
    """Returns the label space that a data set takes if none is named."""
    return inspect.signature(reader(name)).parameters["label_space"].default
