"""IntraDA (Pan et al., CVPR 2020): inter-domain training, ranking of the target, intra-domain training.

    uda train --config intrada:streets --workdir runs/intrada
    uda train --config intrada:streets,adaptsegnet --workdir runs/half --config.stages.rank.kind.fraction=0.5

Settings: streets, smoke, streets_camvid, streets_idd, camvid_day2dusk, folder, gta5_cityscapes, synthia_cityscapes,
synscapes_cityscapes, as far as the first stage has them, and gta5_cityscapes_mapillary_bdd. The variant names that
stage, AdvEnt where there is none: minent, adaptsegnet, ass, plca, dacs, dacs_plca, corda, dada, gio_ada or source_only;
the last stage trains the same network on, and needs no depth. Further ones: `,pretrained` has the network on ImageNet's
EfficientNet-Lite0.

    ,from_inter         the last stage starts from the first one's network, where the released code starts from ImageNet
                        again; without weights to start from, every setting does
    ,no_pseudo_labels   ablation: the last stage adapts easy to hard without learning the easy frames' pseudo-labels. It
                        starts from the first one's network, since nothing else would teach it classes [inferred]
    ,from_weights       no first stage: a published network ranks, on GTA5 ADVENT's gta2cityscapes_advent.pth. Elsewhere
                        name a file or the folder of a run, --config.stages.rank.init_from.segmenter.path=..., and where
                        the last stage shall start from it, too, --config.init_from.segmenter.path=...
    ,translated         on GTA5 and SYNTHIA: the source's images are those that a CycleGAN has translated, in a folder
                        of your own, --config.stages.inter.data.source.images_from=...

lambda is `--config.stages.rank.kind.fraction`, the rare-class factor on the score
`--config.stages.rank.kind.normalise=True`.

On the papers' benchmarks the settings hold the released code's values, published 46.3 mIoU on GTA5 -> Cityscapes (47.0
with the factor, 45.1 without pseudo-labels) and 54.2 on Synscapes -> Cityscapes, where both stages are AdaptSegNet's.

gta5_cityscapes_mapillary_bdd adapts to three targets at once, whose frames are drawn as if they were one set. How the
figure of 45.1 that goes with it was made is not known; the choices here are ours: each target is ranked by itself, so
that its share of easy frames is lambda and none is left out (stages rank_cityscapes, rank_mapillary, rank_bdd100k); all
frames are stretched to 1024x512; each split is scored at the size of its own labels; and the row "joint" is the mean of
the three, as papers on several targets have it (`--config.evaluation.joint=pixels`: one confusion matrix).
"""

import dataclasses
import importlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks, pretrained, translated

from uda_jax import config
from uda_jax.config import Experiment, InitFrom, StageConfig
from uda_jax.data.datasets import bdd100k, cityscapes, mapillary
from uda_jax.data.pipeline.domains import Domain
from uda_jax.methods.base import Segmenter
from uda_jax.methods.intrada import IntraDA
from uda_jax.runs.kinds.rank import Rank
from uda_jax.runs.late_files import WORKDIR
from uda_jax.schema import from_mapping
from uda_jax.training.layout import RunFiles
from uda_jax.training.optimisers import Optimiser


class Recipe(NamedTuple):
    """A variant: config and variant of its first stage, and what differs from the paper's recipe.

    Attributes:
      inter, variant: the first stage's.
      from_inter: whether the last stage starts from its network.
      from_weights: whether a file of weights takes its place.
      easy_weight: of the pseudo-labels in the last stage.
      translated: whether the source's images come from another folder.
    """

    inter: str = "advent"
    variant: str = ""
    from_inter: bool = False
    from_weights: bool = False
    easy_weight: float = 1.0
    translated: bool = False


VARIANTS = pretrained.added(
    {
        "": Recipe(),
        "from_inter": Recipe(from_inter=True),
        "no_pseudo_labels": Recipe(from_inter=True, easy_weight=0.0),
        "from_weights": Recipe(from_weights=True),
        "translated": Recipe(translated=True),
        "minent": Recipe(variant="minent"),
        **{
            name: Recipe(name)
            for name in ("adaptsegnet", "ass", "source_only", "plca", "dacs", "dacs_plca", "corda", "dada", "gio_ada")
        },
    }
)

# Frames of each target that join Cityscapes, and its own: the share of each in a mixture. Their sum is one set.
SEVERAL_TARGETS = "gta5_cityscapes_mapillary_bdd"
SETTINGS = (*benchmarks.SETTINGS, SEVERAL_TARGETS)
TARGETS = {"cityscapes": cityscapes.COUNTS, "mapillary": mapillary.COUNTS, "bdd100k": bdd100k.COUNTS}

# ADVENT's released network; the other benchmarks have no public one.
PUBLISHED_INTER = {"gta5_cityscapes": "weights/gta2cityscapes_advent.pth"}

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


