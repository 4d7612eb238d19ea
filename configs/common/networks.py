"""The segmenter and the optimiser that go with each benchmark, the same for every method."""

import dataclasses

from uda_jax.configs.common import benchmarks

from uda_jax.config import Experiment, InitFrom, machine
from uda_jax.methods.base import Segmenter
from uda_jax.methods.parts.alignment import Discriminator
from uda_jax.training.optimisers import Optimiser, adam, sgd
from uda_jax.training.schedules import Schedule

# Published runs: ResNet-101 in Caffe's normalisation, both heads, four branches (ADVENT's code).
REFERENCE = Segmenter(name="deeplab_v2_resnet101", input_norm="caffe_bgr", multi_level=True, aspp_branches=4)

# The same with the classifiers of AdaptSegNet's released code, which return after two of their four branches.
ADAPTSEGNET = dataclasses.replace(REFERENCE, aspp_branches=2)

# The file that ADVENT and IntraDA start from; its head has other classes. A network with one head has no `aux_head` to
# start at random, which is no mistake.
REFERENCE_WEIGHTS = InitFrom(path="weights/DeepLab_resnet_pretrained_imagenet.pth", fresh=("head", "aux_head"))

# The file of AdaptSegNet's authors, trained on ImageNet and COCO.
ADAPTSEGNET_WEIGHTS = InitFrom(path="weights/DeepLab_resnet_pretrained_init-f81d91e8.pth", fresh=("head", "aux_head"))

# Its schedule decays over 250000 steps and stops here.
ADAPTSEGNET_STEPS = 150_000

# The papers' other network, in the form of AdaptSegNet's code, which trains all of it at one rate, each tensor once,
# and starts it from ImageNet in Caffe's form. What those weights lack starts as there.
VGG = Segmenter(name="deeplab_v2_vgg16", input_norm="caffe_bgr", aspp_branches=4, encoder_init="uniform")
VGG_SGD = sgd(learning_rate=2.5e-4, head_multiplier=1.0)
VGG_WEIGHTS = InitFrom(
    path="weights/vgg16-caffe.pth", fresh=("encoder/fc6", "encoder/fc7", "head"), dialect="caffe_vgg16"
)

# Trains from scratch in minutes on two cores. Width, stride and rate were chosen for the oracle on camera dev: in the
# same minute, width 12 for 1500 steps reached 35.1 mIoU, width 16 for 1200 steps 32.5; width 16 at stride 4 had 25.1
# after 400 steps and 78 seconds.
SMALL = Segmenter(name="deeplab_v2_resnet14", input_norm="imagenet_rgb", width=12)

# Large enough to be useful, small enough for one desktop GPU, when no published weights are at hand.
MEDIUM = Segmenter(name="deeplab_v2_resnet50", input_norm="imagenet_rgb", encoder_init="he")

TINY = Segmenter(name="deeplab_v2_resnet14", input_norm="imagenet_rgb", width=4)

# AdaptSegNet's and ADVENT's recipe. Their backbones take each update three times, and the decay adds up over them, see
# SgdFields.
REFERENCE_SGD = sgd(
    learning_rate=2.5e-4, head_multiplier=10.0, update_multiplicity="reference", repeated_decay="accumulating"
)

# From scratch everything trains at one rate, scale and shift included.
SCRATCH_SGD = sgd(learning_rate=0.2, head_multiplier=1.0, train_norm_affine=True)

# Found on streets' dev split (seed 0, 1500 steps) with AdvEnt; other methods and benchmarks that train from scratch
# take them over. Discriminator at rate 1e-4: 12.9 mIoU at weight 0.001; at 5e-4: 15.4 at 0.03, 15.7 at 0.1; at 2e-3:
# 16.2 at 0.03.
SCRATCH_ADVERSARIAL_WEIGHT = 0.03
SCRATCH_DISCRIMINATOR = Discriminator(width=16, optimiser=adam(learning_rate=2e-3))

# How much larger that weight is than the released codes' 0.001.
SCRATCH_ADVERSARIAL_SCALE = SCRATCH_ADVERSARIAL_WEIGHT / 0.001


def published(setting: str) -> bool:
    """Whether a benchmark is one of the papers', run with their network and recipe."""
    return setting not in benchmarks.OWN


def segmenter(setting: str) -> Segmenter:
    """Returns the network of a benchmark; that of a folder of one's own depends on what the machine has."""
    if published(setting):
        return REFERENCE
    if setting == "folder":
        return MEDIUM if machine.accelerated() else SMALL
    return TINY if setting == "smoke" else SMALL


def init_from(setting: str) -> dict[str, InitFrom]:
    """Returns the weights that a benchmark starts from; without published ones, whatever the command line names."""
    return {"segmenter": REFERENCE_WEIGHTS if published(setting) else InitFrom()}


def optimiser(setting: str) -> Optimiser:
    """Returns the segmenter's optimiser of a benchmark."""
    return REFERENCE_SGD if published(setting) else SCRATCH_SGD


def adaptsegnet(experiment: Experiment, *, multi_level: bool) -> tuple[Experiment, Segmenter]:
    """Returns the experiment and the network of AdaptSegNet and what is built on it.

    On the papers' benchmarks these are its authors' weights, length and classifiers, of which two of four branches are
    summed: a bug of the released code that its weights and rates contain. Elsewhere they are those of any method.
    """
    setting = experiment.benchmark
    if not published(setting):
        network = dataclasses.replace(segmenter(setting), multi_level=multi_level)
        return dataclasses.replace(experiment, init_from=init_from(setting)), network
    train = dataclasses.replace(experiment.train, steps=ADAPTSEGNET_STEPS)
    experiment = dataclasses.replace(experiment, init_from={"segmenter": ADAPTSEGNET_WEIGHTS}, train=train)
    return experiment, dataclasses.replace(ADAPTSEGNET, multi_level=multi_level)


def vgg(experiment: Experiment, *, branches: int) -> tuple[Experiment, Segmenter]:
    """Returns a benchmark of the papers with the weights of VGG-16, and the network, whose head sums so many branches.

    It has one head. Its optimiser is `VGG_SGD`: the rules of `REFERENCE_SGD` are for the names of a ResNet.
    """
    experiment = dataclasses.replace(experiment, init_from={"segmenter": VGG_WEIGHTS})
    return experiment, dataclasses.replace(VGG, aspp_branches=branches)


def discriminator(setting: str) -> Discriminator:
    """Returns the discriminator of a benchmark, and how it learns."""
    return Discriminator() if published(setting) else SCRATCH_DISCRIMINATOR


def schedule(setting: str, steps: int) -> Schedule:
    """Returns the decay of a benchmark: down to 0 at its last step, or the papers' longer horizon."""
    if published(setting):
        return Schedule(horizon=250_000)
    return Schedule(horizon=None, warmup=min(50, steps // 10))
