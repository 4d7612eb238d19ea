"""ADVENT (Vu et al., CVPR 2019): AdvEnt by default, MinEnt with `,minent`, on uncertain pixels with `,minent_er`.

    uda train --config advent:streets --workdir runs/advent
    uda train --config advent:streets,minent --workdir runs/minent

Settings: streets, smoke, streets_camvid, streets_idd, camvid_day2dusk, folder, gta5_cityscapes, synthia_cityscapes,
synscapes_cityscapes. Those to Cityscapes hold the released code's values: one GPU of 11 GB, published 43.8 (AdvEnt) and
42.3 (MinEnt) mIoU on GTA5 -> Cityscapes, 40.8 and 38.1 on SYNTHIA, and need the ImageNet weights that its authors start
from, as weights/DeepLab_resnet_pretrained_imagenet.pth. `,pretrained` has the network on ImageNet's EfficientNet-Lite0.
`,mic` is AdvEnt with MIC's masked images, for which it keeps an average of the network.

On SYNTHIA the network has one head, as in the only code that its authors released for it, DADA's; `,two_heads` and
`,minent_two_heads` have two, as on GTA5. `,vgg16` and `,minent_vgg16` are rows on the papers' other network (GTA5: 36.1
and 32.8), `,cp_vgg16` and `,minent_cp_vgg16` those with the class-ratio prior (SYNTHIA: 31.4 and 30.4), from ImageNet's
VGG-16 in Caffe's form with torchvision's names, as weights/vgg16-caffe.pth. No code of these was released: four
branches, one head, AdaptSegNet's single rate, and a weight of 0.001 for the prior are assumptions.
"""

import dataclasses
from collections.abc import Collection
from typing import NamedTuple

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks, pretrained

from uda_jax.config import Experiment, with_method
from uda_jax.configs import mic
from uda_jax.errors import UserError
from uda_jax.methods.advent import Advent
from uda_jax.methods.base import Segmenter
from uda_jax.methods.parts.masking import Masking


class Row(NamedTuple):
    """One row: name, objective, share of hard pixels, weight of the prior, its network, and whether it masks images."""

    label: str
    objective: str = "adversarial"
    hard_fraction: float = 1.0
    prior_weight: float = 0.0
    two_heads: bool = False
    vgg: bool = False
    masked: bool = False


# Of the class-ratio prior; not found in the paper, and as large as those of the other losses on the target.
PRIOR_WEIGHT = 0.001

VARIANTS = pretrained.added(
    {
        "": Row("advent"),
        "minent": Row("minent", "entropy"),
        "minent_er": Row("minent_er", "entropy", hard_fraction=0.3),
        "mic": Row("advent/mic", masked=True),
        "two_heads": Row("advent/two_heads", two_heads=True),
        "minent_two_heads": Row("minent/two_heads", "entropy", two_heads=True),
        "vgg16": Row("advent/vgg16", vgg=True),
        "minent_vgg16": Row("minent/vgg16", "entropy", vgg=True),
        "cp_vgg16": Row("advent_cp/vgg16", prior_weight=PRIOR_WEIGHT, vgg=True),
        "minent_cp_vgg16": Row("minent_cp/vgg16", "entropy", prior_weight=PRIOR_WEIGHT, vgg=True),
    }
)
PUBLISHED_VARIANTS = tuple(name for name, row in VARIANTS.items() if row.two_heads or row.vgg)

# Last step and horizon of SYNTHIA -> Cityscapes.
SYNTHIA_STEPS = 90_000

# Found on streets' dev split (seed 0, 1500 steps): MinEnt has 12.4 mIoU at weight 0.1, where vegetation disappears.
SCRATCH_ENTROPY_WEIGHT = 0.01


@pretrained.offered
def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by one of the variants."""
    benchmark, row = benchmarks.parse(setting, VARIANTS, PUBLISHED_VARIANTS)
    if row.two_heads and benchmark != "synthia_cityscapes":
        raise UserError(
            f"--config: expected setting synthia_cityscapes with two heads as a variant, got '{setting}'; leave it out"
        )
    experiment, segmenter = _network(benchmarks.get(benchmark, row.label, ("source", "target")), row)
    schedule = networks.schedule(benchmark, experiment.train.steps)
    if benchmark == "synthia_cityscapes":
        experiment = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, steps=SYNTHIA_STEPS))
        schedule = dataclasses.replace(schedule, horizon=SYNTHIA_STEPS)
    method = Advent(
        objective=row.objective,
        segmenter=segmenter,
        optimiser=networks.VGG_SGD if row.vgg else networks.optimiser(benchmark),
        schedule=schedule,
        discriminator=networks.discriminator(benchmark),
        hard_fraction=row.hard_fraction,
        prior_weight=row.prior_weight,
        masking=Masking(weight=1.0 if row.masked else 0.0, block=mic.BLOCKS.get(benchmark, 32)),
    )
    if not networks.published(benchmark):
        weight = SCRATCH_ENTROPY_WEIGHT if row.objective == "entropy" else networks.SCRATCH_ADVERSARIAL_WEIGHT
        method = dataclasses.replace(method, target_weight=weight)
    return with_method(experiment, "advent", method)


def settings_of(variant: str) -> Collection[str]:
    """Returns the settings that a variant has: a second head is no variant where the plain setting has it."""
    return ("synthia_cityscapes",) if VARIANTS[variant].two_heads else benchmarks.SETTINGS


def _network(experiment: Experiment, row: Row) -> tuple[Experiment, Segmenter]:
    """Returns the experiment with the weights that its network starts from, and the network."""
    if row.vgg:
        return networks.vgg(experiment, branches=4)
    benchmark = experiment.benchmark
    segmenter = networks.segmenter(benchmark)
    if benchmark == "synthia_cityscapes":
        segmenter = dataclasses.replace(segmenter, multi_level=row.two_heads)
    return dataclasses.replace(experiment, init_from=networks.init_from(benchmark)), segmenter