@pretrained.offered
def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by one of the variants."""
    name = setting.partition(",")[0]
    base = "gta5_cityscapes" if name == SEVERAL_TARGETS else name
    _, recipe = benchmarks.parse(setting, VARIANTS)
    published = networks.published(base)
    if base == "synscapes_cityscapes" and (recipe.inter, recipe.variant) == ("advent", ""):
        recipe = recipe._replace(inter="adaptsegnet")
    if base == "synthia_cityscapes" and recipe.inter == "advent":
        # The paper has two heads everywhere.
        recipe = recipe._replace(variant=f"{recipe.variant}_two_heads".lstrip("_"))
    variant = f",{recipe.variant}" if recipe.variant else ""
    inter = config.experiment(config.load(f"{recipe.inter}:{base}{variant}"))
    label = "/".join(filter(None, ("intrada", setting.partition(",")[2])))
    experiment = benchmarks.get(base, label, ("source", "target"))
    if recipe.translated:
        inter = translated.with_translated_source(inter)
    if name == SEVERAL_TARGETS:
        inter, experiment = _several_targets(inter), _several_targets(experiment)
    steps = experiment.train.steps if published else max(1, round(INTRA_SHARE * experiment.train.steps))
    inter_steps = PUBLISHED_INTER_STEPS if published else experiment.train.steps - steps
    start_from = {"segmenter": "inter"} if (recipe.from_inter or not published) and not recipe.from_weights else None
    first_weights = {"segmenter": inter.init_from["segmenter"]}
    stages = _ranking(base, experiment.data["target"], inter, recipe) | {
        "intra": StageConfig(data=_easy_and_hard(experiment), start_from=start_from)
    }
    if not recipe.from_weights:
        first = StageConfig(
            method=inter.method,
            data=inter.data,
            train=dataclasses.replace(inter.train, steps=inter_steps),
            init_from=None if inter.init_from == first_weights else inter.init_from,
        )
        stages = {"inter": first} | stages
    experiment = dataclasses.replace(
        experiment,
        train=dataclasses.replace(experiment.train, steps=steps),
        init_from=first_weights,
        recipe=tuple(stages),
        stages=stages,
    )
    method = dataclasses.replace(_method(base, steps, inter), easy_weight=recipe.easy_weight)
    return config.with_method(experiment, "intrada", method)


def _several_targets(experiment: Experiment) -> Experiment:
    """Returns the experiment with two further data sets in its target, and scored on each of the three."""
    data, final = experiment.data, experiment.evaluation.final

    def of(domain: Domain, name: str, split: str, **fields: Any) -> Domain:
        own = {} if name == "cityscapes" else {"dataset": name, "root": f"data/{name}", "options": None}
        return dataclasses.replace(domain, **own, weight=float(TARGETS[name][split]), **fields)

    # A first stage without adaptation has no target.
    if "target" in data:
        mixed = {name: of(data["target"], name, "train") for name in TARGETS}
        data = data | {"target": dataclasses.replace(mixed.pop("cityscapes"), mix=mixed)}
    splits = {name: dataclasses.replace(of(final, name, "val"), weight=1.0) for name in TARGETS}
    return dataclasses.replace(
        experiment,
        benchmark=SEVERAL_TARGETS,
        data=data,
        evaluation=dataclasses.replace(experiment.evaluation, final=splits, joint="mean"),
    )


def _parts(target: Domain) -> dict[str, Domain]:
    """Returns the data sets of the target by the names of the stages that rank them."""
    if not target.mix:
        return {"rank": target}
    members = {target.dataset: dataclasses.replace(target, mix=None)} | target.mix
    return {f"rank_{name}": domain for name, domain in members.items()}


def _ranking(base: str, target: Domain, inter: Experiment, recipe: Recipe) -> dict[str, StageConfig]:
    """Returns the stages that rank the target, each of its data sets by itself."""
    section = {"kind": config.named("rank", Rank() if networks.published(base) else SCRATCH_RANK)}
    if recipe.from_weights:
        section |= {"method": inter.method, "init_from": {"segmenter": InitFrom(path=PUBLISHED_INTER.get(base))}}
    else:
        section["start_from"] = {"segmenter": "inter"}
    parts = _parts(target)
    if len(parts) == 1:
        return {name: StageConfig(**section) for name in parts}
    return {name: StageConfig(**section, data={"target": domain}) for name, domain in parts.items()}


def _easy_and_hard(experiment: Experiment) -> dict[str, Domain]:
    """Returns the domains of the last stage, from the lists that the rankings write."""
    found: dict[str, list[Domain]] = {"source": [], "target": []}
    for stage, domain in _parts(experiment.data["target"]).items():
        rank = RunFiles(WORKDIR).stage(stage)
        labels = {"fields": ("image", "label"), "labels_from": str(rank.pseudo_labels)}
        found["source"].append(dataclasses.replace(domain, names_file=str(rank.easy), **labels))
        found["target"].append(dataclasses.replace(domain, names_file=str(rank.hard)))
    return {
        name: dataclasses.replace(first, mix={other.dataset: other for other in others} or None)
        for name, (first, *others) in found.items()
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
    recipe = VARIANTS[variant]
    if recipe.translated:
        return [*translated.FOLDERS, SEVERAL_TARGETS]
    first = importlib.import_module(f"uda_jax.configs.{recipe.inter}")
    theirs = getattr(first, "SETTINGS", benchmarks.SETTINGS)
    # Several targets are a setting of this file's own.
    return [name for name in SETTINGS if name in theirs or (name == SEVERAL_TARGETS and "gta5_cityscapes" in theirs)]
