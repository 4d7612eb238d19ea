"""What is known of every packaged setting that follows a paper: the printed figure, the files, the expected work."""

from typing import NamedTuple

from uda_jax import config
from uda_jax.config import Experiment, StageConfig, settings
from uda_jax.data.pipeline.domains import Domain
from uda_jax.report import published
from uda_jax.report.published import Published

# Floating-point operations per pixel of the image in one forward, a multiplication and an addition counted as two:
# `forward_gflop` of benchmarks/results/networks.json, of which a test reminds.
FORWARD_FLOP = {
    "deeplab_v2_resnet101": 1.425e6,
    "deeplab_v2_vgg16": 1.083e6,
    "dada_resnet101": 1.529e6,
    "corda_resnet101": 1.517e6,
    "lenet": 5.889e3,
    "dtn": 5.148e4,
}

# A backward takes twice the operations of its forward.
FORWARDS_PER_STEP = 3


class Setting(NamedTuple):
    """One setting.

    Attributes:
      reference: what `--config` takes.
      printed: the paper's row, None where there is none of the same name.
      weights: files that the run starts from.
      steps: of all stages that train.
      work: floating-point operations of all of them, see `work`; None for a network that is not in `FORWARD_FLOP`.
    """

    reference: str
    printed: Published | None
    weights: tuple[str, ...]
    steps: int
    work: float | None

    def hours(self, rate: float) -> float | None:
        """Returns how long the work takes at so many operations per second."""
        return None if self.work is None else self.work / rate / 3600


def find_all() -> list[Setting]:
    """Returns every packaged setting that follows a paper."""
    return [describe(reference) for reference in settings.published()]


def describe(reference: str) -> Setting:
    """Returns what is known of a setting; reads no file of weights or data."""
    experiment = config.experiment(config.load(reference))
    printed = published.find(experiment.benchmark, label=experiment.label)
    training = _training(experiment)
    files = [experiment.init_from if stage.init_from is None else stage.init_from for stage in training]
    paths = dict.fromkeys(init.path for init_from in files for init in init_from.values() if init.path)
    return Setting(
        reference,
        printed[0] if printed else None,
        tuple(paths),
        sum((stage.train or experiment.train).steps for stage in training),
        work(experiment),
    )


def work(experiment: Experiment) -> float | None:
    """Estimates the floating-point operations of a run from those of its segmenter's forward.

    Every image of every domain is taken to go through it once, forward and backward. Left out are discriminators,
    losses and translators, a mean teacher's forwards, and scoring. Of AdvEnt's step on two frames of 256x512, counted
    as 1.29e12 in PyTorch, that is an eighth.
    """
    total = 0.0
    for stage in _training(experiment):
        section, train = stage.method or experiment.method, stage.train or experiment.train
        # Depth alone has no segmenter.
        flop = FORWARD_FLOP.get((section.get("segmenter") or {}).get("name"))
        areas = [_area(domain) for domain in (stage.data or experiment.data).values()]
        if flop is None or None in areas:
            return None
        total += FORWARDS_PER_STEP * flop * sum(areas) * train.batch_size * train.steps
    return total


def _training(experiment: Experiment) -> list[StageConfig]:
    """Returns the stages that train, the single one of a config without stages included."""
    stages = [experiment.stages[name] for name in experiment.recipe] or [StageConfig()]
    return [stage for stage in stages if stage.kind["name"] == "train"]


def _area(domain: Domain) -> int | None:
    """Returns the pixels of a domain's training images, None where frames keep their own size."""
    size = domain.crop or domain.size
    return size and size[0] * size[1]
