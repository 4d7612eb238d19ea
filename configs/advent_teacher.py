"""AdvEnt with a mean teacher: adversarial entropy on the target, and the teacher's pseudo-labels on mixed images.

    uda train --config advent_teacher:streets --workdir runs/advent_teacher

Settings: streets, smoke, streets_camvid, streets_idd, camvid_day2dusk, folder, gta5_cityscapes, synthia_cityscapes,
synscapes_cityscapes. The values are those of dacs and, for the discriminator, of advent. It is no paper's method, but
shows how a teacher and a discriminator share one step: `uda_jax/methods/advent_teacher.py`. `,pretrained` has the
network on ImageNet's EfficientNet-Lite0.
"""

import dataclasses

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks, pretrained

from uda_jax.config import with_method
from uda_jax.configs import dacs
from uda_jax.methods.advent_teacher import AdventTeacher

VARIANTS = pretrained.added({"": "advent_teacher"})


@pretrained.offered
def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark."""
    benchmark, label = benchmarks.parse(setting, VARIANTS)
    experiment = benchmarks.get(benchmark, label, ("source", "target"))
    experiment = dataclasses.replace(experiment, init_from=networks.init_from(benchmark))
    published = networks.published(benchmark)
    if published:
        experiment = dataclasses.replace(dacs.reference(experiment), init_from={"segmenter": dacs.REFERENCE_WEIGHTS})
    method = AdventTeacher(
        segmenter=dacs.REFERENCE if published else networks.segmenter(benchmark),
        optimiser=networks.optimiser(benchmark),
        schedule=networks.schedule(benchmark, experiment.train.steps),
        discriminator=networks.discriminator(benchmark),
        target_weight=0.001 if published else networks.SCRATCH_ADVERSARIAL_WEIGHT,
    )
    return with_method(experiment, "advent_teacher", method)
