"""MIC (Hoyer et al., CVPR 2023): DAFormer or HRDA that also tells hidden parts of an image by what is around them.

    uda train --config mic:streets --workdir runs/mic
    uda train --config mic:gta5_cityscapes --workdir runs/mic_gta5
    uda train --config mic:gta5_cityscapes,daformer --workdir runs/mic_daformer_gta5

Settings: those of daformer. On the papers' four it is MIC on HRDA, published 75.9 and 67.3 (16 classes) mIoU on
Cityscapes and 70.4 and 60.2 on the test servers of the others; `gta5_cityscapes,daformer` is MIC on DAFormer
(published 70.6) at half that size. Both need weights/mit_b5.pth; with `gta5_cityscapes,deeplab` (published 64.2) the
network is HRDA's on DeepLab-v2, from weights/resnet101_v1c.pth.

The other settings are MIC on DAFormer, with blocks of about a twelfth to a sixteenth of the shorter side. Masks are for
other methods, too: `advent:streets,mic` and `vfm_uda:streets,mic`, and with dacs or corda
`--config.method.masking.weight=1 --config.method.masking.block=8`.
"""

import dataclasses

from ml_collections import ConfigDict
from uda_jax.configs.common import networks, transformers

from uda_jax.config import with_method
from uda_jax.methods.mic import MIC
from uda_jax.methods.parts.masking import AUGMENTATION, Masking

# Row name and network.
VARIANTS = {
    "": ("mic", transformers.HRDA_MIT),
    "daformer": ("mic/daformer", transformers.MIT),
    "deeplab": ("mic/deeplab", transformers.HRDA_DEEPLAB),
    transformers.PRETRAINED: ("mic/mit", transformers.OWN_MIT),
}
SETTINGS, settings_of = transformers.SETTINGS, transformers.settings_of

# Sides of the hidden squares, in pixels; of frames of 96x128 up. Other hosts than this config's take them, too.
BLOCKS = {"streets": 8, "smoke": 8, "streets_camvid": 8, "streets_idd": 8, "camvid_day2dusk": 16, "folder": 16}


def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by one of the variants."""
    benchmark, (label, published) = transformers.parse(setting, VARIANTS)
    if published == transformers.HRDA_MIT and not networks.published(benchmark):
        published = transformers.MIT
    experiment = transformers.experiment(benchmark, label, published)
    segmenter = transformers.segmenter(benchmark, published)
    fields = transformers.sections(benchmark, experiment.train.steps, published)
    masking = Masking(block=BLOCKS.get(benchmark, 64 if segmenter.name.startswith("hrda") else 32))
    if benchmark in transformers.FURTHER:
        colours = dataclasses.replace(AUGMENTATION, jitter=0.0, blur=0.0)
        masking = dataclasses.replace(masking, images="both", augmentation=colours)
    return with_method(experiment, "mic", MIC(segmenter=segmenter, masking=masking, **fields))
