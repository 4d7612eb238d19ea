"""AdaptSegNet (Tsai et al., CVPR 2018): output-space adversarial adaptation, multi-level by default.

    uda train --config adaptsegnet:streets --workdir runs/adaptsegnet
    uda train --config adaptsegnet:gta5_cityscapes,single_level --workdir runs/adaptsegnet_single

Settings: streets, smoke, streets_camvid, streets_idd, camvid_day2dusk, folder, gta5_cityscapes, synthia_cityscapes,
synscapes_cityscapes. Variants: `,single_level` has one head and one discriminator, `,least_squares` is that with
LS-GAN's loss, `,small_weights` the multi-level weights that the authors recommend since PyTorch 0.4. On the papers'
benchmarks they hold the released code's values, published 42.4 (multi-level), 41.4 and 44.1 mIoU on GTA5 -> Cityscapes,
and need the weights that the authors start from (ImageNet and COCO), as
weights/DeepLab_resnet_pretrained_init-f81d91e8.pth. `,pretrained` has the network on ImageNet's EfficientNet-Lite0.

`,vgg16` is the single level on the papers' other network, published 35.0 on GTA5 and 37.6 (13 classes) on SYNTHIA,
from ImageNet's VGG-16 in Caffe's form with torchvision's names, as weights/vgg16-caffe.pth. Its network and its single
rate are the released code's; that all else is as with ResNet-101 is an assumption.
"""

import dataclasses

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks, pretrained

from uda_jax.config import with_method
from uda_jax.methods.adaptsegnet import AdaptSegNet

# Per variant: row name, adversarial loss, levels, and the weights (main head, earlier head) of the released code.
VARIANTS = pretrained.added(
    {
        "": ("adaptsegnet", "bce", 2, (0.001, 0.0002)),
        "single_level": ("adaptsegnet/single_level", "bce", 1, (0.001, 0.0)),
        "least_squares": ("adaptsegnet/least_squares", "least_squares", 1, (0.01, 0.0)),
        "small_weights": ("adaptsegnet/small_weights", "bce", 2, (0.0005, 0.00005)),
        "vgg16": ("adaptsegnet/vgg16", "bce", 1, (0.001, 0.0)),
    }
)
PUBLISHED_VARIANTS = ("vgg16",)


@pretrained.offered
def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by one of the variants."""
    benchmark, (label, kind, levels, weights) = benchmarks.parse(setting, VARIANTS, PUBLISHED_VARIANTS)
    experiment = benchmarks.get(benchmark, label, ("source", "target"))
    if not networks.published(benchmark):
        weights = tuple(networks.SCRATCH_ADVERSARIAL_SCALE * weight for weight in weights)
        # The small network has one head, the same for every method.
        levels = levels if benchmark == "folder" else 1
    experiment, segmenter = networks.adaptsegnet(experiment, multi_level=levels == 2)
    optimiser = networks.optimiser(benchmark)
    if label == "adaptsegnet/vgg16":
        # Its classifier returns after two branches, too.
        experiment, segmenter = networks.vgg(experiment, branches=2)
        optimiser = networks.VGG_SGD
    method = AdaptSegNet(
        segmenter=segmenter,
        optimiser=optimiser,
        schedule=networks.schedule(benchmark, experiment.train.steps),
        discriminator=dataclasses.replace(networks.discriminator(benchmark), kind=kind),
        target_weight=weights[0],
        target_aux_weight=weights[1],
    )
    return with_method(experiment, "adaptsegnet", method)
