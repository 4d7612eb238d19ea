"""DADA (Vu et al., ICCV 2019): AdvEnt that learns the simulator's depth and discriminates by it, too.

    uda train --config dada:streets --workdir runs/dada

Settings: streets, smoke, streets_camvid, streets_idd, folder, synthia_cityscapes, synthia_mapillary. The source must
have depth; the target needs none, nor do frames that are predicted. synthia_cityscapes holds the released code's
values, published 42.6 mIoU (of the best checkpoint on the evaluation set), and needs the ImageNet weights that its
authors start from, as weights/DeepLab_resnet_pretrained_imagenet.pth. With `,translated` the source's images are those
that a CycleGAN has translated (published 43.1), in a folder of your own, --config.data.source.images_from=...
`,pretrained` has the network on ImageNet's EfficientNet-Lite0.

synthia_mapillary is the released code's second task: seven classes, frames of Mapillary Vistas padded to 1024x768 at
their aspect ratio, and scored at their own padded size.
"""

import dataclasses

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks, pretrained, translated

from uda_jax.config import Experiment, with_method
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.methods.base import Segmenter
from uda_jax.methods.dada import DADA
from uda_jax.schema import did_you_mean

SETTINGS = ("streets", "smoke", "streets_camvid", "streets_idd", "folder", "synthia_cityscapes", "synthia_mapillary")

# Row name of each variant.
TRANSLATED = "dada/translated"
VARIANTS = pretrained.added({"": "dada", "translated": TRANSLATED})

# The authors name it both as the last step and as the horizon.
PUBLISHED_STEPS = 90_000

# From scratch, at a rate of 0.2, targets of hundreds would drown the labels. In this unit those of streets' simulator
# are about 1 on average, so that the discriminator's inputs are about as large as AdvEnt's.
SCRATCH_DEPTH_UNIT = 50.0
SCRATCH_DEPTH_WEIGHT = 0.1

# These inputs fade with distance, where most of a frame's classes are. On streets' dev split (seed 0): 12.1 mIoU at the
# weight of the other adversarial methods, 0.03, and 13.8 at this one.
SCRATCH_ADVERSARIAL_WEIGHT = 0.1


@pretrained.offered
def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark."""
    name, label = benchmarks.parse(setting, VARIANTS)
    if name not in SETTINGS:
        raise UserError(f"--config: unknown setting '{name}'{did_you_mean(name, SETTINGS)}")
    # But for its data the second task of the released code is the first.
    benchmark = "synthia_cityscapes" if name == "synthia_mapillary" else name
    experiment = benchmarks.with_source_depth(benchmarks.get(benchmark, label, ("source", "target")))
    if name == "synthia_mapillary":
        experiment = _to_mapillary(experiment)
    if label == TRANSLATED:
        experiment = translated.with_translated_source(experiment)
    published = networks.published(benchmark)
    if published:
        experiment = dataclasses.replace(
            experiment,
            train=dataclasses.replace(experiment.train, steps=PUBLISHED_STEPS),
            init_from={"segmenter": dataclasses.replace(networks.REFERENCE_WEIGHTS, fresh=("head", "depth_branch"))},
        )
    method = DADA(
        segmenter=_segmenter(benchmark),
        optimiser=networks.optimiser(benchmark),
        schedule=dataclasses.replace(networks.schedule(benchmark, experiment.train.steps), horizon=None),
        discriminator=networks.discriminator(benchmark),
        # SYNTHIA has a depth everywhere; elsewhere 0 says that there is none.
        nearest_depth=0.0 if published else 0.1,
    )
    if not published:
        method = dataclasses.replace(
            method,
            target_weight=SCRATCH_ADVERSARIAL_WEIGHT,
            depth_weight=SCRATCH_DEPTH_WEIGHT,
            depth_unit=SCRATCH_DEPTH_UNIT,
        )
    return with_method(experiment, "dada", method)


def _to_mapillary(experiment: Experiment) -> Experiment:
    """Returns SYNTHIA -> Mapillary Vistas of SYNTHIA -> Cityscapes, with the classes of the released code's tables."""
    classes = {"label_space": "7_dada"}
    vistas = {"dataset": "mapillary", "root": "data/mapillary", "size": (768, 1024), "fit": "pad", **classes}
    final = Domain(split="val", resize_label=False, **vistas)
    return dataclasses.replace(
        experiment,
        benchmark="synthia_mapillary",
        data={
            "source": dataclasses.replace(experiment.data["source"], **classes),
            "target": Domain(split="train", fields=benchmarks.IMAGE_ONLY, **vistas),
        },
        evaluation=dataclasses.replace(experiment.evaluation, final=final, protocol="7"),
    )


def _segmenter(benchmark: str) -> Segmenter:
    """Returns DADA's network on the encoder that other methods have on the benchmark."""
    plain = networks.segmenter(benchmark)
    if networks.published(benchmark):
        # One head only.
        return Segmenter(name="dada_resnet101", input_norm=plain.input_norm, aspp_branches=plain.aspp_branches)
    return dataclasses.replace(plain, name=plain.name.replace("deeplab_v2", "dada"))


def settings_of(variant: str) -> tuple[str, ...]:
    """Returns the settings that a variant has."""
    return tuple(name for name in SETTINGS if name in translated.FOLDERS) if variant == "translated" else SETTINGS
