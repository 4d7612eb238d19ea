"""ADVENT (Vu et al., CVPR 2019): AdvEnt by default, MinEnt with the variant `,minent`.

    uda train --config advent:streets --workdir runs/advent
    uda train --config advent:streets,minent --workdir runs/minent

Settings: streets, smoke, camvid_day2dusk, folder, gta5_cityscapes, synthia_cityscapes. The last two hold the
released code's values: one GPU of 11 GB, published 43.8 (AdvEnt) and 42.3 (MinEnt) mIoU on GTA5 -> Cityscapes,
and need the ImageNet weights that its authors start from.
"""

import dataclasses

from ml_collections import ConfigDict

from uda_jax.config import with_method
from uda_jax.configs.common import benchmarks, networks
from uda_jax.errors import UserError
from uda_jax.methods.advent import Advent, Discriminator
from uda_jax.training.optimizers import Adam

# Found on streets' dev split; other benchmarks trained from scratch take them over.
SCRATCH = {
    "adversarial": {"target_weight": 0.01, "target_aux_weight": 0.002},
    "entropy": {"target_weight": 0.01, "target_aux_weight": 0.002},
}


def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by ",minent"."""
    benchmark, _, variant = setting.partition(",")
    if variant not in ("", "minent"):
        raise UserError(f"--config: unknown variant '{variant}'; did you mean 'minent'?")
    objective = "entropy" if variant else "adversarial"
    experiment = benchmarks.get(benchmark, variant or "advent", ("source", "target"))
    if benchmark == "synthia_cityscapes":
        experiment = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, steps=90_000))
    weights = {} if networks.published(benchmark) else SCRATCH[objective]
    method = Advent(
        objective=objective,
        segmenter=networks.segmenter(benchmark),
        optimizer=networks.optimizer(benchmark),
        schedule=networks.schedule(benchmark, experiment.train.steps),
        discriminator=Discriminator(width=64 if networks.published(benchmark) else 16, optimizer=Adam()),
        **weights,
    )
    return with_method(experiment, "advent", method)
