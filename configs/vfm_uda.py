"""VFM-UDA (Englert et al., CVPR-W 2024) and VFM-UDA++ (ICCV-W 2025): a foundation encoder, adapted by a teacher.

    uda train --config vfm_uda:streets --workdir runs/vfm_uda
    uda train --config vfm_uda:gta5_cityscapes --workdir runs/vfm_uda_gta5

Settings: streets, smoke, folder, gta5_cityscapes, synthia_cityscapes, cityscapes_acdc, cityscapes_dark_zurich and
synthetic_real, from GTA5, SYNTHIA, Synscapes and UrbanSyn to Cityscapes, BDD100K and Mapillary; each with `,plus` for
VFM-UDA++. On the first three and on gta5_cityscapes, `,soma` and `,rein` freeze the encoder and train adapters, at half
of the head's rate as SoMA's code does, and `,mic` has MIC's masked images. Published for GTA5: 77.1 (DINOv2-B, the
network here) and 78.4 (L); with plus 79.8 (L, as here); for SYNTHIA with plus 69.7 (B), for Dark Zurich with plus 68.7
(L), from all synthetic to all real sets with plus 82.2 (L; which sets these are is not known). They need DINOv2's
weights, as weights/dinov2_vitb14_pretrain.pth or dinov2_vitl14_pretrain.pth and, with plus,
dinov2_vitl14_reg4_pretrain.pth.

Three differences from the released code: it draws the factor of a frame's size from [0.9, 1.1] where here the short
side is a whole number of pixels; scores are made of labels at their own size; and with plus the adapter starts at
random, where the authors start it from a training on ImageNet that took 50,000 steps. bfloat16 stands for their
float16.

streets and smoke train a small encoder from scratch, which is no foundation; in a folder of yours, name the weights
with --config.init_from.segmenter.path.
"""

import dataclasses
import math
from collections.abc import Collection
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks

from uda_jax.config import Experiment, InitFrom, with_method
from uda_jax.configs import mic
from uda_jax.data.pipeline.domains import Domain
from uda_jax.data.pipeline.rare_class_sampling import RareClasses
from uda_jax.inference.options import Inference
from uda_jax.methods.base import Segmenter
from uda_jax.methods.parts.augmentation import Augmentation, strong
from uda_jax.methods.parts.frozen_features import ENCODER, FrozenEncoder, FrozenFeatures
from uda_jax.methods.parts.masking import Masking
from uda_jax.methods.parts.teacher import MeanTeacher
from uda_jax.methods.vfm_uda import VfmUda
from uda_jax.networks.encoder_adapters import Adapters
from uda_jax.training.optimisers import Optimiser, adamw
from uda_jax.training.schedules import Schedule

FURTHER = ("cityscapes_acdc", "cityscapes_dark_zurich", "synthetic_real")
SETTINGS = ("streets", "smoke", "folder", "gta5_cityscapes", "synthia_cityscapes", *FURTHER)


class Row(NamedTuple):
    """One row: its name, whether it is VFM-UDA++, what of the encoder learns, and whether masks are MIC's."""

    label: str
    plus: bool = False
    adapters: Adapters = Adapters()
    masked: bool = False


VARIANTS = {
    "": Row("vfm_uda"),
    "plus": Row("vfm_uda_plusplus", plus=True),
    "soma": Row("vfm_uda/soma", adapters=Adapters("soma")),
    "rein": Row("vfm_uda/rein", adapters=Adapters("rein")),
    "mic": Row("vfm_uda/mic", masked=True),
}

STEPS, WARMUP, BATCH = 40_000, 1500, 8
CROP = (1024, 1024)
# Shares of a frame at its top, bottom, left and right whose pseudo-labels do not count.
MARGINS = (0.03, 0.25, 0.03, 0.03)
RARE_CLASSES = RareClasses(temperature=0.05, crop_share=2.0, retries=20)
# Of the short side, times 0.9 to 1.1.
SHORT_SIDES = {"gta5": (1296, 1584)}
OTHER_SHORT_SIDES = (922, 1126)

