"""Self-supervised depth of each benchmark: networks, rates, and the frames of either domain with their other views."""

import dataclasses
from typing import Any, NamedTuple

from uda_jax.configs.common import benchmarks, networks, pretrained

from uda_jax import config
from uda_jax.config import Experiment, InitFrom, Train
from uda_jax.data.pipeline.domains import Domain
from uda_jax.methods.parts.scene import BASELINE, CAMERA, DISPARITY, MOTION, VIEWS, DisparityNetwork, MotionNetwork
from uda_jax.methods.self_supervised_depth import SelfSupervisedDepth
from uda_jax.training.optimisers import adam
from uda_jax.training.schedules import Schedule

SETTINGS = ("streets", "smoke", "folder", "gta5_cityscapes")
DOMAINS = ("source", "target")

# From what the frames of each domain are rebuilt, unless a variant says so. GTA5's frames are single ones; its depth is
# learnt from another recording of the game. Cityscapes' are pairs, and a folder of one's own is a camera's video.
_DEFAULT_VIEWS = {
    "streets": {"source": "stereo", "target": "stereo"},
    "smoke": {"source": "stereo", "target": "stereo"},
    "folder": {"source": "monocular", "target": "monocular"},
    "gta5_cityscapes": {"source": "monocular", "target": "stereo"},
}
# Ten times the distance of the two cameras; without a pair any unit will do.
_METRES_PER_UNIT = {"streets": 5.0, "smoke": 5.0, "gta5_cityscapes": 2.1}

# CorDA's GTA5 depth comes from the trainer of one of its authors (SDE), which has these values; frames of 1024x512, of
# which crops are learnt. There the motion network sees whole frames, here the crops.
PUBLISHED_SIZE, PUBLISHED_CROP = (512, 1024), (512, 512)
PUBLISHED_TRAIN = {"steps": 350_000, "batch_size": 4, "checkpoint_every": 5000}
PUBLISHED_SCHEDULE = Schedule(name="constant_drop", horizon=None, drop=160 / 350)
PUBLISHED_ADAM = adam(learning_rate=1e-4, beta2=0.999, groups=((f"^{DISPARITY}/encoder/", 0.1, None),))
PUBLISHED_WEIGHTS = {
    DISPARITY: InitFrom(path="weights/resnet101-63fe2227.pth", fresh=("decoder",), dialect="torchvision_resnet101"),
    MOTION: InitFrom(path="weights/resnet18-f37072fd.pth", fresh=("decoder",), dialect="torchvision_resnet18"),
}

# From scratch, in minutes on two cores: depths from 2.5 to 100 metres, where pairs have a baseline of half a metre,
# around 15 at first; Monodepth2's begin at one metre, and need many steps to get away from there.
SCRATCH_STEPS = 1500
SCRATCH_ADAM = adam(learning_rate=1e-3, beta2=0.999)
SCRATCH_RANGE = {"nearest": 0.5, "farthest": 20.0, "jitter": 0.0}
SMALL = {
    "disparity": DisparityNetwork("disparity_resnet14", width=8, decoder_width=8, initial_disparity=0.15),
    "motion": MotionNetwork("motion_resnet14", width=8, motion_width=64),
}
TINY = {
    "disparity": DisparityNetwork("disparity_resnet14", width=4, decoder_width=2),
    "motion": MotionNetwork("motion_resnet14", width=4, motion_width=4),
}


class Depth(NamedTuple):
    """Self-supervised depth of one domain: what trains it, on what, for how long, and from which files."""

    method: SelfSupervisedDepth
    domain: Domain
    train: Train
    init_from: dict[str, InitFrom]


