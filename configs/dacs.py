"""DACS (Tranheden et al., WACV 2021): self-training on images that mix source and target.

    uda train --config dacs:streets --workdir runs/dacs
    uda train --config dacs:gta5_cityscapes --workdir runs/dacs_gta5

Settings: streets, smoke, streets_camvid, streets_idd, camvid_day2dusk, folder, gta5_cityscapes, synthia_cityscapes,
synscapes_cityscapes. On GTA5 and SYNTHIA they hold the released code's values, published 52.1 and 48.3 (16 classes)
mIoU, and need the DeepLab that its authors start from, trained on COCO, as weights/resnet101COCO-41f33a49.pth. There is
no flip in them, and the score is on labels of 1024x512 pixels, as published;
`--config.evaluation.final.resize_label=False` scores on whole ones. `,pretrained` has the network on ImageNet's
EfficientNet-Lite0.

The variants are the paper's comparisons, on GTA5: other masks than those of classes, `,cutmix` (published 48.7) and
`,cowmix` (48.3); `,plain`, its "naive mixing" of target images with each other (35.1); and `,no_mixing`, pseudo-labels
alone (23.0). The released code has the functions of these masks, but nothing that calls them: their bounds are those of
its authors' ClassMix. That naive mixing pastes half of the classes, rounded up as DACS's, is our choice.
"""

import dataclasses

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks, pretrained

from uda_jax.config import Experiment, InitFrom, with_method
from uda_jax.methods.dacs import Dacs
from uda_jax.methods.parts.mixing import Mixing

# Row name, what is pasted, and its masks.
VARIANTS = pretrained.added(
    {
        "": ("dacs", "source", "classes"),
        "cutmix": ("dacs/cutmix", "source", "box"),
        "cowmix": ("dacs/cowmix", "source", "cow"),
        "plain": ("dacs/plain", "target", "classes"),
        "no_mixing": ("dacs/no_mixing", "source", "none"),
    }
)

# One head, of whose four branches the released code sums two, as AdaptSegNet's.
REFERENCE = dataclasses.replace(networks.ADAPTSEGNET, multi_level=False)

# Trained on COCO; its head has other classes.
REFERENCE_WEIGHTS = InitFrom(path="weights/resnet101COCO-41f33a49.pth", fresh=("head",))

# Its authors had a PyTorch in which the decay does not add up over the repeated updates of the backbone.
REFERENCE_SGD = dataclasses.replace(networks.REFERENCE_SGD, repeated_decay="fixed")

REFERENCE_STEPS = 250_000
REFERENCE_BATCH = 2
REFERENCE_CROP = (512, 512)

# The authors squeeze SYNTHIA's 1280x760 pixels to GTA5's frame.
REFERENCE_SYNTHIA_SIZE = (720, 1280)


@pretrained.offered
def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by one of the variants."""
    benchmark, (label, pasted, masks) = benchmarks.parse(setting, VARIANTS)
    experiment = benchmarks.get(benchmark, label, ("source", "target"))
    published = networks.published(benchmark)
    experiment = dataclasses.replace(experiment, init_from=networks.init_from(benchmark))
    if published:
        experiment = dataclasses.replace(reference(experiment), init_from={"segmenter": REFERENCE_WEIGHTS})
    method = Dacs(
        segmenter=REFERENCE if published else networks.segmenter(benchmark),
        optimiser=REFERENCE_SGD if published else networks.optimiser(benchmark),
        schedule=networks.schedule(benchmark, experiment.train.steps),
        mixing=Mixing(masks=masks),
        pasted=pasted,
    )
    return with_method(experiment, "dacs", method)


def reference(experiment: Experiment) -> Experiment:
    """Returns a benchmark to Cityscapes with the sizes, crops, batch and length of the released code, CorDA's too."""
    data, evaluation = dict(experiment.data), experiment.evaluation
    data["source"] = dataclasses.replace(data["source"], crop=REFERENCE_CROP)
    data["target"] = dataclasses.replace(data["target"], image_resampling="bilinear", crop=REFERENCE_CROP)
    final = dataclasses.replace(evaluation.final, image_resampling="bilinear", resize_label=True)
    if experiment.benchmark == "synthia_cityscapes":
        # A head of 19 classes, three of which are never learnt; 16 are scored.
        data = {name: dataclasses.replace(domain, label_space="19") for name, domain in data.items()}
        data["source"] = dataclasses.replace(data["source"], size=REFERENCE_SYNTHIA_SIZE)
        final = dataclasses.replace(final, label_space="19")
    return dataclasses.replace(
        experiment,
        data=data,
        train=dataclasses.replace(experiment.train, steps=REFERENCE_STEPS, batch_size=REFERENCE_BATCH),
        evaluation=dataclasses.replace(evaluation, final=final),
    )
