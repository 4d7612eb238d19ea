"""What DAFormer's recipe and those of HRDA and MIC, which build on it, have in common: networks, data, optimiser."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from uda_jax.configs.common import benchmarks, networks

from uda_jax.config import Experiment, InitFrom
from uda_jax.data.pipeline.rare_class_sampling import RareClasses
from uda_jax.errors import UserError
from uda_jax.inference.options import Inference
from uda_jax.methods.base import Segmenter
from uda_jax.methods.daformer import TEACHER
from uda_jax.methods.parts.feature_distance import IMAGENET, FeatureDistance
from uda_jax.schema import did_you_mean
from uda_jax.training.schedules import Schedule

FURTHER = ("cityscapes_acdc", "cityscapes_dark_zurich")
SETTINGS = ("streets", "smoke", "camvid_day2dusk", "folder", "gta5_cityscapes", "synthia_cityscapes", *FURTHER)

# What the variants of these configs are published on, and where images of one's own start from ImageNet.
PRETRAINED = "mit"
VARIANT_SETTINGS = {PRETRAINED: ("folder",)}
PUBLISHED_ON = ("gta5_cityscapes",)

STEPS, WARMUP = 40_000, 1500
CROP = (512, 512)
# Rows and columns of Cityscapes that show the bonnet, and what rectification left: top, bottom, left and right.
MARGINS, MARGINS_AT_FULL_SIZE = (15, 120, 0, 0), (30, 240, 30, 30)

MIT = Segmenter(name="daformer_mit_b5", input_norm="imagenet_rgb", align_corners=False)
HRDA_MIT = Segmenter(name="hrda_mit_b5", input_norm="imagenet_rgb", align_corners=False)
# The papers' variants on DeepLab-v2: two of its branches, and mmsegmentation's ResNet.
_DEEPLAB = {"input_norm": "imagenet_rgb", "align_corners": False, "aspp_branches": 2, "encoder_style": "v1c"}
DEEPLAB = Segmenter(name="deeplab_v2_resnet101", **_DEEPLAB)
HRDA_DEEPLAB = Segmenter(name="hrda_resnet101", **_DEEPLAB)
# For images of one's own, half as large.
OWN_MIT = Segmenter(name="daformer_mit_b2", input_norm="imagenet_rgb", align_corners=False)
OWN_HRDA_MIT = Segmenter(name="hrda_mit_b2", input_norm="imagenet_rgb", align_corners=False)
WEIGHTS = {"mit_b5": "weights/mit_b5.pth", "mit_b2": "weights/mit_b2.pth", "resnet101": "weights/resnet101_v1c.pth"}

# Sizes of the frames that HRDA's small networks see; those of smoke are larger than for other methods.
SIZES = {"streets": (96, 192), "smoke": (64, 128), "camvid_day2dusk": (176, 240), "folder": (256, 512)}

# From scratch there are no features to stay near, and, in place of the papers' 0.999, with which a teacher of a
# thousand steps is the mean of all its students, the share that DACS' teacher keeps.
SCRATCH_TEACHER = dataclasses.replace(TEACHER, alpha=0.99)
# Pixels before resizing that show a class, the share of a frame that the papers' 3000 are of GTA5's; None: frames of
# any size, or of classes that a split may have no pixel of.
SCRATCH_RARE_CLASSES = {"streets": 28, "smoke": 0, "camvid_day2dusk": 1000}


def parse(setting: str, variants: Mapping[str, Any]) -> tuple[str, Any]:
    """Splits a setting as `benchmarks.parse`; raises UserError for a variant that the benchmark does not have, too."""
    benchmark, entry = benchmarks.parse(setting, variants)
    variant = setting.partition(",")[2]
    if benchmark not in settings_of(variant):
        known = settings_of(variant)
        raise UserError(f"--config: unknown setting '{benchmark}'{did_you_mean(benchmark, known)}")
    return benchmark, entry


def settings_of(variant: str) -> tuple[str, ...]:
    """Returns the settings that a variant has, "" being the plain method."""
    return VARIANT_SETTINGS.get(variant, PUBLISHED_ON) if variant else SETTINGS


def experiment(setting: str, label: str, segmenter: Segmenter) -> Experiment:
    """Returns a benchmark without a method, as DAFormer is trained on it, or HRDA, at twice the size.

    Args:
      setting: one of `SETTINGS`.
      label: the row's name in tables.
      segmenter: the network, from which the weights and the size follow.
    """
    found = benchmarks.get(setting, label, ("source", "target"), further=FURTHER)
    if networks.published(setting):
        return _published(found, segmenter)
    data, evaluation = dict(found.data), found.evaluation
    if setting in SCRATCH_RARE_CLASSES:
        rare = RareClasses(min_pixels=SCRATCH_RARE_CLASSES[setting])
        data["source"] = dataclasses.replace(data["source"], rare_classes=rare)
    if setting == "smoke" and segmenter.name.startswith("hrda"):
        larger = lambda domain: dataclasses.replace(domain, options=domain.options | {"size": SIZES["smoke"]})  # noqa: E731
        data = {name: larger(domain) for name, domain in data.items()}
        evaluation = dataclasses.replace(evaluation, final=larger(evaluation.final), dev=larger(evaluation.dev))
    init_from = _weights(segmenter) if segmenter in (OWN_MIT, OWN_HRDA_MIT) else networks.init_from(setting)
    return dataclasses.replace(found, data=data, evaluation=evaluation, init_from=init_from)


def _weights(segmenter: Segmenter) -> dict[str, InitFrom]:
    """Returns ImageNet's weights for the student, whose heads start afresh, and for the encoder that never learns."""
    path = next(path for encoder, path in WEIGHTS.items() if segmenter.name.endswith(encoder))
    fresh = ("head", "scale_attention") if segmenter.name.startswith("hrda") else ("head",)
    return {"segmenter": InitFrom(path=path, fresh=fresh), IMAGENET: InitFrom(path=path)}


