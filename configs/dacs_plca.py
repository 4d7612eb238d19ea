"""DACS with PLCA's association: self-training on mixed images, and cycles between the images that are mixed.

    uda train --config dacs_plca:streets --workdir runs/dacs_plca

Settings: those of dacs, whose values it has; the association's weights are PLCA's. It is no paper's method, but shows
how one method takes a loss of another: `uda_jax/methods/dacs_plca.py`. `,pretrained` has the network on ImageNet's
EfficientNet-Lite0.
"""

from ml_collections import ConfigDict
from uda_jax.configs.common import benchmarks, networks, pretrained

from uda_jax.config import as_config
from uda_jax.configs import dacs, plca
from uda_jax.methods.parts.association import Association

VARIANTS = pretrained.added({"": "dacs_plca"})


@pretrained.offered
def get_config(setting: str = "streets") -> ConfigDict:
    """Returns the config of a benchmark."""
    benchmark, label = benchmarks.parse(setting, VARIANTS)
    config = dacs.get_config(benchmark)
    weights = {} if networks.published(config.benchmark) else plca.SCRATCH_ASSOCIATION
    config.label = config.method.name = label
    with config.unlocked():
        # Pairs of source and target are what is associated, too, and whole images.
        del config.method.pasted, config.method.masking
        config.method.association = as_config(Association(**weights))
    return config