def of_domain(setting: str, name: str, views: str | None = None) -> Depth:
    """Returns what learns the depth of a benchmark's source or target.

    Args:
      setting: one of `SETTINGS`.
      name: "source" or "target".
      views: from what frames are rebuilt; None = the benchmark's own choice.
    """
    plain = benchmarks.SETTINGS[setting]()
    views = views or _DEFAULT_VIEWS[setting][name]
    domain = with_views(plain.data[name], views)
    fields = {"views": views, "metres_per_unit": _METRES_PER_UNIT.get(setting, 1.0)}
    if networks.published(setting):
        domain = dataclasses.replace(domain, size=PUBLISHED_SIZE, crop=PUBLISHED_CROP, flip=True)
        if name == "source":
            domain = dataclasses.replace(domain, dataset="video", root="data/gta5_video", options={"camera": "gta"})
        method = SelfSupervisedDepth(
            disparity=DisparityNetwork("disparity_resnet101"),
            optimiser=PUBLISHED_ADAM,
            schedule=PUBLISHED_SCHEDULE,
            **fields,
        )
        return Depth(method, domain, dataclasses.replace(plain.train, **PUBLISHED_TRAIN), _files(method))
    train = dataclasses.replace(plain.train, steps=SCRATCH_STEPS) if setting == "streets" else plain.train
    if setting == "folder":
        # No weights are at hand; the networks are as large as they are elsewhere.
        fields |= {"optimiser": PUBLISHED_ADAM}
    else:
        fields |= (TINY if setting == "smoke" else SMALL) | SCRATCH_RANGE | {"optimiser": SCRATCH_ADAM}
    method = SelfSupervisedDepth(schedule=networks.schedule(setting, train.steps), **fields)
    return Depth(method, domain, train, dict.fromkeys(method.player.networks, InitFrom()))


def with_views(domain: Domain, views: str) -> Domain:
    """Returns a domain whose frames have no labels, but the other views of a choice, and what says where those are."""
    pair = (BASELINE,) if "image_right" in VIEWS[views] else ()
    return dataclasses.replace(domain, fields=("image", *VIEWS[views], CAMERA, *pair))


def as_drawn(setting: str, domain: Domain) -> Domain:
    """Returns the frames of a method's domain as depth maps of them are drawn: whole, at the size that was learnt."""
    size = PUBLISHED_SIZE if networks.published(setting) else domain.size
    off = {"disparity_from": None, "crop": None, "flip": False, "disparity_resampling": "nearest"}
    return dataclasses.replace(domain, fields=("image",), size=size, **off)


def on_encoder(depth: Depth) -> Depth:
    """Returns the same on EfficientNet-Lite0 from ImageNet, whose rate is a tenth of that of the new parts."""
    method, name, norm = depth.method, pretrained.ENCODER, {"input_norm": pretrained.INPUT_NORM, "bn_mode": "frozen"}
    slower = ((f"^{DISPARITY}/encoder/", pretrained.ENCODER_RATE, None), (f"^{MOTION}/encoder/", 0.1, None))
    method = dataclasses.replace(
        method,
        disparity=DisparityNetwork(
            f"{DISPARITY}_{name}",
            decoder_width=method.disparity.decoder_width,
            initial_disparity=method.disparity.initial_disparity,
            **norm,
        ),
        motion=MotionNetwork(f"{MOTION}_{name}", motion_width=method.motion.motion_width, **norm),
        optimiser=dataclasses.replace(method.optimiser, groups=slower),
    )
    file = InitFrom(path=pretrained.FILE, fresh=("decoder",))
    return depth._replace(method=method, init_from=dict.fromkeys(method.player.networks, file))


def section(method: SelfSupervisedDepth) -> dict[str, Any]:
    """Returns a method's section, as stages hold it."""
    return config.named("self_supervised_depth", method, without=("precision", "accumulation"))


def scored(setting: str, name: str, experiment: Experiment) -> Experiment:
    """Returns an experiment that is scored by the depth of a domain's held-out frames, where they have any."""
    final, dev = experiment.evaluation.final, experiment.evaluation.dev
    if name == "source" and setting in ("streets", "smoke"):
        final, dev = dataclasses.replace(final, split="simulator_dev"), None
    elif name == "source":
        # Nothing of it is held out, and a video has no depth.
        final = of_domain(setting, name).domain
        final = dataclasses.replace(final, crop=None, flip=False)
    fields = ("image",) if setting == "gta5_cityscapes" and name == "source" else ("image", "depth")
    options = final.options
    if setting == "gta5_cityscapes" and name == "target":
        final = dataclasses.replace(final, size=PUBLISHED_SIZE)
        options = {"depth": "disparity"}
    final = dataclasses.replace(final, fields=fields, options=options)
    evaluation = dataclasses.replace(
        experiment.evaluation,
        final=final,
        dev=dev and dataclasses.replace(dev, fields=fields),
        headline="abs_rel_scaled",
        unlabelled=setting in ("folder", "gta5_cityscapes"),
        pictures=0,
    )
    return dataclasses.replace(experiment, evaluation=evaluation)


def _files(method: SelfSupervisedDepth) -> dict[str, InitFrom]:
    return {name: PUBLISHED_WEIGHTS[name] for name in method.player.networks}
