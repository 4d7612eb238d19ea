"""ASS (Wang et al., CVPR Workshops 2020): few labelled target images, global and semantic-level alignment.

    uda train --config ass:streets --workdir runs/ass                50 labelled images
    uda train --config ass:gta5_cityscapes,100 --workdir runs/ass_100
    uda train --config ass:folder,dice --workdir runs/mine           your own binary or medical images
    uda train --config ass:blobs --workdir runs/blobs                the same on generated ones

Settings: streets, smoke, streets_camvid, streets_idd, camvid_day2dusk, blobs, folder, gta5_cityscapes,
synthia_cityscapes, synscapes_cityscapes. The variant is the number of labelled target images, 10, 50, 100, 200, 500,
1000 or all; another subset of the same size is `--config.data.labelled_target.count_seed=1`. In `folder` all images
with labels count unless a number is given. The variant `dice` is headed by the mean Dice of the classes but for
"background"; a folder's frames become square, and the target's labelled images are those of its split "labelled".
`,pretrained` has the network on ImageNet's EfficientNet-Lite0.

The paper's polyps (CVC, Kvasir) and brain tumours (BraTS) are such tasks. Those images could not be had where this was
written, so none of its medical rows was run; `blobs` shows that the way is open, and its scores compare with nothing.

No code, weights or schedule were published: on the papers' benchmarks the settings hold those of AdaptSegNet, on which
the method is built. Published there: 54.2 mIoU with 100 labels, 69.1 with all, on GTA5 -> Cityscapes.
"""

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks, pretrained

from uda_jax.config import with_method
from uda_jax.methods.ass import ASS, SemanticLevel
from uda_jax.training.optimisers import adam

# Row name, number of labelled images and whether Dice heads the row, of each variant.
VARIANTS = pretrained.added(
    {
        "": ("ass", benchmarks.FEW_LABELS, False),
        **{str(count): (f"ass_{count}", count, False) for count in (10, 50, 100, 200, 500, 1000)},
        "all": ("ass_all", None, False),
        "dice": ("ass", benchmarks.FEW_LABELS, True),
    }
)

# Devices may differ so much that running averages over both normalise neither. On blobs' dev split (seed 0, 10 labels,
# 600 steps): Dice 40.1 with those of all domains, 91.5 with the target's.

# The small network's features have 384 channels, not 2048.
SCRATCH_SEMANTIC = SemanticLevel(weight=0.03, hidden=64, optimiser=adam(learning_rate=2e-3))


@pretrained.offered
def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by the number of labelled target images, or ",dice"."""
    benchmark, (label, count, dice) = benchmarks.parse(setting, VARIANTS)
    experiment = benchmarks.get(benchmark, label, ("source", "labelled_target", "target"))
    experiment = benchmarks.with_labels(experiment, count)
    experiment = benchmarks.with_dice(experiment) if dice else experiment
    experiment, segmenter = networks.adaptsegnet(experiment, multi_level=False)
    published = networks.published(benchmark)
    method = ASS(
        segmenter=segmenter,
        optimiser=networks.optimiser(benchmark),
        schedule=networks.schedule(benchmark, experiment.train.steps),
        discriminator=networks.discriminator(benchmark),
        target_weight=0.001 if published else networks.SCRATCH_ADVERSARIAL_WEIGHT,
        semantic=SemanticLevel() if published else SCRATCH_SEMANTIC,
        running_statistics="target" if dice or benchmark == "blobs" else "all",
    )
    return with_method(experiment, "ass", method)