# Heads and adapter, by the encoder's letter, and by benchmark with plus.
SIZE, SIZES = "b", {"gta5_cityscapes": "l", "synthia_cityscapes": "b"}
# Before it is multiplied by the root of the batch; that of the encoder is a tenth, its layers' decays with plus.
RATE, RATES, ENCODER_SHARE, LAYER_DECAY = 5e-5, {"gta5_cityscapes": 1e-5}, 0.1, 0.9
# What learns within a frozen encoder has half of the head's rate, as in SoMA's code.
ADAPTERS_SHARE = 0.5

# From scratch, on frames of 96x192 pixels: 13 x 27 patches of twice their size.
SMALL = {"width": 96, "depth": 8, "heads": 3, "table": 16, "input_scale": 2.0}
TINY = {"width": 8, "depth": 4, "heads": 2, "table": 4}
SMALLEST = TINY | {"depth": 1}
# Half of its width.
SMALLEST_RANK = 4
SCRATCH_OPTIMISER = adamw(learning_rate=3e-4, head_multiplier=1.0)
SCRATCH_TEACHER = MeanTeacher(alpha=0.99, first_update=1)


def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by one of the variants."""
    benchmark, row = benchmarks.parse(setting, VARIANTS)
    plus = row.plus
    benchmarks.check_setting(setting, SETTINGS, settings_of)
    experiment = benchmarks.get(benchmark, row.label, ("source", "target"), further=FURTHER)
    fields = {"source_augmentation": strong(), "distance": FrozenFeatures(weight=0.1)} if plus else {}
    size = SIZES.get(benchmark, "l") if plus else SIZE
    if networks.published(benchmark):
        experiment, fields = _published(experiment, size, plus), fields | _recipe(benchmark, plus)
    else:
        experiment, fields = _own(experiment, plus), fields | _scratch(benchmark, experiment.train.steps, plus)
        size = "s"
    if row.masked:
        fields |= {"masked_weight": 0.0, "masking": Masking(block=mic.BLOCKS.get(benchmark, 64))}
    if row.adapters.name != "none" and benchmark not in ("streets", "smoke"):
        fields["optimiser"] = optimiser(RATE, BATCH, 1.0, ADAPTERS_SHARE)
    segmenter = Segmenter(
        name=f"{'pyramid' if plus else 'light'}_dinov2_vit{size}14",
        input_norm="imagenet_rgb",
        align_corners=False,
        adapters=_smaller(row.adapters) if benchmark == "smoke" else row.adapters,
        **{"streets": SMALL, "smoke": TINY if plus else SMALLEST}.get(benchmark, {}),
    )
    return with_method(experiment, "vfm_uda", VfmUda(segmenter=segmenter, **fields))


def settings_of(variant: str) -> Collection[str]:
    """Returns the settings that a variant has; those of no paper are on one benchmark of the papers alone."""
    if variant in ("", "plus"):
        return SETTINGS
    return [name for name in SETTINGS if name == "gta5_cityscapes" or not networks.published(name)]


def optimiser(rate: float, batch: int, layer_decay: float, share: float = ENCODER_SHARE) -> Optimiser:
    """Returns the published optimiser: all but the encoder at `rate` times the root of the batch.

    The encoder's last block has a `share` of that and every layer below `layer_decay` times the one above. Here the
    heads are the layer above the last block.
    """
    last = share * rate * math.sqrt(batch)
    multiple = layer_decay / share
    return adamw(learning_rate=last / layer_decay, head_multiplier=multiple, layer_decay=layer_decay)


def _smaller(adapters: Adapters) -> Adapters:
    """Returns adapters of a rank that the smallest network has."""
    return adapters if adapters.name == "none" else dataclasses.replace(adapters, rank=SMALLEST_RANK)


def _recipe(benchmark: str, plus: bool) -> dict[str, Any]:
    rate = RATES.get(benchmark, RATE) if plus else RATE
    return {
        "optimiser": optimiser(rate, BATCH, LAYER_DECAY if plus else 1.0),
        "schedule": Schedule(horizon=STEPS, power=1.0, warmup=WARMUP, warmup_form="apart"),
    }


def _published(found: Experiment, size: str, plus: bool) -> Experiment:
    data, final = dict(found.data), found.evaluation.final
    for name, own in (
        ("source", {"rare_classes": RARE_CLASSES, "crop_max_share": 0.75}),
        ("target", {"distrust": MARGINS, "fields": ("image", "distrust")}),
    ):
        data[name] = _cropped(data[name], own)
    whole = (1080, 1920) if final.dataset in ("acdc", "dark_zurich") else (1024, 2048)
    final = dataclasses.replace(final, size=whole, image_resampling="bilinear", label_space="19")
    inference = Inference(window=CROP, stride=(512, 512), average="probabilities")
    fresh = ("head", "classifier", "adapter") if plus else ("head",)
    weights = {"segmenter": InitFrom(path=f"weights/dinov2_vit{size}14_pretrain.pth", fresh=fresh)}
    if plus:
        weights[ENCODER] = InitFrom(path="weights/dinov2_vitl14_reg4_pretrain.pth")
    train = dataclasses.replace(found.train, steps=STEPS, batch_size=BATCH, precision="bf16", checkpoint_every=4000)
    evaluation = dataclasses.replace(found.evaluation, final=final, inference=inference)
    return dataclasses.replace(found, data=data, train=train, evaluation=evaluation, init_from=weights)


def _cropped(domain: Domain, own: dict[str, Any]) -> Domain:
    """Returns a domain, and each part of a mixture, with the published geometry and fields of its own."""
    sides = SHORT_SIDES.get(domain.dataset, OTHER_SHORT_SIDES)
    # A head of 19 classes, three of which SYNTHIA does not have; on that benchmark 16 are scored.
    shared = {"size": None, "image_resampling": "bilinear", "label_space": "19", "flip": True}
    mix = domain.mix and {name: _cropped(member, own) for name, member in domain.mix.items()}
    return dataclasses.replace(domain, short_side=sides, crop=CROP, mix=mix, **shared, **own)


def _own(found: Experiment, plus: bool) -> Experiment:
    fresh = ("head", "classifier", "adapter") if plus else ("head",)
    # Without a file there is nothing that could start afresh.
    weights = {"segmenter": InitFrom(fresh=fresh if found.benchmark == "folder" else ())}
    if plus and found.benchmark != "streets":
        weights[ENCODER] = InitFrom()
    return dataclasses.replace(found, init_from=weights)


def _scratch(benchmark: str, steps: int, plus: bool) -> dict[str, Any]:
    """Returns fields for training without published weights, but in a folder of one's own, where there may be some."""
    if benchmark == "folder":
        horizon = Schedule(horizon=None, power=1.0, warmup=WARMUP, warmup_form="apart")
        return {"optimiser": optimiser(RATE, BATCH, LAYER_DECAY if plus else 1.0), "schedule": horizon}
    fields = {
        "optimiser": SCRATCH_OPTIMISER,
        "schedule": networks.schedule(benchmark, steps),
        "teacher": SCRATCH_TEACHER,
    }
    if benchmark == "smoke" and not plus:
        # One jitter of colours is enough to try.
        fields["weak"] = Augmentation(jitter=0.0, blur=0.0)
    if plus:
        # Features of a random encoder are nothing to stay near; smoke tries the part all the same.
        tiny = FrozenEncoder("dinov2_vits14", registers=4, **TINY)
        distance = FrozenFeatures(weight=0.1, size=(28, 28), encoder=tiny)
        fields["distance"] = distance if benchmark == "smoke" else FrozenFeatures()
    return fields