def _published(found: Experiment, segmenter: Segmenter) -> Experiment:
    fine, to_cityscapes = segmenter.name.startswith("hrda"), found.benchmark.endswith("_cityscapes")
    factor = 2 if fine else 1
    double = lambda size: tuple(factor * side for side in size)  # noqa: E731
    # A head of 19 classes, three of which SYNTHIA does not have; 16 are scored.
    shared = {"image_resampling": "opencv", "label_space": "19"}
    cropped = {**shared, "fit": "inside", "crop": double(CROP), "flip": True}
    rare = RareClasses(crop_share=2.0 if fine else 0.5)
    data, final, margins = dict(found.data), found.evaluation.final, {}
    if to_cityscapes:
        margins = {"margins": MARGINS_AT_FULL_SIZE if fine else MARGINS, "fields": ("image", "distrust")}
    for name, own in (("source", {"rare_classes": rare, "crop_max_share": 0.75}), ("target", margins)):
        data[name] = dataclasses.replace(data[name], size=double(data[name].size), **cropped, **own)
    final = dataclasses.replace(final, size=double(final.size), **shared)
    # One window is the whole image: its scores are interpolated to its size first, to that of the labels after.
    inference = Inference(window=double(CROP), stride=CROP) if fine else Inference(window=final.size)
    return dataclasses.replace(
        found,
        data=data,
        train=dataclasses.replace(found.train, steps=STEPS, batch_size=2, checkpoint_every=4000),
        evaluation=dataclasses.replace(found.evaluation, final=final, inference=inference),
        init_from=_weights(segmenter),
    )


def segmenter(setting: str, published: Segmenter) -> Segmenter:
    """Returns the network of a benchmark: that of the papers, or the small one that all methods have, in its place."""
    if networks.published(setting):
        return published
    small = published if published in (OWN_MIT, OWN_HRDA_MIT) else networks.segmenter(setting)
    if not published.name.startswith("hrda"):
        return dataclasses.replace(small, align_corners=False)
    height, width = SIZES[setting]
    details = {"detail_size": (height // 2, width // 2), "detail_stride": height // 4 // 8 * 8}
    if small is published:
        return dataclasses.replace(small, **details)
    name = small.name.replace("deeplab_v2", "hrda")
    return dataclasses.replace(small, name=name, align_corners=False, encoder_style="torchvision", **details)


def sections(setting: str, steps: int, segmenter: Segmenter) -> dict[str, Any]:
    """Returns those fields of a method in which a benchmark differs from the papers', for so many steps."""
    if networks.published(setting):
        return {"schedule": Schedule(horizon=STEPS, power=1.0, warmup=WARMUP)}
    if segmenter in (OWN_MIT, OWN_HRDA_MIT):
        # Which of one's own classes are things is not known.
        schedule = Schedule(horizon=None, power=1.0, warmup=min(WARMUP, steps // 10))
        return {"schedule": schedule, "distance": FeatureDistance(classes=())}
    # Smoke has one, so that the frozen encoder is tried, too.
    distance = FeatureDistance() if setting == "smoke" else FeatureDistance(weight=0.0)
    fields = {"schedule": networks.schedule(setting, steps), "optimiser": networks.optimiser(setting)}
    return fields | {"teacher": SCRATCH_TEACHER, "distance": distance}
