"""CorDA (Wang et al., ICCV 2021): DACS with depth as a second task and as a measure of difficulty.

    uda train --config corda:streets --workdir runs/corda
    uda train --config corda:streets,exact_depth --workdir runs/corda_exact
    uda train --config corda:streets,self_supervised --workdir runs/corda_from_pairs
    uda train --config corda:synthia_cityscapes --workdir runs/corda_synthia

Settings: streets, smoke, folder, gta5_cityscapes, synthia_cityscapes, whose frames have depth. The depth of streets'
camera comes from block matching on a stereo pair, with `,exact_depth` from the renderer, for comparison; the other
settings but smoke have one kind of depth, which the variant leaves as it is. `,pretrained` has the network on
ImageNet's EfficientNet-Lite0.

`,self_supervised`, of streets, smoke, folder and gta5_cityscapes, needs no depth: networks learn that of either domain
from pairs or video first, as `self_supervised_depth` does (its page says what files that takes), and draw maps of all
frames, which CorDA then learns. Its stages are source_depth, target_depth, source_maps, target_maps and adapt.

Rows of the paper's ablation, of the network and of the weights: `,no_attention`, whose tasks exchange nothing and
predict once; `,simple_auxiliary`, depth as a plain second task, one head for both domains and no weights of difficulty;
`,no_depth_weight`, the whole network without those weights. What the paper printed for them is not known.

On GTA5 and SYNTHIA the settings hold the released code's values, published 56.6 and 55.0 (16 classes) mIoU, and need
its depth files (see `uda_jax/data/datasets`) and weights/resnet101COCO-41f33a49.pth. Its weights of difficulty are, by
accident, averages over the images of a batch. They are so in these settings; the others have each image's own, as the
paper says. `,reference_weights` and `,image_weights` choose one form of weights everywhere.
"""

import dataclasses
from typing import NamedTuple

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, depth, networks, pretrained

from uda_jax.config import Experiment, StageConfig, named, with_method
from uda_jax.configs import dacs
from uda_jax.errors import UserError
from uda_jax.methods.base import Segmenter
from uda_jax.methods.corda import CorDA
from uda_jax.methods.parts.scene import DISPARITY
from uda_jax.methods.parts.teacher import MeanTeacher
from uda_jax.runs.kinds.export_depth import ExportDepth
from uda_jax.runs.late_files import WORKDIR
from uda_jax.schema import did_you_mean
from uda_jax.training.layout import RunFiles


class Row(NamedTuple):
    """A variant.

    Attributes:
      label: the row's name.
      exact: whether streets' camera has the renderer's depth.
      weights: the form of the weights of difficulty; None: that of the released code where it published scores, else
        the paper's.
      structure: of the network.
      self_supervised: whether depth is learnt first.
    """

    label: str
    exact: bool = False
    weights: str | None = None
    structure: str = "correlated"
    self_supervised: bool = False


VARIANTS = pretrained.added(
    {
        "": Row("corda"),
        "exact_depth": Row("corda/exact_depth", exact=True),
        "reference_weights": Row("corda/reference_weights", weights="reference"),
        "image_weights": Row("corda/image_weights", weights="per_image"),
        "no_attention": Row("corda/no_attention", structure="uncorrelated"),
        "simple_auxiliary": Row("corda/simple_auxiliary", weights="none", structure="multi_task"),
        "no_depth_weight": Row("corda/no_depth_weight", weights="none"),
        "self_supervised": Row("corda/self_supervised", self_supervised=True),
    }
)

SETTINGS = ("streets", "smoke", "folder", "gta5_cityscapes", "synthia_cityscapes")

# What the file of weights lacks: all but the encoder.
FRESH = ("segmentation_features", "depth_features", "correlation", "head", "depth_head", "source_depth_head")
REFERENCE_WEIGHTS = dataclasses.replace(
    dacs.REFERENCE_WEIGHTS, fresh=(*FRESH, "aux_head", "aux_depth_head", "aux_source_depth_head")
)
# Of them, what the ablations' networks have.
FRESH_OF = {
    "correlated": REFERENCE_WEIGHTS.fresh,
    "uncorrelated": tuple(part for part in FRESH if part != "correlation"),
    "multi_task": ("head", "depth_head"),
}

# "To stabilise" GTA5, the released code takes its first pseudo-labels, up to and with step 25000, from the classifier
# that sees the encoder alone.
GTA5_INITIAL_STEPS = 25_001

# From scratch, in place of the paper's 0.999, with which a teacher of a thousand steps is the mean of all its students.
SCRATCH_ALPHA = 0.99

# From scratch, targets of depth are 1 at about ten metres, and their losses weigh ten times the paper's.
SCRATCH_DEPTH_UNIT = 64.0
# Of depth that a network has drawn, likewise on streets: 256 times a disparity of 0.23, and one more.
SCRATCH_DISPARITY_UNIT = 60.0
# And of the wider range of depths that a folder of one's own has: one unit of a video's, whatever that is.
FOLDER_DISPARITY_UNIT = 25.0
SCRATCH_SOURCE_DEPTH_WEIGHT = 0.1
SCRATCH_MIXED_DEPTH_WEIGHT = 0.01


