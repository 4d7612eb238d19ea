"""Training on the source alone, and its counterparts on labelled target frames.

    uda train --config source_only:streets --workdir runs/source_only          the lower bound
    uda train --config source_only:streets,oracle --workdir runs/oracle        the upper bound: target labels

Settings: streets, smoke, camvid_day2dusk, folder, gta5_cityscapes, synthia_cityscapes, each alone or with
`,oracle` (labelled target only) or `,both` (source and labelled target). Published source-only scores of
ADVENT's network: 36.6 mIoU on GTA5 -> Cityscapes.
"""

import dataclasses

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks

from uda_jax.config import with_method
from uda_jax.methods.source_only import SourceOnly

# Row name and training domains of each variant.
VARIANTS = {
    "": ("source_only", ("source",)),
    "oracle": ("oracle", ("labelled_target",)),
    "both": ("source_plus_labelled", ("source", "labelled_target")),
}


def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by ",oracle" or ",both"."""
    benchmark, (label, domains) = benchmarks.parse(setting, VARIANTS)
    experiment = benchmarks.get(benchmark, label, domains)
    experiment = dataclasses.replace(experiment, init_from=networks.init_from(benchmark))
    method = SourceOnly(
        segmenter=networks.segmenter(benchmark),
        optimizer=networks.optimizer(benchmark),
        schedule=networks.schedule(benchmark, experiment.train.steps),
    )
    return with_method(experiment, "source_only", method)
