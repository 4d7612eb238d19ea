"""The path of the data: files or rendered scenes in, NumPy batches out. Nothing here imports jax.

A data set is a class in a module of `uda_jax.data.datasets`, found by name: module `virtual_kitti` holds
`VirtualKitti(root, split, label_space, **options)`. Adding one is adding that file. It derives from `base.Dataset`
(data sets of files from `frames.FrameFiles`), which is the whole contract: there is nothing that a data set may offer
beyond it. An instance is a random-access sequence:

    len(dataset)          number of frames, at least 1
    dataset[i]            {"name": str, "index": int, and the frame's maps by name,
                           "image": uint8 [H, W, 3] RGB,
                           "label": uint8 [H, W], classes of the label space, 255 = ignore; absent if unlabelled,
                           "depth": float32 [H, W] metres, 0 = invalid; absent if there is none, ...}
    dataset.name(i)       the frame's name, without decoding anything
    dataset.label_space   `label_spaces.LabelSpace`: names and colours of the label values

What maps there are, and what each is like, is one table, `base.MAPS`: transforms, batches, checks and prepared data go
by it, and a map that it does not list is an error. All else has defaults: `read(i, fields)`, which is `dataset[i]`
without the maps that are not named in `fields` and so spares their decoding; `missing(field)`, the names of the frames
that do not have that map; `problems`, what is wrong with the files, in `archives.Problem`s; and more.
Instances are picklable (loader processes receive them) and immutable.

From a data set to batches: `pipeline.transforms` (NumPy + Pillow on uint8) and `pipeline.streams` (shuffling, pairs of
domains, slicing over processes, loader processes, resuming).
"""

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from uda_jax.data import datasets
from uda_jax.data.base import Dataset, requested
from uda_jax.data.io import places
from uda_jax.data.io.archives import Problem, compressed
from uda_jax.data.prepare.prepared import Prepared, is_prepared
from uda_jax.errors import UserError
from uda_jax.schema import did_you_mean

# What constructors of data sets take besides options of their own: the last, where they have maps on request.
_COMMON = ("root", "split", "label_space")
VIEWS = "views"

__all__ = ["dataset_names", "get_dataset", "open_dataset", "reader"]


def dataset_names() -> tuple[str, ...]:
    """Returns the names that `get_dataset` knows: the modules of `uda_jax.data.datasets`."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(datasets.__path__)))


def get_dataset(
    name: str, root: str | os.PathLike | None, split: str, label_space: str = "19", **options: Any
) -> Dataset:
    """Opens a data set.

    Args:
      name: one of `dataset_names()`.
      root: its folder on disk, or an archive, or a folder that `uda prepare` wrote; None for a data set that is not
        read from files.
      split: a split of that data set, such as "train".
      label_space: the class protocol of its labels, one of `label_spaces.PROTOCOLS`, or "own" where the data set has
        classes of its own.
      **options: further options that only this data set has, such as `size` and `limit` of streets; and `fields`, maps
        on request that will be read, as `open_dataset` takes them.

    Returns:
      A random-access sequence of NumPy dicts; the package's docstring describes it.

    Raises:
      UserError: an unknown name, split, protocol or option, a folder that is missing or malformed, or the first of
        the data set's problems that is more than a frame without a label or depth: `missing` names those.
    """
    dataset = open_dataset(name, root, split, label_space, **options)
    require_sound(dataset, name)
    return dataset


def open_dataset(
    name: str,
    root: str | os.PathLike | None,
    split: str,
    label_space: str = "19",
    *,
    fields: Collection[str] = (),
    **options: Any,
) -> Dataset:
    """Opens a data set as `get_dataset` does, leaving its problems for the caller to look at.

    Args:
      name, root, split, label_space, **options: as there.
      fields: maps that will be read. Those that data sets look for only on request are there for the asking.
    """
    cls = reader(name)
    if root is not None:
        places.local(root, f"{name}: root")
    known = [key for key in inspect.signature(cls).parameters if key not in (*_COMMON, VIEWS)]
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known) if known else "; it takes none"
            raise UserError(f"{name}: unknown option '{option}'{hint}")
    if is_prepared(root):
        return Prepared(name, cls, root, split, label_space, options)
    if VIEWS in inspect.signature(cls).parameters and (views := requested(fields)):
        options = options | {VIEWS: views}
    try:
        return cls(root, split, label_space, **options)
    except UserError as error:
        # What lacks may be in them.
        if packed := compressed(root):
            raise UserError(f"{error} ({packed[0]} is compressed, which is not read in place; unpack it)") from None
        raise


def require_sound(dataset: Dataset, name: str, fields: Collection[str] | None = None) -> None:
    """Raises a UserError with the first problem of an opened data set that matters, if there is one.

    Args:
      dataset: from `open_dataset`, or a view of it.
      name: of the data set, for the message.
      fields: maps that every frame shall have; None takes what each of them has.
    """

    def matters(problem: Problem) -> bool:
        if problem.orphan:
            # Beside frames without a label, a label without a frame is a sign of names that do not fit.
            return (fields is None or problem.field in fields) and bool(dataset.missing(problem.field))
        if fields is None:
            return problem.field == "image" or problem.frame is None
        return problem.field in fields

    raise_first([problem for problem in dataset.problems if matters(problem)], name)


def raise_first(problems: Sequence[Problem], name: str) -> None:
    """Raises a UserError with the first of some problems of the data set `name`, if there is one."""
    if problems:
        more = f" ({len(problems) - 1} more: 'uda check {name}' lists them)" if len(problems) > 1 else ""
        raise UserError(f"{problems[0].message}{more}")


def published_counts(name: str) -> Mapping[str, int]:
    """Returns the frames of each split as published, as far as the data set's module lists them in COUNTS."""
    return vars(sys.modules[reader(name).__module__]).get("COUNTS", {})


def known_splits(name: str) -> tuple[str, ...]:
    """Returns the splits that a data set's module lists in SPLITS, else the usual ones."""
    return tuple(vars(sys.modules[reader(name).__module__]).get("SPLITS", ("train", "val", "test")))


def reader(name: str) -> type[Dataset]:
    """Returns the class that reads a data set; its module may state SPLITS and COUNTS.

    Raises:
      UserError: an unknown name.
    """
    if name not in dataset_names():
        raise UserError(f"dataset: unknown data set '{name}'{did_you_mean(name, dataset_names())}")
    module = importlib.import_module(f"{datasets.__name__}.{name}")
    return getattr(module, "".join(word.capitalize() for word in name.split("_")))
