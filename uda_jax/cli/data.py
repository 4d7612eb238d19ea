"""The commands `uda datasets`, `uda check` and `uda prepare`: looking after data sets before training on them."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from uda_jax.cli.console import show, show_modules
from uda_jax.cli.environment import at_least, local, size
from uda_jax.errors import UserError, os_error_line


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the commands by `command(name, run, text)`, which returns a command's parser."""
    check = command("check", _check, "decode all of a data set and list what is wrong with it")
    check.add_argument("dataset", help="a name that `uda datasets` lists")
    check.add_argument("--root", type=local, help="folder of the data set, or an archive")
    check.add_argument("--split", action="append", help="may be repeated; by default the splits that the folder holds")
    check.add_argument("--label-space", help="class protocol of the histogram; by default the data set's own default")
    check.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the data set")
    check.add_argument("--fields", help="maps to look for besides, as in image_right,intrinsics or image_next")
    check.add_argument(
        "--images-from",
        type=local,
        metavar="FOLDER",
        help="look at pictures of the frames' names in place of the images",
    )
    check.add_argument("--workers", type=at_least(0), help="processes that decode; 0 for none, by default one per core")
    check.add_argument("--fix-list", type=local, metavar="FILE", help="write the names of the good frames of the split")

    prepare = command("prepare", _prepare, "write a split as ArrayRecord shards that train fast, or go on writing")
    prepare.add_argument("dataset", help="a name that `uda datasets` lists")
    prepare.add_argument("--root", type=local, help="folder of the data set, or an archive")
    prepare.add_argument("--out", type=local, required=True, help="new folder, or one with other splits; resumes there")
    prepare.add_argument("--split", default="train", help="by default train")
    prepare.add_argument("--size", type=size, metavar="WIDTHxHEIGHT", help="resize to this; by default files are kept")
    prepare.add_argument(
        "--resampling", choices=("bicubic", "bilinear"), default="bicubic", help="rule for images; by default bicubic"
    )
    text = "rule for disparity; by default nearest"
    prepare.add_argument("--disparity-resampling", choices=("nearest", "bilinear"), default="nearest", help=text)
    prepare.add_argument(
        "--fit", choices=("stretch", "pad"), default="stretch", help="stretch, the default; pad keeps the shape"
    )
    prepare.add_argument("--recode", action="store_true", help="without --size: the same pixels, faster to read")
    prepare.add_argument("--fields", help="maps to store, as in image,label; by default all that the split has")
    prepare.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the data set")
    only = "store these frames only, as from uda check --fix-list"
    prepare.add_argument("--names-file", type=local, metavar="FILE", help=only)
    prepare.add_argument("--workers", type=at_least(1), help="processes that write; by default one per core")

    command("datasets", _datasets, "list the data sets")


def _datasets(options: argparse.Namespace) -> int:
    del options
    from uda_jax import data

    show_modules("uda_jax.data.datasets", data.dataset_names(), 14)
    return 0


def _check(options: argparse.Namespace) -> int:
    from uda_jax.data.checks import check
    from uda_jax.data.checks.splits import available_splits
    from uda_jax.errors import printable

    name, root, splits, passed = options.dataset, options.root, options.split, {}
    given = _dataset_options(options.option)
    if not splits:
        splits, passed = available_splits(name, root, options.label_space, given)
    if options.fix_list and len(splits) > 1:
        raise UserError(f"--fix-list: a list belongs to one split; add --split, one of {', '.join(splits)}")
    if absent := [split for split, reason in passed.items() if ": no folder " in reason]:
        print(f"not in this folder: {printable(', '.join(absent))}", file=sys.stderr)
    for split in sorted(passed.keys() - set(absent)):
        print(printable(f"split {split} passed over: {passed[split]}"), file=sys.stderr)
    sound = True
    for split in splits:
        fields = options.fields.split(",") if options.fields else ()
        asked = {"images_from": options.images_from, "fields": fields, "workers": options.workers}
        report = check.check_dataset(name, root, split, options.label_space, given, **asked, progress=True)
        show(report)
        sound = sound and not report.problems
        if options.fix_list:
            _write_names(report.good, options.fix_list)
    return 0 if sound else 1


def _write_names(names: Sequence[str], path: Path) -> None:
    """Writes a `names_file`."""
    from uda_jax.data.io import atomic

    if not names:
        show(f"{path}: not written, since no frame is good")
        return
    try:
        atomic.write(path, "".join(f"{name}\n" for name in names))
    except OSError as error:
        raise UserError(f"--fix-list: {os_error_line(error, path)}") from None
    show(f"{path}: {len(names)} names; set the domain's names_file to it")


def _prepare(options: argparse.Namespace) -> int:
    from uda_jax.data.prepare.command import prepare
    from uda_jax.errors import printable

    summary = prepare(
        options.dataset,
        options.root,
        options.out,
        split=options.split,
        size=options.size,
        image_resampling=options.resampling,
        disparity_resampling=options.disparity_resampling,
        fit=options.fit,
        recode=options.recode,
        fields=options.fields.split(",") if options.fields else None,
        options=_dataset_options(options.option),
        names_file=options.names_file,
        workers=options.workers,
    )
    for note in summary.notes:
        print(printable(f"note: {note}"), file=sys.stderr)
    kept = summary.shards - summary.written
    size = f"{summary.bytes / 1e9:.2f} GB" if summary.bytes >= 1e8 else f"{summary.bytes / 1e6:.1f} MB"
    print(
        f"{options.out}: {summary.frames} frames of {options.dataset} {options.split}, {size} in "
        f"{summary.shards} shards ({kept} were finished before); set the domain's root to this folder"
    )
    return 0


def _dataset_options(words: Sequence[str]) -> dict[str, object]:
    """Reads `key=value` words, whose values are YAML: numbers, true, null, [lists]; the rest are strings."""
    from uda_jax.data.io.yaml_files import load_yaml

    given = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals or key in ("name", "root", "split", "label_space"):
            raise UserError(f"--option: expected key=value with an option of the data set, got '{word}'")
        try:
            given[key] = load_yaml(value)
        except ValueError:
            raise UserError(f"--option: {key}: cannot read the value '{value}'; quote it") from None
    return given
