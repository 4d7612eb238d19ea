"""CorDA (Wang et al., ICCV 2021): DACS with depth as a second task and as a measure of difficulty.

    uda train --config corda:streets --workdir runs/corda
    uda train --config corda:streets,exact_depth --workdir runs/corda_exact
    uda train --config corda:synthia_cityscapes --workdir runs/corda_synthia

Settings: streets, smoke, folder, gta5_cityscapes, synthia_cityscapes, whose frames have depth. The depth of streets'
camera comes from block matching on a stereo pair, with `,exact_depth` from the renderer, for comparison; the other
settings but smoke have one kind of depth, which the variant leaves as it is. `,pretrained` has the network on
ImageNet's EfficientNet-Lite0.

On GTA5 and SYNTHIA the settings hold the released code's values, published 56.6 and 55.0 (16 classes) mIoU, and need
its depth files (see `uda_jax/data/datasets`) and weights/resnet101COCO-41f33a49.pth. Its weights of difficulty are, by
accident, averages over the images of a batch. They are so in these settings; the others have each image's own, as the
paper says. `,reference_weights` and `,image_weights` choose one form of weights everywhere.
"""

import dataclasses

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks, pretrained

from uda_jax.config import Experiment, with_method
from uda_jax.configs import dacs
from uda_jax.errors import UserError
from uda_jax.methods.base import Segmenter
from uda_jax.methods.corda import CorDA
from uda_jax.methods.parts.teacher import MeanTeacher
from uda_jax.schema import did_you_mean

# Row name, whether streets' camera has the renderer's depth, and the form of the weights of difficulty; None: that of
# the released code where it published scores, else the paper's.
VARIANTS = pretrained.added(
    {
        "": ("corda", False, None),
        "exact_depth": ("corda/exact_depth", True, None),
        "reference_weights": ("corda/reference_weights", False, "reference"),
        "image_weights": ("corda/image_weights", False, "per_image"),
    }
)

SETTINGS = ("streets", "smoke", "folder", "gta5_cityscapes", "synthia_cityscapes")

# What the file of weights lacks: all but the encoder.
FRESH = ("segmentation_features", "depth_features", "correlation", "head", "depth_head", "source_depth_head")
REFERENCE_WEIGHTS = dataclasses.replace(
    dacs.REFERENCE_WEIGHTS, fresh=(*FRESH, "aux_head", "aux_depth_head", "aux_source_depth_head")
)

# "To stabilise" GTA5, the released code takes its first pseudo-labels, up to and with step 25000, from the classifier
# that sees the encoder alone.
GTA5_INITIAL_STEPS = 25_001

# From scratch, in place of the paper's 0.999, with which a teacher of a thousand steps is the mean of all its students.
SCRATCH_ALPHA = 0.99

# From scratch, targets of depth are 1 at about ten metres, and their losses weigh ten times the paper's.
SCRATCH_DEPTH_UNIT = 64.0
SCRATCH_SOURCE_DEPTH_WEIGHT = 0.1
SCRATCH_MIXED_DEPTH_WEIGHT = 0.01


@pretrained.offered
def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by one of the variants."""
    benchmark, (label, exact, weights) = benchmarks.parse(setting, VARIANTS)
    if benchmark not in SETTINGS:
        raise UserError(
            f"--config: expected a setting with depth, got '{benchmark}'{did_you_mean(benchmark, SETTINGS)}"
        )
    experiment = benchmarks.get(benchmark, label, ("source", "target"))
    experiment = benchmarks.with_depth(experiment, exact=exact)
    published = networks.published(benchmark)
    experiment = dataclasses.replace(experiment, init_from=networks.init_from(benchmark))
    if published:
        experiment = dataclasses.replace(_reference(experiment), init_from={"segmenter": REFERENCE_WEIGHTS})
    method = CorDA(
        segmenter=_segmenter(benchmark),
        optimiser=dacs.REFERENCE_SGD if published else networks.optimiser(benchmark),
        schedule=networks.schedule(benchmark, experiment.train.steps),
        depth_weight_mode=weights or ("reference" if published else "per_image"),
    )
    if benchmark == "gta5_cityscapes":
        method = dataclasses.replace(method, initial_steps=GTA5_INITIAL_STEPS)
    if benchmark == "synthia_cityscapes":
        method = dataclasses.replace(method, source_nearest=0.0)
    if not published:
        method = dataclasses.replace(
            method,
            teacher=MeanTeacher(alpha=SCRATCH_ALPHA),
            depth_unit=SCRATCH_DEPTH_UNIT,
            source_depth_weight=SCRATCH_SOURCE_DEPTH_WEIGHT,
            mixed_depth_weight=SCRATCH_MIXED_DEPTH_WEIGHT,
        )
    return with_method(experiment, "corda", method)


def _reference(experiment: Experiment) -> Experiment:
    """Returns a benchmark to Cityscapes as the released code trains on it, scored on labels of full size."""
    experiment = dacs.reference(experiment)
    final = dataclasses.replace(experiment.evaluation.final, resize_label=False)
    return dataclasses.replace(experiment, evaluation=dataclasses.replace(experiment.evaluation, final=final))


def _segmenter(benchmark: str) -> Segmenter:
    """Returns the multi-task network of a benchmark's size."""
    if networks.published(benchmark):
        head = "aspp" if benchmark == "gta5_cityscapes" else "linear"
        return dataclasses.replace(dacs.REFERENCE, name="corda_resnet101", multi_level=None, initial_head=head)
    plain = networks.segmenter(benchmark)
    return dataclasses.replace(plain, name=plain.name.replace("deeplab_v2", "corda"), initial_head="linear")
