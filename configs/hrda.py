"""HRDA (Hoyer et al., ECCV 2022): DAFormer on large images, seen at two resolutions.

    uda train --config hrda:streets --workdir runs/hrda
    uda train --config hrda:gta5_cityscapes --workdir runs/hrda_gta5

Settings: those of daformer, at twice its size on the papers' four. There they hold the released code's values,
published 73.8 and 65.8 (16 classes) mIoU on Cityscapes and 68.0 and 55.9 on the test servers of the others, and need
weights/mit_b5.pth. With `gta5_cityscapes,deeplab` the network is
DeepLab-v2 (published 63.0), from weights/resnet101_v1c.pth.
"""

from ml_collections import ConfigDict
from uda_jax.configs.common import transformers

from uda_jax.config import with_method
from uda_jax.methods.hrda import HRDA

# Row name and network.
VARIANTS = {
    "": ("hrda", transformers.HRDA_MIT),
    transformers.PRETRAINED: ("hrda/mit", transformers.OWN_HRDA_MIT),
    "deeplab": ("hrda/deeplab", transformers.HRDA_DEEPLAB),
}
SETTINGS, settings_of = transformers.SETTINGS, transformers.settings_of


def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by one of the variants."""
    benchmark, (label, published) = transformers.parse(setting, VARIANTS)
    experiment = transformers.experiment(benchmark, label, published)
    segmenter = transformers.segmenter(benchmark, published)
    fields = transformers.sections(benchmark, experiment.train.steps, published)
    return with_method(experiment, "hrda", HRDA(segmenter=segmenter, **fields))
