"""IntraDA (Pan et al., CVPR 2020): inter-domain training, ranking of the target, intra-domain training.

    uda train --config intrada:streets --workdir runs/intrada
    uda train --config intrada:streets,adaptsegnet --workdir runs/half --config.stages.rank.kind.fraction=0.5

Settings: streets, smoke, camvid_day2dusk, folder, gta5_cityscapes, synthia_cityscapes, synscapes_cityscapes, as far as
the first stage has them. The variant names that stage, AdvEnt where there is none: minent, adaptsegnet, ass, plca,
dacs, dacs_plca, corda, dada, gio_ada or source_only; the last stage trains the same network on, and needs no depth.
`,from_inter` starts the last stage from the first one's network where the released code starts from ImageNet again;
without weights to start from, every setting does. lambda is `--config.stages.rank.kind.fraction`, the rare-class
factor on the score `--config.stages.rank.kind.normalise=True`.

On the papers' benchmarks the settings hold the released code's values, published 46.3 mIoU on GTA5 -> Cityscapes (47.0
with the factor) and 54.2 on Synscapes -> Cityscapes, where both stages are AdaptSegNet's.
"""

import dataclasses
import importlib

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks

from uda_jax import config
from uda_jax.config import Experiment, InitFrom, StageConfig
from uda_jax.methods.base import Segmenter
from uda_jax.methods.intrada import IntraDA
from uda_jax.runs.kinds.rank import Rank
from uda_jax.runs.stages import WORKDIR
from uda_jax.schema import from_mapping
from uda_jax.training.layout import RunFiles
from uda_jax.training.optimisers import Optimiser

# Per variant: config and variant of the first stage, and whether the last stage starts from its network.
VARIANTS = {
    "": ("advent", "", False),
    "from_inter": ("advent", "", True),
    "minent": ("advent", "minent", False),
    "adaptsegnet": ("adaptsegnet", "", False),
    "ass": ("ass", "", False),
    "source_only": ("source_only", "", False),
    **{name: (name, "", False) for name in ("plca", "dacs", "dacs_plca", "corda", "dada", "gio_ada")},
}

# Steps of the first stage in the paper; its last stage trains for the benchmark's own 120000.
PUBLISHED_INTER_STEPS = 70_000

# Elsewhere the three stages together may take as many steps as any other method: this share of them is the last's.
# Found on streets' dev split (seed 0): after 667 steps of AdvEnt (13.3 mIoU) the last stage falls to 12.4 in 333 steps,
# at a tenth of the rate to 12.3, with the rare-class factor to 12.2, but rises to 15.7 at a rate of nearly 0. So what
# gains are batch statistics of the target alone, and the pseudo-labels, made with those of both domains, undo it. Made
# with the target's statistics, and learnt at a tenth of the rate, they lead to 14.8.
INTRA_SHARE = 1 / 5
SCRATCH_RANK = Rank(statistics="target")
SCRATCH_INTRA_RATE = 0.02


def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by one of the variants."""
    benchmark, (name, variant, from_inter) = benchmarks.parse(setting, VARIANTS)
    label = "/".join(filter(None, ("intrada", setting.partition(",")[2])))
    published = networks.published(benchmark)
    if benchmark == "synscapes_cityscapes" and (name, variant) == ("advent", ""):
        name = "adaptsegnet"
    if benchmark == "synthia_cityscapes" and name == "advent":
        # The paper has two heads everywhere.
        variant = f"{variant}_two_heads".lstrip("_")
    inter = config.experiment(config.load(f"{name}:{benchmark}{',' if variant else ''}{variant}"))
    experiment = benchmarks.get(benchmark, label, ("source", "target"))
    steps = experiment.train.steps if published else max(1, round(INTRA_SHARE * experiment.train.steps))
    inter_steps = PUBLISHED_INTER_STEPS if published else experiment.train.steps - steps
    intra = dataclasses.replace(experiment.train, steps=steps)
    first_weights = _first_weights(inter)
    start_from = {"segmenter": "inter"} if from_inter or not published else None
    experiment = dataclasses.replace(
        experiment,
        train=intra,
        init_from=first_weights,
        recipe=("inter", "rank", "intra"),
        stages={
            "inter": StageConfig(
                method=inter.method,
                data=inter.data,
                train=dataclasses.replace(inter.train, steps=inter_steps),
                init_from=None if inter.init_from == first_weights else inter.init_from,
            ),
            "rank": StageConfig(
                kind=config.named("rank", Rank() if published else SCRATCH_RANK), start_from={"segmenter": "inter"}
            ),
            "intra": StageConfig(data=_easy_and_hard(experiment), start_from=start_from),
        },
    )
    return config.with_method(experiment, "intrada", _method(benchmark, steps, inter))


def _first_weights(inter: Experiment) -> dict[str, InitFrom]:
    """Returns the first stage's files of weights for the last one, whose GIO-Ada network predicts no depth."""
    init = inter.init_from["segmenter"]
    if inter.method["name"] == "gio_ada":
        init = dataclasses.replace(init, fresh=tuple(part for part in init.fresh if part != "depth_head"))
    return {"segmenter": init}


def _easy_and_hard(experiment: Experiment) -> dict:
    """Returns the domains of the last stage, from the lists that the ranking writes."""
    target, rank = experiment.data["target"], RunFiles(WORKDIR).stage("rank")
    labels = {"fields": ("image", "label"), "labels_from": str(rank.pseudo_labels)}
    return {
        "source": dataclasses.replace(target, names_file=str(rank.easy), **labels),
        "target": dataclasses.replace(target, names_file=str(rank.hard)),
    }


def _method(benchmark: str, steps: int, inter: Experiment) -> IntraDA:
    """Returns the last stage's method, on the network of the first one."""
    method = IntraDA(
        segmenter=from_mapping(Segmenter, inter.method["segmenter"]),
        optimiser=from_mapping(Optimiser, inter.method["optimiser"]),
        schedule=networks.schedule(benchmark, steps),
        discriminator=networks.discriminator(benchmark),
        discriminator_input="probabilities" if inter.method["name"] == "adaptsegnet" else "self_information",
    )
    if networks.published(benchmark):
        return method
    gentle = dataclasses.replace(method.optimiser, learning_rate=SCRATCH_INTRA_RATE)
    return dataclasses.replace(method, target_weight=networks.SCRATCH_ADVERSARIAL_WEIGHT, optimiser=gentle)


def settings_of(variant: str) -> list[str]:
    """Returns the settings that a variant has: those that its first stage has."""
    first = importlib.import_module(f"uda_jax.configs.{VARIANTS[variant][0]}")
    return [setting for setting in benchmarks.SETTINGS if setting in getattr(first, "SETTINGS", benchmarks.SETTINGS)]
