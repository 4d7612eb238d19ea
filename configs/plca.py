"""PLCA (Kang et al., NeurIPS 2020): pixels of both domains associated by cycles, on features and on predictions.

    uda train --config plca:streets --workdir runs/plca
    uda train --config plca:streets,no_aggregation --workdir runs/plca_no_aggregation

Settings: streets, smoke, streets_camvid, streets_idd, camvid_day2dusk, folder, gta5_cityscapes, synthia_cityscapes,
synscapes_cityscapes. The variants take one part away: `,no_aggregation` of similar target pixels,
`,no_prediction_level` of the association, `,no_contrast` that divides similarities by their deviation, `,no_smoothing`,
`,no_lovasz`; or all that adapts, `,source_only`, which is the released code's own: cross entropy and Lovasz-Softmax on
the source, and no target. `,pretrained` has the network on ImageNet's EfficientNet-Lite0.

gta5_cityscapes and synthia_cityscapes hold the released code's values: 4 + 4 images per gradient on all devices
together, two gradients per update, published 47.8 and 46.9 mIoU, and need the ImageNet weights in Caffe's form that its
authors start from, as weights/resnet101-imagenet.pth. These scores are of aggregated predictions; the plain ones of the
same run are

    uda evaluate --workdir runs/plca --config.method.test_aggregation=False

synscapes_cityscapes, which is not in the paper, is trained as gta5_cityscapes.
"""

import dataclasses

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks, pretrained

from uda_jax.config import Experiment, InitFrom, with_method
from uda_jax.methods.base import Segmenter
from uda_jax.methods.parts.association import Association
from uda_jax.methods.plca import PLCA
from uda_jax.training.optimisers import sgd
from uda_jax.training.schedules import Schedule

BOTH = ("source", "target")
NO_ASSOCIATION = {"feature_weight": 0.0, "prediction_weight": 0.0, "aggregation": 0.0}

# Row name, training domains, and what is switched off: fields of the association, and fields of the method.
VARIANTS = pretrained.added(
    {
        "": ("plca", BOTH, {}, {}),
        "no_aggregation": ("plca/no_aggregation", BOTH, {"aggregation": 0.0}, {}),
        "no_prediction_level": ("plca/no_prediction_level", BOTH, {"prediction_weight": 0.0}, {}),
        "no_contrast": ("plca/no_contrast", BOTH, {"contrast": False}, {}),
        "no_smoothing": ("plca/no_smoothing", BOTH, {}, {"smoothing_weight": 0.0}),
        "no_lovasz": ("plca/no_lovasz", BOTH, {}, {"lovasz_weight": 0.0}),
        "source_only": ("plca/source_only", ("source",), NO_ASSOCIATION, {"smoothing_weight": 0.0}),
    }
)

# One head with four branches, without bias, from PyTorch's default start.
REFERENCE = Segmenter(
    name="deeplab_v2_resnet101",
    input_norm="caffe_bgr",
    align_corners=False,
    aspp_branches=4,
    aspp_bias=False,
    head_init="uniform",
)
REFERENCE_WEIGHTS = InitFrom(path="weights/resnet101-imagenet.pth", fresh=("head",), dialect="caffe_resnet101")
REFERENCE_SGD = sgd(learning_rate=2.5e-4, head_multiplier=1.0, train_norm_affine=True)

# Two devices of 2 + 2 images, two such batches per update; Cityscapes' 2975 frames last for this many batches. Each
# device averages over the cycles of its own pairs, and over the labels and classes of its own source images.
BATCH_SIZE, ACCUMULATION, EPOCH = 4, 2, 744
DEVICE_PAIRS = 2

# Epochs of training, and of the schedule's horizon beyond them.
EPOCHS = {"gta5_cityscapes": (28, 30), "synthia_cityscapes": (8, 10), "synscapes_cityscapes": (28, 30)}

# The paper's weight of Lovasz-Softmax, which devices and accumulation do not multiply here.
SCRATCH_LOVASZ_WEIGHT = 0.75

# Of both levels of the association, from scratch. On streets' dev split (seed 0): 4.4 mIoU at the paper's 0.1, which
# outweighs the labels before there are features to associate, 15.4 at 0.01.
SCRATCH_ASSOCIATION = {"feature_weight": 0.01, "prediction_weight": 0.01}


@pretrained.offered
def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by one of the variants."""
    benchmark, (label, domains, association, fields) = benchmarks.parse(setting, VARIANTS)
    experiment = benchmarks.get(benchmark, label, domains)
    if networks.published(benchmark):
        experiment = _published(experiment)
        # Without aggregation in training there is none in the test either.
        fields = {"test_aggregation": "aggregation" not in association, **fields}
        method = PLCA(
            segmenter=REFERENCE,
            optimiser=REFERENCE_SGD,
            schedule=Schedule(horizon=EPOCHS[benchmark][1] * EPOCH),
            association=Association(reduction_group=DEVICE_PAIRS, **association),
            supervised_group=DEVICE_PAIRS,
            **fields,
        )
    else:
        experiment = dataclasses.replace(experiment, init_from=networks.init_from(benchmark))
        method = PLCA(
            segmenter=dataclasses.replace(networks.segmenter(benchmark), align_corners=False),
            optimiser=networks.optimiser(benchmark),
            schedule=networks.schedule(benchmark, experiment.train.steps),
            association=Association(**(SCRATCH_ASSOCIATION | association)),
            **{"lovasz_weight": SCRATCH_LOVASZ_WEIGHT, **fields},
        )
    return with_method(experiment, "plca", method)


def _published(experiment: Experiment) -> Experiment:
    """Returns a benchmark of the papers with PLCA's frames, batches and length."""
    view = {"short_side": (760, 988), "crop": (730, 730), "flip": True, "image_resampling": "bilinear"}
    data = {name: dataclasses.replace(domain, size=None, **view) for name, domain in experiment.data.items()}
    final = dataclasses.replace(experiment.evaluation.final, size=(730, 1460), image_resampling="bilinear")
    steps = EPOCHS[experiment.benchmark][0] * EPOCH
    return dataclasses.replace(
        experiment,
        data=data,
        train=dataclasses.replace(experiment.train, steps=steps, batch_size=BATCH_SIZE, accumulation=ACCUMULATION),
        evaluation=dataclasses.replace(experiment.evaluation, final=final),
        init_from={"segmenter": REFERENCE_WEIGHTS},
    )
