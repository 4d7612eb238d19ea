"""Digits (IntraDA, CyCADA's setting): source classifier, ADDA, ranking, pseudo-labels, ADDA from easy to hard.

    uda train --config digits:mnist_usps --workdir runs/mnist_usps
    uda train --config digits:mnist_usps,long --workdir runs/mnist_usps_long

Settings: mnist_usps, usps_mnist, svhn_mnist, whose files lie in data/digits (see `uda datasets`), and smoke, which
draws its digits. The variants stop earlier or leave something out: `,source_only` the classifier of the source,
`,inter` it and ADDA, `,self_training` no hard images (lambda = 1), so a new classifier on the pseudo-labels of all;
`,oracle` learns the target's labels.

`,long` puts CyCADA's pixel stage first, as IntraDA does: the source is translated into the target's look, and what
follows learns from translated images. No picture is shifted then, as published. It stops earlier as `,long,pixel` (the
classifier of translated images), `,long,cycada` (that and ADDA) and `,long,easy` (a new classifier on the easy images'
pseudo-labels). Published accuracy, in percent, for the three pairs: source only 82.2, 69.6 and 67.1; ADDA alone 89.4,
90.1 and 76.0; CyCADA 95.6, 96.5 and 90.4; IntraDA 95.8, 97.8 and 95.1.

The schedules here take minutes on two cores, and so do the pixel stage's networks. CyCADA's own are 100 epochs at a
rate of 1e-4 for classifiers, 200 epochs of the smaller set at 1e-5 for ADDA, all of them constant:

    --config.stages.source.train.steps=46875 --config.stages.source.method.optimiser.learning_rate=1e-4
    --config.stages.source.method.schedule.name=constant
    --config.stages.inter.train.steps=11392 --config.stages.inter.method.optimiser.learning_rate=1e-5
    --config.stages.inter.method.discriminator.optimiser.learning_rate=1e-5

(MNIST to USPS, batches of 128.) Its translators, whose settings are known for SVHN to MNIST alone, are CycleGAN's:
width 64, 9 blocks, discriminators of width 64, all at 2e-4, on batches of 100.
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
from uda_jax.methods.cycada import Cycada
from uda_jax.methods.parts.alignment import Discriminator
from uda_jax.methods.parts.translation import Translator
from uda_jax.methods.source_only import SourceOnly
from uda_jax.runs.kinds.rank import Rank
from uda_jax.runs.kinds.translate import Translate
from uda_jax.runs.late_files import WORKDIR
from uda_jax.schema import did_you_mean
from uda_jax.training import optimisers
from uda_jax.training.layout import RunFiles
from uda_jax.training.schedules import Schedule


class Row(NamedTuple):
    """One row of the tables: its name, its stages, and whether they take the long schedules."""

    label: str
    recipe: tuple[str, ...]
    long: bool = False


# How a recipe with CyCADA's pixel stage begins, and how IntraDA goes on.
TRANSLATED = ("pixel", "translate", "source")
INTRA = ("rank", "easy", "intra")

VARIANTS = {
    "": Row("intra", ("source", "inter", *INTRA)),
    "source_only": Row("source_only", ("source",)),
    "inter": Row("inter", ("source", "inter")),
    "self_training": Row("self_training", ("source", "inter", "rank", "easy")),
    "oracle": Row("oracle", ("oracle",)),
    "long": Row("intra", (*TRANSLATED, "inter", *INTRA), long=True),
    "long,pixel": Row("pixel", TRANSLATED, long=True),
    "long,cycada": Row("cycada", (*TRANSLATED, "inter"), long=True),
    "long,easy": Row("easy", (*TRANSLATED, "inter", "rank", "easy"), long=True),
}


class Pair(NamedTuple):
    """One adaptation task.

    Attributes:
      source, target: the sets.
      network: for networks.build.
      side: height and width of its input in pixels.
      steps: of each stage that trains, of short schedules.
      margins: black pixels around the pictures of each set, in their own size, from which they are taken to
        `side` + 2 * SHIFT and cropped at random; None = no shifts.
    """

    source: str
    target: str
    network: str
    side: int
    steps: dict[str, int]
    margins: dict[str, int] | None = None


# Training pictures are shifted by up to so many pixels each way, in every stage and row without translated images.
SHIFT = 2

# 28 of 32 pixels are 16 of 18, as nearly as whole pixels go.
MARGINS = {"mnist": 2, "usps": 1}

LONG_STEPS = {"pixel": 400, "source": 600, "inter": 600, "easy": 600, "intra": 100}
STEPS = LONG_STEPS | {"source": 600, "inter": 800, "easy": 600, "intra": 100}

SETTINGS = {
    "mnist_usps": Pair("mnist", "usps", "lenet", 28, STEPS, MARGINS),
    "usps_mnist": Pair("usps", "mnist", "lenet", 28, STEPS, MARGINS),
    "mnist_usps_unshifted": Pair("mnist", "usps", "lenet", 28, STEPS),
    "usps_mnist_unshifted": Pair("usps", "mnist", "lenet", 28, STEPS),
    "svhn_mnist": Pair("svhn", "mnist", "dtn", 32, STEPS),
    "smoke": Pair("segments", "faded", "lenet", 28, dict.fromkeys(LONG_STEPS, 4)),
}

# IntraDA's lambda for digits.
EASY = 0.8

# CyCADA's translators have a width of 64, 9 blocks and a rate of 2e-4, for which this takes too few steps.
PIXEL_BATCH = 32
PIXEL_ADAM = optimisers.adam(learning_rate=1e-3, beta1=0.5, beta2=0.999)
TRANSLATOR = Translator(width=8, blocks=2, optimiser=PIXEL_ADAM)
IMAGE_DISCRIMINATOR = Discriminator(width=16, kind="least_squares", optimiser=PIXEL_ADAM)

CLASSIFIER_RATE = 1e-3
ADDA_RATES = {"inter": 1e-4, "intra": 1e-5}
DISCRIMINATOR_RATE = 1e-4

# Images of the target's training split whose labels choose hyper-parameters; no training sees these labels, and nothing
# is tuned on the test split.
DEV_IMAGES = 5000


def get_config(setting: str = "mnist_usps") -> ConfigDict:
    """Returns the config of a pair of sets, optionally followed by one of the variants."""
    name, row = benchmarks.parse(setting, VARIANTS)
    if name not in SETTINGS:
        raise UserError(f"--config: unknown setting '{name}'{did_you_mean(name, SETTINGS)}")
    pair = SETTINGS[name]
    if row.long and name != "smoke":
        pair = pair._replace(steps=LONG_STEPS, margins=None)
    experiment = Experiment(
        label=f"{name}/{row.label}",
        benchmark="smoke" if name == "smoke" else "digits",
        data={"source": _shifted(pair, "source"), "target": _shifted(pair, "target", fields=benchmarks.IMAGE_ONLY)},
        train=_train(pair, row.recipe[-1]),
        evaluation=_evaluation(pair),
    )
    if row.label == "oracle":
        experiment = dataclasses.replace(experiment, data={"labelled_target": _shifted(pair, "target")})
    else:
        stages = _stages(pair, experiment, row)
        experiment = dataclasses.replace(
            experiment,
            recipe=row.recipe,
            stages={stage: stages[stage] for stage in row.recipe},
        )
    return config.with_method(experiment, *_method(pair, row.recipe[-1]))


def _stages(pair: Pair, experiment: Experiment, row: Row) -> dict[str, StageConfig]:
    """Returns every stage that a row may have. Those that adapt see no labels of the target."""
    source, target = experiment.data["source"], experiment.data["target"]
    unlabelled = dataclasses.replace(source, fields=benchmarks.IMAGE_ONLY)
    pictures = {}
    if "translate" in row.recipe:
        pictures = {"images_from": str(RunFiles(WORKDIR).stage("translate").translated)}
    learnt, matched = (dataclasses.replace(domain, **pictures) for domain in (source, unlabelled))
    files = RunFiles(WORKDIR).stage("rank")
    easier = dataclasses.replace(target, names_file=str(files.easy))
    labelled = dataclasses.replace(easier, fields=("image", "label"), labels_from=str(files.pseudo_labels))
    harder = dataclasses.replace(target, names_file=str(files.hard))
    whole = _domain(pair, "target", fields=benchmarks.IMAGE_ONLY)

    def stage_config(stage: str, data: dict[str, Domain], start: str | None = None) -> StageConfig:
        name, method = _method(pair, stage)
        section = config.with_method(experiment, name, method).method
        start_from = start and {"segmenter": start, "source_segmenter": f"{start}.segmenter"}
        return StageConfig(method=section, data=data, train=_train(pair, stage), start_from=start_from)

    return {
        "pixel": stage_config("pixel", {"source": source, "target": target}),
        "translate": StageConfig(
            kind=config.named("translate", Translate(batch_size=500)),
            data={"source": unlabelled},
            start_from={"translator": "pixel"},
        ),
        "source": stage_config("source", {"source": learnt}),
        "inter": stage_config("inter", {"source": matched, "target": target}, "source"),
        "rank": StageConfig(
            kind=config.named("rank", Rank(fraction=1.0 if row.label == "self_training" else EASY, batch_size=500)),
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
    return Train(steps=steps, batch_size=PIXEL_BATCH if stage == "pixel" else 128, log_every=100, checkpoint_every=500)


def _evaluation(pair: Pair) -> Evaluation:
    final = _domain(pair, "target", "test")
    if pair is SETTINGS["smoke"]:
        return Evaluation(final, _domain(pair, "target"), batch_size=8, protocol="accuracy", pictures=2)
    return Evaluation(final, _domain(pair, "target", count=DEV_IMAGES), batch_size=500, protocol="accuracy")


def _method(pair: Pair, stage: str) -> tuple[str, Any]:
    """Returns the name and the section of the method of a stage that trains."""
    # LeNet's digits are grey, DTN's coloured.
    grey = {"grey": True} if pair.network == "lenet" else {}
    segmenter = Segmenter(name=pair.network, input_norm="tanh", **grey)
    if stage == "pixel":
        return "cycada", _pixel_method(pair, segmenter)
    if stage in ADDA_RATES:
        adam, discriminator = (
            optimisers.adam(learning_rate=rate, beta2=0.999) for rate in (ADDA_RATES[stage], DISCRIMINATOR_RATE)
        )
        return "adda", Adda(
            segmenter=segmenter, optimiser=adam, discriminator=ScoreDiscriminator(optimiser=discriminator)
        )
    adam = optimisers.adam(learning_rate=CLASSIFIER_RATE, beta2=0.999)
    return "source_only", SourceOnly(segmenter=segmenter, optimiser=adam, schedule=Schedule(horizon=None))


def _pixel_method(pair: Pair, classifier: Segmenter) -> Cycada:
    translator, discriminator = dataclasses.replace(TRANSLATOR, grey=pair.network == "lenet"), IMAGE_DISCRIMINATOR
    if pair is SETTINGS["smoke"]:
        translator = dataclasses.replace(translator, name="refiner", width=4, blocks=1)
        discriminator = dataclasses.replace(discriminator, width=4)
    return Cycada(
        segmenter=classifier,
        translator=translator,
        image_discriminator=discriminator,
        schedule=Schedule(name="constant_linear", horizon=None),
    )
