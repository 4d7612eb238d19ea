"""Self-supervised depth (Monodepth2, Godard et al., ICCV 2019): depth from video or from pairs, without labels.

    uda train --config self_supervised_depth:streets --workdir runs/depth
    uda train --config self_supervised_depth:streets,source_monocular --workdir runs/depth_of_the_simulator
    uda export-depth runs/depth --output maps

Settings: streets, smoke, folder, gta5_cityscapes. Depth of the target is learnt, with `,source` that of the source.
From what a frame is rebuilt is the benchmark's choice, pairs of streets and of Cityscapes and else video, or that of
`,stereo`, `,monocular` and `,both` and of the same behind `source_`. `,pretrained` has the networks on ImageNet's
EfficientNet-Lite0.

Scores are the usual ones of depth: abs_rel and its like of metres as they are, which pairs give, and "abs_rel_scaled"
of depth that is put into metres by the median of each frame, which heads the table. On a folder of one's own, and on
GTA5, whose video has no depth, a run ends without a score where there is none.

gta5_cityscapes learns on Cityscapes' pairs (leftImg8bit and rightImg8bit), or with `,source` on a video of the game in
data/gta5_video, such as the frames of "Playing for Benchmarks"; with the values of the trainer behind CorDA's depth of
GTA5, and needs weights/resnet101-63fe2227.pth and, with frames of other times, weights/resnet18-f37072fd.pth of
torchvision. Cityscapes' own disparity scores it. `corda:gta5_cityscapes,self_supervised` is all of it in one command.
"""

import dataclasses
from typing import NamedTuple

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, depth, pretrained

from uda_jax.config import with_method
from uda_jax.errors import UserError
from uda_jax.methods.parts.scene import VIEWS
from uda_jax.schema import did_you_mean

SETTINGS = depth.SETTINGS


class Row(NamedTuple):
    """A variant: whose depth is learnt, from which views, and whether on an encoder that has seen ImageNet."""

    domain: str = "target"
    views: str | None = None
    pretrained: bool = False


VARIANTS = {
    "": Row(),
    **{views: Row(views=views) for views in VIEWS},
    "source": Row("source"),
    **{f"source_{views}": Row("source", views) for views in VIEWS},
    pretrained.VARIANT: Row(pretrained=True),
}


def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark, optionally followed by one of the variants."""
    benchmark, row = benchmarks.parse(setting, VARIANTS)
    if benchmark not in settings_of(setting.partition(",")[2]):
        known = settings_of(setting.partition(",")[2])
        raise UserError(f"--config: unknown setting '{benchmark}'{did_you_mean(benchmark, known)}")
    found = depth.of_domain(benchmark, row.domain, row.views)
    if row.pretrained:
        found = depth.on_encoder(found)
    label = "/".join(filter(None, ("self_supervised_depth", setting.partition(",")[2])))
    experiment = benchmarks.get(benchmark, label, (row.domain,))
    experiment = depth.scored(benchmark, row.domain, experiment)
    experiment = dataclasses.replace(
        experiment, data={row.domain: found.domain}, train=found.train, init_from=found.init_from
    )
    return with_method(experiment, "self_supervised_depth", found.method)


def settings_of(variant: str) -> tuple[str, ...]:
    """Returns the settings that a variant has: GTA5's source is a video, which has no pairs."""
    row = VARIANTS[variant]
    if row.pretrained:
        return tuple(setting for setting in SETTINGS if setting in pretrained.SETTINGS)
    if row.domain == "source" and row.views in ("stereo", "both"):
        return tuple(setting for setting in SETTINGS if setting != "gta5_cityscapes")
    return SETTINGS
