"""UniMatch V2 (Yang et al., 2024) as domain adaptation: few labelled target images, with a labelled source or alone.

    uda train --config few_labels:streets --workdir runs/few_labels                   50 labelled images
    uda train --config few_labels:gta5_cityscapes,100 --workdir runs/few_labels_100
    uda train --config few_labels:gta5_cityscapes,186,alone --workdir runs/alone_186  no source

Settings: streets, smoke, folder, gta5_cityscapes. The variant is the number of labelled target images: 100, 200, 500 or
1000, as ASS has them, or 186, 372, 744 or 1488, sixteenths to halves of Cityscapes as UniMatch V2 has them; without one
50. With `,alone` there is no source, as published: last epochs of DINOv2-B 83.5, 83.9, 84.3 and 85.1 mIoU. With a
source, labelled images of both domains are one batch. The same encoder without any target label is
`vfm_uda:gta5_cityscapes`, with labels alone `--config.method.unlabelled_weight=0`.

They need DINOv2's weights, as weights/dinov2_vitb14_pretrain.pth. Differences from the released code: labelled images
are drawn at random, not by its lists, which `--config.data.labelled_target.names_file` takes; all training frames are
unlabelled ones, too; the blur is a Gaussian's, not Pillow's sum of boxes. bfloat16 stands for its float16.

streets and smoke train a small encoder from scratch, which is no foundation, with VFM-UDA's head.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks
from uda_jax.configs.vfm_uda import RARE_CLASSES, SCRATCH_OPTIMISER, SMALL, SMALLEST

from uda_jax.config import Experiment, InitFrom, with_method
from uda_jax.inference.options import Inference
from uda_jax.methods.base import Segmenter
from uda_jax.methods.few_labels import FewLabels
from uda_jax.methods.parts.teacher import MeanTeacher
from uda_jax.training.schedules import Schedule

SETTINGS = ("streets", "smoke", "folder", "gta5_cityscapes")
ASS_COUNTS, UNIMATCH_COUNTS = (100, 200, 500, 1000), (186, 372, 744, 1488)
# Row name, number of labelled images and whether there is a source.
VARIANTS = {
    "": ("few_labels", benchmarks.FEW_LABELS, True),
    "alone": ("few_labels/alone", benchmarks.FEW_LABELS, False),
    **{str(count): (f"few_labels_{count}", count, True) for count in (*ASS_COUNTS, *UNIMATCH_COUNTS)},
    **{f"{count},alone": (f"few_labels_{count}/alone", count, False) for count in UNIMATCH_COUNTS},
}

BATCH, CROP, FRAMES = 8, (798, 798), 2975
# 180 epochs of the unlabelled frames.
STEPS = 180 * (FRAMES // BATCH)
# Windows overlap by a third.
INFERENCE = Inference(window=CROP, stride=(532, 532), average="probabilities")
# Of the labelled pixels of a batch, those that count at least: as many as 200,000 are of eight crops.
LEAST_SHARE = 200_000 / (BATCH * CROP[0] * CROP[1])


def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by one of the variants."""
    benchmark, (label, count, with_source) = benchmarks.parse(setting, VARIANTS)
    benchmarks.check_setting(setting, SETTINGS, settings_of)
    domains = ("source", "labelled_target", "target") if with_source else ("labelled_target", "target")
    experiment = benchmarks.with_labels(benchmarks.get(benchmark, label, domains), count)
    published = networks.published(benchmark)
    experiment = _published(experiment) if published else _own(experiment)
    name = {"gta5_cityscapes": "dpt_dinov2_vitb14", "folder": "dpt_dinov2_vits14"}.get(benchmark, "light_dinov2_vits14")
    segmenter = Segmenter(
        name=name,
        input_norm="imagenet_rgb",
        align_corners=name.startswith("dpt"),
        **{"streets": SMALL, "smoke": SMALLEST}.get(benchmark, {}),
    )
    fields = {"schedule": Schedule(horizon=STEPS)} if published else _scratch(experiment)
    return with_method(experiment, "few_labels", FewLabels(segmenter=segmenter, **fields))


def settings_of(variant: str) -> Collection[str]:
    """Returns the settings that a variant has: Cityscapes its sixteenths, a folder those labels that it holds."""
    _, count, _ = VARIANTS[variant]
    without = {benchmarks.FEW_LABELS: (), **dict.fromkeys(UNIMATCH_COUNTS, benchmarks.OWN)}.get(count, ("folder",))
    return [name for name in SETTINGS if name not in without]


def _published(found: Experiment) -> Experiment:
    data = {}
    for name, domain in found.data.items():
        shared = {"size": None, "scale": (0.5, 2.0), "image_resampling": "bilinear", "flip": True, "crop": CROP}
        data[name] = dataclasses.replace(domain, **shared)
    # Padding is distrusted, and nothing else.
    data["target"] = dataclasses.replace(data["target"], distrust=(0.0,) * 4, fields=("image", "distrust"))
    if "source" in data:
        data["source"] = dataclasses.replace(data["source"], rare_classes=RARE_CLASSES)
    train = dataclasses.replace(found.train, steps=STEPS, batch_size=BATCH, precision="bf16", checkpoint_every=4000)
    final = dataclasses.replace(found.evaluation.final, size=(1024, 2048), image_resampling="bilinear")
    evaluation = dataclasses.replace(found.evaluation, final=final, inference=INFERENCE)
    weights = {"segmenter": InitFrom(path="weights/dinov2_vitb14_pretrain.pth", fresh=("head", "classifier"))}
    return dataclasses.replace(found, data=data, train=train, evaluation=evaluation, init_from=weights)


def _own(found: Experiment) -> Experiment:
    # Without a file there is nothing that could start afresh.
    fresh = ("head", "classifier") if found.benchmark == "folder" else ()
    return dataclasses.replace(found, init_from={"segmenter": InitFrom(fresh=fresh)})


def _scratch(found: Experiment) -> dict[str, Any]:
    """Returns fields for frames that are not of the published size, and, but for a folder, for a small encoder."""
    # Of what is labelled in a batch, with a source twice as much.
    size = found.data["labelled_target"].size or {"smoke": (48, 96)}.get(found.benchmark, (96, 192))
    pixels = found.train.batch_size * size[0] * size[1]
    fields = {"min_kept": round(LEAST_SHARE * pixels)}
    if found.benchmark == "folder":
        return fields | {"schedule": Schedule(horizon=None)}
    return fields | {
        "optimiser": SCRATCH_OPTIMISER,
        "schedule": networks.schedule(found.benchmark, found.train.steps),
        "teacher": MeanTeacher(alpha=0.99, statistics="averaged"),
    }
