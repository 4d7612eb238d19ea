"""DAFormer (Hoyer et al., CVPR 2022): a transformer, trained by itself on mixed images, that stays near ImageNet.

    uda train --config daformer:streets --workdir runs/daformer
    uda train --config daformer:gta5_cityscapes --workdir runs/daformer_gta5

Settings: streets, smoke, camvid_day2dusk, folder, gta5_cityscapes, synthia_cityscapes, cityscapes_acdc,
cityscapes_dark_zurich. The papers' four hold the released code's values, published 68.3 and 60.9 (16 classes) mIoU on
Cityscapes and 55.4 and 53.8 on the test servers of the others, and need the encoder's ImageNet weights, whose licence
is non-commercial, as weights/mit_b5.pth. The score is that of the last step; the figures are means of three seeds.

With `gta5_cityscapes,deeplab` the network is DeepLab-v2 (published 56.0), from mmsegmentation's ImageNet weights, as
weights/resnet101_v1c.pth.

The other settings train from scratch, with the network that all methods have there, so that rows compare, and without a
distance to features that nobody has learnt before. `folder,mit` starts from a transformer half as large, in
weights/mit_b2.pth, with the papers' optimiser.
"""

from ml_collections import ConfigDict
from uda_jax.configs.common import transformers

from uda_jax.config import with_method
from uda_jax.methods.daformer import DAFormer

# Row name and network.
VARIANTS = {
    "": ("daformer", transformers.MIT),
    transformers.PRETRAINED: ("daformer/mit", transformers.OWN_MIT),
    "deeplab": ("daformer/deeplab", transformers.DEEPLAB),
}
SETTINGS, settings_of = transformers.SETTINGS, transformers.settings_of


def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by one of the variants."""
    benchmark, (label, published) = transformers.parse(setting, VARIANTS)
    experiment = transformers.experiment(benchmark, label, published)
    segmenter = transformers.segmenter(benchmark, published)
    fields = transformers.sections(benchmark, experiment.train.steps, published)
    return with_method(experiment, "daformer", DAFormer(segmenter=segmenter, **fields))
