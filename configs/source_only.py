"""Training on the source alone, and its counterparts with labelled target frames.

    uda train --config source_only:streets --workdir runs/source_only          the lower bound
    uda train --config source_only:streets,oracle --workdir runs/oracle        the upper bound: all target labels

Settings: streets, smoke, streets_camvid, streets_idd, camvid_day2dusk, blobs, folder, gta5_cityscapes,
synthia_cityscapes, synscapes_cityscapes, each alone or with `,oracle` (the labelled target only), `,labelled` (of it 50
frames, the baseline of semi-supervised methods) or `,both` (the source and these 50). `,pretrained` has the network on
ImageNet's EfficientNet-Lite0.

On the papers' benchmarks network, weights and length are AdaptSegNet's, whose published 36.6 mIoU on GTA5 ->
Cityscapes (33.5 on SYNTHIA) is the row of the other papers, too; they need
weights/DeepLab_resnet_pretrained_init-f81d91e8.pth. `,advent` has ADVENT's instead, which starts from ImageNet alone,
as weights/DeepLab_resnet_pretrained_imagenet.pth. No code of such a training was released: that both heads learn, and
for as long as with adaptation, is an assumption.
"""

import dataclasses
from typing import NamedTuple

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks, pretrained

from uda_jax.config import with_method
from uda_jax.methods.source_only import SourceOnly


class Row(NamedTuple):
    """A row's name, its training domains, the number of labelled target frames (None = all), and whose network."""

    label: str
    domains: tuple[str, ...]
    count: int | None = None
    advent: bool = False


VARIANTS = pretrained.added(
    {
        "": Row("source_only", ("source",)),
        "oracle": Row("oracle", ("labelled_target",)),
        "labelled": Row("labelled_only", ("labelled_target",), benchmarks.FEW_LABELS),
        "both": Row("source_plus_labelled", ("source", "labelled_target"), benchmarks.FEW_LABELS),
        "advent": Row("source_only/advent", ("source",), advent=True),
    }
)
PUBLISHED_VARIANTS = ("advent",)


@pretrained.offered
def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by one of the variants."""
    benchmark, row = benchmarks.parse(setting, VARIANTS, PUBLISHED_VARIANTS)
    experiment = benchmarks.get(benchmark, row.label, row.domains)
    if "labelled_target" in row.domains:
        experiment = benchmarks.with_labels(experiment, row.count)
    if row.advent:
        experiment = dataclasses.replace(experiment, init_from=networks.init_from(benchmark))
        segmenter = networks.segmenter(benchmark)
    else:
        experiment, segmenter = networks.adaptsegnet(experiment, multi_level=networks.published(benchmark))
    method = SourceOnly(
        segmenter=segmenter,
        optimiser=networks.optimiser(benchmark),
        schedule=networks.schedule(benchmark, experiment.train.steps),
    )
    return with_method(experiment, "source_only", method)
