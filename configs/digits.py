"""Digits (IntraDA, CyCADA's setting): source classifier, ADDA, ranking, pseudo-labels, ADDA from easy to hard.

    uda train --config digits:mnist_usps --workdir runs/mnist_usps
    uda train --config digits:usps_mnist,inter --workdir runs/usps_mnist_inter

Settings: mnist_usps, usps_mnist, svhn_mnist, whose files lie in data/digits (see `uda datasets`), and smoke, which
draws its digits. The variants stop earlier or leave something out: `,source_only` the classifier of the source,
`,inter` it and ADDA, `,self_training` no hard images (lambda = 1), so a new classifier on the pseudo-labels of all;
`,oracle` learns the target's labels. Published accuracy, in percent, with CyCADA's translated images, which are not
part of this recipe: 95.8, 97.8 and 95.1; ADDA alone 89.4, 90.1 and 76.0; source only 82.2, 69.6 and 67.1.

The schedules here take minutes on two cores. CyCADA's own are 100 epochs at a rate of 1e-4 for classifiers, 200 epochs
of the smaller set at 1e-5 for ADDA, all of them constant:

    --config.stages.source.train.steps=46875 --config.stages.source.method.optimiser.learning_rate=1e-4
    --config.stages.source.method.schedule.name=constant
    --config.stages.inter.train.steps=11392 --config.stages.inter.method.optimiser.learning_rate=1e-5
    --config.stages.inter.method.discriminator.optimiser.learning_rate=1e-5

(MNIST to USPS, batches of 128.)
"""

import dataclasses
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks

from uda_jax import config
from uda_jax.config import Evaluation, Experiment, StageConfig, Train
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.methods.adda import Adda, ScoreDiscriminator
from uda_jax.methods.base import Segmenter
from uda_jax.methods.source_only import SourceOnly
from uda_jax.runs.kinds.rank import Rank
from uda_jax.runs.stages import WORKDIR
from uda_jax.schema import did_you_mean
from uda_jax.training import optimisers
from uda_jax.training.layout import RunFiles
from uda_jax.training.schedules import Schedule

# Row name and stages of each variant.
VARIANTS = {
    "": ("intra", ("source", "inter", "rank", "easy", "intra")),
    "source_only": ("source_only", ("source",)),
    "inter": ("inter", ("source", "inter")),
    "self_training": ("self_training", ("source", "inter", "rank", "easy")),
    "oracle": ("oracle", ("oracle",)),
}


class Pair(NamedTuple):
    """One adaptation task.

    Attributes:
      source, target: the sets.
      network: for networks.build.
      side: height and width of its input in pixels.
      steps: of each stage that trains.
      margins: black pixels around the pictures of each set, in their own size, from which they are taken to
        `side` + 2 * SHIFT and cropped at random; None = no shifts.
    """

    source: str
    target: str
    network: str
    side: int
    steps: dict[str, int]
    margins: dict[str, int] | None = None


# Training pictures are shifted by up to so many pixels each way, in every stage and row alike.
SHIFT = 2

# 28 of 32 pixels are 16 of 18, as nearly as whole pixels go.
MARGINS = {"mnist": 2, "usps": 1}

STEPS = {"source": 600, "inter": 800, "easy": 600, "intra": 100}

SETTINGS = {
    "mnist_usps": Pair("mnist", "usps", "lenet", 28, STEPS, MARGINS),
    "usps_mnist": Pair("usps", "mnist", "lenet", 28, STEPS, MARGINS),
    "mnist_usps_unshifted": Pair("mnist", "usps", "lenet", 28, STEPS),
    "usps_mnist_unshifted": Pair("usps", "mnist", "lenet", 28, STEPS),
    "svhn_mnist": Pair("svhn", "mnist", "dtn", 32, STEPS),
    "smoke": Pair("segments", "faded", "lenet", 28, dict.fromkeys(STEPS, 4)),
}

# IntraDA's lambda for digits.
EASY = 0.8

CLASSIFIER_RATE = 1e-3
ADDA_RATES = {"inter": 1e-4, "intra": 1e-5}
DISCRIMINATOR_RATE = 1e-4

# Images of the target's training split whose labels choose hyper-parameters; no training sees these labels, and nothing
# is tuned on the test split.
DEV_IMAGES = 5000


