"""The command `uda export-depth`: depth maps of a whole data set, with a run of self-supervised depth."""

import argparse
import re
from collections.abc import Callable

from uda_jax.cli.console import show
from uda_jax.cli.environment import add_step, at_least, local, place, prepare_jax


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command by `command(name, run, text)`, which returns its parser."""
    text = "write depth maps of a data set with a run of self-supervised depth, as corda reads them"
    export = command("export-depth", _export, text, takes_overrides=True)
    export.add_argument("workdir", type=place, help="folder of the run")
    text = "folder of the maps, made if absent; maps that it holds are not written again"
    export.add_argument("--output", type=local, required=True, help=text)
    text = "training domain of the run whose frames are drawn; overrides such as --config.data.target.split=val fit it"
    export.add_argument("--on", metavar="DOMAIN", help=text)
    export.add_argument("--batch-size", type=at_least(1), default=8, help="frames predicted at once (default 8)")
    text = "i/N: of N such commands that share the work, which one this is, from 0/N on"
    export.add_argument("--shard", type=_shard, default=(0, 1), metavar="i/N", help=text)
    add_step(export, None)


def _export(options: argparse.Namespace) -> int:
    prepare_jax()
    from uda_jax.data.io import mirrors
    from uda_jax.runs import depth_maps

    with mirrors.opened(options.workdir) as folder:
        found = depth_maps.export(
            folder,
            options.output,
            name=options.on,
            overrides=options.overrides,
            step=options.step,
            batch_size=options.batch_size,
            shard=depth_maps.Shard(*options.shard),
        )
    show(
        f"{options.output}: {found.written} of {found.frames} maps written, the others were there or are others' to do"
    )
    return 0


def _shard(word: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", word)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"expected i/N with i from 0 to N - 1, such as 0/4, got '{word}'")
    return int(found[1]), int(found[2])
