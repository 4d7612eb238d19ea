"""The command `uda new`: a folder to begin with on data of one's own."""

import argparse
from collections.abc import Callable
from pathlib import Path

from uda_jax.cli.console import show
from uda_jax.cli.environment import local
from uda_jax.errors import UserError, printable

_FOLDERS = (
    "data/source/train/images",
    "data/source/train/labels",
    "data/target/train/images",
    "data/target/val/images",
    "data/target/val/labels",
)

_DATASET = """\
# What the label PNGs hold: one channel of 8-bit ids. All fields: the page "Your own data" of uda_jax.
classes: [road, building, person, car]   # class 0, 1, 2 ... in this order
ids: [7, 11, [24, 25], 26]               # the stored id or ids of each; left out: 0, 1, 2 ...
ignore: others                           # stored ids of pixels without a class: all others, or a list such as [255]
"""

_CONFIG = '''\
"""Adapts from the frames of data/source to those of data/target; run it in this folder."""

from uda_jax.config import load, update


def get_config(method="dacs"):  # config.py:advent is another one; `uda methods` says when to take which
    config = load(f"{{method}}:folder")
    update(config, "benchmark", {name!r})
    for domain in config.data:
        update(config, f"data.{{domain}}.size", (256, 512))  # height and width that frames are resized to
    update(config, "evaluation.final.size", (256, 512))
    update(config, "train.steps", 10_000)
    update(config, "train.batch_size", 2)
    update(config, "train.evaluate_every", 2000)
    update(config, "seed", 0)
    return config
'''

_README = """\
# {name}

1. Put the simulator's frames into `data/source/train/images` and their labels, PNGs of the same stems, into
   `data/source/train/labels`; the camera's into `data/target/train/images`; a few labelled ones of it, to score on,
   into `data/target/val/images` and `data/target/val/labels`.
2. Write the classes and their ids into `data/dataset.yaml`.
3. In this folder:

```
uda check   folder --root data/source
uda train   --config config.py:source_only --workdir runs/source_only    # without adaptation, to compare with
uda train   --config config.py --workdir runs/dacs                       # the same command goes on where it stopped
uda predict --workdir runs/dacs --input my_frames --output my_labels
uda report  runs/source_only runs/dacs --output runs/report.html
```

`uda budget dacs:folder --labels 0,5,10` tells what labels of the camera's frames are worth, and which to label next;
`uda verify runs/dacs` whether a run is what its receipt says and comes to the same again.

`uda config config.py` lists every field, `uda plan config.py` what a run takes. Without labelled frames of the camera
add `--config.evaluation.final.split=train --config.evaluation.unlabelled=True`.
"""


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command by `command(name, run, text)`, which returns its parser."""
    new = command("new", _new, "write a folder to begin with: dataset.yaml, a config of a few lines, a README")
    new.add_argument("folder", type=local, help="a new folder, or an empty one")


def _new(options: argparse.Namespace) -> int:
    from uda_jax.data.io import atomic

    folder: Path = options.folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"uda new {folder}: expected a new folder, found a file; name another one")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"uda new {folder}: the folder is not empty; name a new one")
    name = printable(folder.resolve().name)
    with atomic.folder(folder) as temporary:
        for each in _FOLDERS:
            (temporary / each).mkdir(parents=True)
        atomic.write(temporary / "data" / "dataset.yaml", _DATASET)
        atomic.write(temporary / "config.py", _CONFIG.format(name=name))
        atomic.write(temporary / "README.md", _README.format(name=name))
    show(f"{folder}: written; its README.md says where your frames go and which commands follow")
    return 0
