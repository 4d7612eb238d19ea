"""The variant "pretrained", the same for every method: its network on an encoder that has seen ImageNet.

A config file adds it with two lines:

    VARIANTS = pretrained.added({...})       beside its own variants, a copy of the plain one

    @pretrained.offered                      which is then put on the encoder
    def get_config(setting): ...

It also follows another variant, as in `source_only:streets,oracle,pretrained`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from uda_jax import config
from uda_jax.config import Experiment, InitFrom, Train
from uda_jax.errors import UserError

VARIANT = "pretrained"

# Whose networks are small enough for its encoder to be one of their size.
SETTINGS = ("streets", "smoke", "streets_camvid", "streets_idd", "camvid_day2dusk")

ENCODER = "efficientnet_lite0"
FILE = "efficientnet_lite0"  # its name in the catalogue of weights
INPUT_NORM = "lite_rgb"

# By the start of a network's name: what it is called on the encoder, and what the file of weights lacks of it.
NETWORKS = {
    "deeplab_v2": ("pyramid", ("neck", "head", "aux_head", "depth_head")),
    "dada": ("dada", ("neck", "depth_branch", "head")),
    "corda": (
        "corda",
        (
            *("neck", "segmentation_features", "depth_features", "correlation"),
            *("head", "depth_head", "source_depth_head", "aux_head", "aux_depth_head", "aux_source_depth_head"),
        ),
    ),
}
# Fields of the plain network that are not its encoder's.
KEPT = ("align_corners", "aspp_branches", "aspp_bias", "head_init", "multi_level", "initial_head")

# Of the rate of what is new; at the whole of it the encoder forgets.
ENCODER_RATE = 0.1

# Of the steps from scratch: a step costs more, and what is known already needs fewer. A run stays one of minutes.
SHARE_OF_STEPS = 0.4


def added(variants: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config's variants with this one, whose row is that of the plain setting."""
    return {**variants, VARIANT: variants[""]}


def offered(get_config: Callable[[str], ConfigDict]) -> Callable[[str], ConfigDict]:
    """Returns a config's `get_config` that knows the variant."""

    @functools.wraps(get_config)
    def wrapped(setting: str = "streets") -> ConfigDict:
        plain, _, variant = setting.rpartition(",")
        if variant != VARIANT:
            return get_config(setting)
        benchmark = plain.partition(",")[0]
        if benchmark not in SETTINGS:
            raise UserError(
                f"--config: variant '{VARIANT}': expected a setting of {', '.join(SETTINGS)}, got '{benchmark}'; leave "
                "the variant out"
            )
        return config.as_config(on_encoder(config.experiment(get_config(plain))))

    return wrapped


def on_encoder(experiment: Experiment) -> Experiment:
    """Returns an experiment whose segmenters, in all stages, stand on the encoder and start from its file.

    The encoder's batch norm keeps ImageNet's statistics, which both domains share, and its rate is a tenth of that of
    the new parts, whose rate stays. Every stage takes four tenths of its steps, but those of a smoke run.
    """
    kind, _, _ = experiment.method["segmenter"]["name"].rpartition("_")
    stages = {
        name: dataclasses.replace(
            stage, method=stage.method and _method(stage.method), train=stage.train and _train(experiment, stage.train)
        )
        for name, stage in (experiment.stages or {}).items()
    }
    file = InitFrom(path=FILE, fresh=NETWORKS[kind][1])
    return dataclasses.replace(
        experiment,
        label=f"{VARIANT}/{experiment.label}",
        method=_method(experiment.method),
        train=_train(experiment, experiment.train),
        stages=experiment.stages and stages,
        init_from={**experiment.init_from, "segmenter": file},
    )


def _train(experiment: Experiment, train: Train) -> Train:
    """Returns a train section with the variant's steps."""
    share = 1 if experiment.benchmark == "smoke" else SHARE_OF_STEPS
    return dataclasses.replace(train, steps=round(share * train.steps))


def _method(section: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a method's section with the network and the rates of the variant."""
    plain, optimiser = section["segmenter"], section["optimiser"]
    kind, _, _ = plain["name"].rpartition("_")
    network = {name: plain[name] for name in KEPT if name in plain}
    network |= {"name": f"{NETWORKS[kind][0]}_{ENCODER}", "input_norm": INPUT_NORM, "bn_mode": "frozen"}
    rates = {
        "learning_rate": ENCODER_RATE * optimiser["learning_rate"],
        "head_multiplier": optimiser["head_multiplier"] / ENCODER_RATE,
    }
    return {**section, "segmenter": network, "optimiser": {**optimiser, **rates}}