def get_config(setting: str = "mnist_usps") -> ConfigDict:
    """Returns the config of a pair of sets, optionally followed by one of the variants."""
    name, (row, recipe) = benchmarks.parse(setting, VARIANTS)
    if name not in SETTINGS:
        raise UserError(f"--config: unknown setting '{name}'{did_you_mean(name, SETTINGS)}")
    pair = SETTINGS[name]
    experiment = Experiment(
        label=f"{name}/{row}",
        benchmark="smoke" if name == "smoke" else "digits",
        data={"source": _shifted(pair, "source"), "target": _shifted(pair, "target", fields=benchmarks.IMAGE_ONLY)},
        train=_train(pair, recipe[-1]),
        evaluation=_evaluation(pair),
    )
    if row == "oracle":
        experiment = dataclasses.replace(experiment, data={"labelled_target": _shifted(pair, "target")})
    else:
        stages = _stages(pair, experiment, easy=1.0 if row == "self_training" else EASY)
        experiment = dataclasses.replace(
            experiment,
            recipe=recipe,
            stages={stage: stages[stage] for stage in recipe},
        )
    return config.with_method(experiment, *_method(pair, recipe[-1]))


def _stages(pair: Pair, experiment: Experiment, easy: float) -> dict[str, StageConfig]:
    """Returns every stage; the ranking calls the share `easy` of the frames easy. Those that adapt see no labels."""
    files = RunFiles(WORKDIR).stage("rank")
    source, target = experiment.data["source"], experiment.data["target"]
    easier = dataclasses.replace(target, names_file=str(files.easy))
    labelled = dataclasses.replace(easier, fields=("image", "label"), labels_from=str(files.pseudo_labels))
    harder = dataclasses.replace(target, names_file=str(files.hard))
    unlabelled = dataclasses.replace(source, fields=benchmarks.IMAGE_ONLY)
    whole = _domain(pair, "target", fields=benchmarks.IMAGE_ONLY)

    def stage_config(stage: str, data: dict[str, Domain], start: str | None = None) -> StageConfig:
        name, method = _method(pair, stage)
        section = config.with_method(experiment, name, method).method
        start_from = start and {"segmenter": start, "source_segmenter": f"{start}.segmenter"}
        return StageConfig(method=section, data=data, train=_train(pair, stage), start_from=start_from)

    return {
        "source": stage_config("source", {"source": source}),
        "inter": stage_config("inter", {"source": unlabelled, "target": target}, "source"),
        "rank": StageConfig(
            kind=config.named("rank", Rank(fraction=easy, batch_size=500)),
            data={"target": whole},
            start_from={"segmenter": "inter"},
        ),
        "easy": stage_config("easy", {"source": labelled}),
        "intra": stage_config("intra", {"source": easier, "target": harder}, "easy"),
    }


def _domain(pair: Pair, which: str, split: str = "train", **fields: Any) -> Domain:
    options = {"which": getattr(pair, which)}
    return Domain(
        dataset="digits",
        root=None if pair is SETTINGS["smoke"] else "data/digits",
        split=split,
        label_space="own",
        options=options | {"limit": 40} if pair is SETTINGS["smoke"] else options,
        size=(pair.side, pair.side),
        image_resampling="bilinear",
        **fields,
    )


def _shifted(pair: Pair, which: str, **fields: Any) -> Domain:
    """Returns a training domain, which shifts its pictures where the pair asks for it."""
    domain = _domain(pair, which, **fields)
    if pair.margins is None:
        return domain
    options, side = domain.options | {"margin": pair.margins[domain.options["which"]]}, pair.side + 2 * SHIFT
    return dataclasses.replace(domain, options=options, size=(side, side), crop=domain.size)


def _train(pair: Pair, stage: str) -> Train:
    tiny = pair is SETTINGS["smoke"]
    steps = pair.steps["source" if stage == "oracle" else stage]
    if tiny:
        return Train(steps=steps, batch_size=8, log_every=2, evaluate_every=2, checkpoint_every=2)
    return Train(steps=steps, batch_size=128, log_every=100, checkpoint_every=500)


def _evaluation(pair: Pair) -> Evaluation:
    final = _domain(pair, "target", "test")
    if pair is SETTINGS["smoke"]:
        return Evaluation(final, _domain(pair, "target"), batch_size=8, protocol="accuracy", pictures=2)
    return Evaluation(final, _domain(pair, "target", count=DEV_IMAGES), batch_size=500, protocol="accuracy")


def _method(pair: Pair, stage: str) -> tuple[str, SourceOnly | Adda]:
    """Returns the name and the section of the method of a stage that trains."""
    segmenter = Segmenter(name=pair.network, input_norm="tanh")
    if stage in ADDA_RATES:
        adam, discriminator = (
            optimisers.adam(learning_rate=rate, beta2=0.999) for rate in (ADDA_RATES[stage], DISCRIMINATOR_RATE)
        )
        return "adda", Adda(
            segmenter=segmenter, optimiser=adam, discriminator=ScoreDiscriminator(optimiser=discriminator)
        )
    adam = optimisers.adam(learning_rate=CLASSIFIER_RATE, beta2=0.999)
    return "source_only", SourceOnly(segmenter=segmenter, optimiser=adam, schedule=Schedule(horizon=None))