@pretrained.offered
def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by one of the variants."""
    benchmark, row = benchmarks.parse(setting, VARIANTS)
    known = settings_of(setting.partition(",")[2])
    if benchmark not in known:
        raise UserError(f"--config: expected a setting with depth, got '{benchmark}'{did_you_mean(benchmark, known)}")
    experiment = benchmarks.get(benchmark, row.label, ("source", "target"))
    if row.self_supervised:
        experiment = _with_drawn_depth(experiment)
    else:
        experiment = benchmarks.with_depth(experiment, exact=row.exact)
    published = networks.published(benchmark)
    experiment = dataclasses.replace(experiment, init_from=networks.init_from(benchmark))
    if published:
        weights = dataclasses.replace(REFERENCE_WEIGHTS, fresh=FRESH_OF[row.structure])
        experiment = dataclasses.replace(_reference(experiment), init_from={"segmenter": weights})
    if row.self_supervised:
        experiment = _with_depth_stages(experiment)
    return with_method(experiment, "corda", _method(benchmark, experiment, row))


def _method(benchmark: str, experiment: Experiment, row: Row) -> CorDA:
    """Returns the method of a row."""
    published, segmenter = networks.published(benchmark), _segmenter(benchmark)
    if row.structure != "correlated":
        segmenter = dataclasses.replace(segmenter, structure=row.structure)
    method = CorDA(
        segmenter=segmenter,
        optimiser=dacs.REFERENCE_SGD if published else networks.optimiser(benchmark),
        schedule=networks.schedule(benchmark, experiment.train.steps),
        depth_weight_mode=row.weights or ("reference" if published else "per_image"),
    )
    if benchmark == "gta5_cityscapes" and row.structure == "correlated":
        method = dataclasses.replace(method, initial_steps=GTA5_INITIAL_STEPS)
    if benchmark == "synthia_cityscapes":
        method = dataclasses.replace(method, source_nearest=0.0)
    if published:
        return method
    return dataclasses.replace(
        method,
        teacher=MeanTeacher(alpha=SCRATCH_ALPHA),
        depth_unit=_depth_unit(benchmark, row),
        source_depth_weight=SCRATCH_SOURCE_DEPTH_WEIGHT,
        mixed_depth_weight=SCRATCH_MIXED_DEPTH_WEIGHT,
    )


def _depth_unit(benchmark: str, row: Row) -> float:
    """Returns the unit of a row's depth targets, from scratch."""
    if not row.self_supervised:
        return SCRATCH_DEPTH_UNIT
    return FOLDER_DISPARITY_UNIT if benchmark == "folder" else SCRATCH_DISPARITY_UNIT


def settings_of(variant: str) -> tuple[str, ...]:
    """Returns the settings that a variant has: those whose depth can be learnt, if it is to be."""
    return depth.SETTINGS if VARIANTS[variant].self_supervised else SETTINGS


def _with_drawn_depth(experiment: Experiment) -> Experiment:
    """Returns an experiment whose domains hold the depth that earlier stages draw."""
    data = {}
    for name, domain in experiment.data.items():
        folder = str(RunFiles(WORKDIR).stage(f"{name}_maps").disparity)
        domain = dataclasses.replace(domain, fields=(*domain.fields, "disparity"), disparity_from=folder)
        # As the released code resizes that of GTA5.
        resampling = "bilinear" if domain.dataset == "gta5" else "nearest"
        data[name] = dataclasses.replace(domain, disparity_resampling=resampling)
    return dataclasses.replace(experiment, data=data)


def _with_depth_stages(experiment: Experiment) -> Experiment:
    """Returns an experiment whose method comes last, after stages that learn the depth of either domain and draw it."""
    learnt, drawn = {}, {}
    for name in depth.DOMAINS:
        found = depth.of_domain(experiment.benchmark, name)
        learnt[f"{name}_depth"] = StageConfig(
            method=depth.section(found.method),
            data={name: found.domain},
            train=found.train,
            init_from=found.init_from,
        )
        plain = depth.as_drawn(experiment.benchmark, experiment.data[name])
        kind = named("export_depth", ExportDepth())
        drawn[f"{name}_maps"] = StageConfig(kind=kind, data={name: plain}, start_from={DISPARITY: f"{name}_depth"})
    stages = {**learnt, **drawn, "adapt": StageConfig()}
    return dataclasses.replace(experiment, recipe=tuple(stages), stages=stages)


def _reference(experiment: Experiment) -> Experiment:
    """Returns a benchmark to Cityscapes as the released code trains on it, scored on labels of full size."""
    experiment = dacs.reference(experiment)
    final = dataclasses.replace(experiment.evaluation.final, resize_label=False)
    return dataclasses.replace(experiment, evaluation=dataclasses.replace(experiment.evaluation, final=final))


def _segmenter(benchmark: str) -> Segmenter:
    """Returns the multi-task network of a benchmark's size."""
    if networks.published(benchmark):
        head = "aspp" if benchmark == "gta5_cityscapes" else "linear"
        return dataclasses.replace(dacs.REFERENCE, name="corda_resnet101", multi_level=None, initial_head=head)
    plain = networks.segmenter(benchmark)
    return dataclasses.replace(plain, name=plain.name.replace("deeplab_v2", "corda"), initial_head="linear")
