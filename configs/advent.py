"""ADVENT (Vu et al., CVPR 2019): AdvEnt by default, MinEnt with `,minent`, on uncertain pixels with `,minent_er`.

    uda train --config advent:streets --workdir runs/advent
    uda train --config advent:streets,minent --workdir runs/minent

Settings: streets, smoke, camvid_day2dusk, folder, gta5_cityscapes, synthia_cityscapes, synscapes_cityscapes. Those to
Cityscapes hold the released code's values: one GPU of 11 GB, published 43.8 (AdvEnt) and 42.3 (MinEnt) mIoU on GTA5 ->
Cityscapes, and need the ImageNet weights that its authors start from, as
weights/DeepLab_resnet_pretrained_imagenet.pth.
"""

import dataclasses

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks

from uda_jax.config import with_method
from uda_jax.methods.advent import Advent

# Row name, objective and share of hard pixels of each variant.
VARIANTS = {
    "": ("advent", "adversarial", 1.0),
    "minent": ("minent", "entropy", 1.0),
    "minent_er": ("minent_er", "entropy", 0.3),
}

# Found on streets' dev split (seed 0, 1500 steps): MinEnt has 12.4 mIoU at weight 0.1, where vegetation disappears.
SCRATCH_ENTROPY_WEIGHT = 0.01


def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by ",minent" or ",minent_er"."""
    benchmark, (label, objective, hard_fraction) = benchmarks.parse(setting, VARIANTS)
    experiment = benchmarks.get(benchmark, label, ("source", "target"))
    experiment = dataclasses.replace(experiment, init_from=networks.init_from(benchmark))
    schedule = networks.schedule(benchmark, experiment.train.steps)
    if benchmark == "synthia_cityscapes":
        # The authors name 90000 both as the last step and as the horizon.
        experiment = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, steps=90_000))
        schedule = dataclasses.replace(schedule, horizon=90_000)
    method = Advent(
        objective=objective,
        segmenter=networks.segmenter(benchmark),
        optimiser=networks.optimiser(benchmark),
        schedule=schedule,
        discriminator=networks.discriminator(benchmark),
        hard_fraction=hard_fraction,
    )
    if not networks.published(benchmark):
        weight = SCRATCH_ENTROPY_WEIGHT if objective == "entropy" else networks.SCRATCH_ADVERSARIAL_WEIGHT
        method = dataclasses.replace(method, target_weight=weight)
    return with_method(experiment, "advent", method)
