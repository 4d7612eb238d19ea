"""Training on the source alone, and its counterparts with labelled target frames.

    uda train --config source_only:streets --workdir runs/source_only          the lower bound
    uda train --config source_only:streets,oracle --workdir runs/oracle        the upper bound: all target labels

Settings: streets, smoke, camvid_day2dusk, blobs, folder, gta5_cityscapes, synthia_cityscapes, synscapes_cityscapes,
each alone or with `,oracle` (the labelled target only), `,labelled` (of it 50 frames, the baseline of semi-supervised
methods) or `,both` (the source and these 50). Published source-only scores of ADVENT's network: 36.6 mIoU on GTA5 ->
Cityscapes.
"""

import dataclasses

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks

from uda_jax.config import with_method
from uda_jax.methods.source_only import SourceOnly

# Row name, training domains and number of labelled target frames (None = all) of each variant.
VARIANTS = {
    "": ("source_only", ("source",), None),
    "oracle": ("oracle", ("labelled_target",), None),
    "labelled": ("labelled_only", ("labelled_target",), benchmarks.FEW_LABELS),
    "both": ("source_plus_labelled", ("source", "labelled_target"), benchmarks.FEW_LABELS),
}


def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by ",oracle", ",labelled" or ",both"."""
    benchmark, (label, domains, count) = benchmarks.parse(setting, VARIANTS)
    experiment = benchmarks.get(benchmark, label, domains)
    if "labelled_target" in domains:
        experiment = benchmarks.with_labels(experiment, count)
    experiment = dataclasses.replace(experiment, init_from=networks.init_from(benchmark))
    method = SourceOnly(
        segmenter=networks.segmenter(benchmark),
        optimiser=networks.optimiser(benchmark),
        schedule=networks.schedule(benchmark, experiment.train.steps),
    )
    return with_method(experiment, "source_only", method)
