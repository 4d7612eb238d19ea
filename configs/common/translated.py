"""Sources whose images a CycleGAN has translated to look like the target's: same frames, labels and depth."""

import dataclasses

from uda_jax.config import Experiment
from uda_jax.errors import UserError

# Where the translated images of a benchmark's source are looked for. Neither they nor the code that made them belong to
# the papers' releases; the names of the files are those of the source's own images.
FOLDERS = {
    "gta5_cityscapes": "data/gta5_translated/images",
    "synthia_cityscapes": "data/synthia_translated/RGB",
}


def with_translated_source(experiment: Experiment) -> Experiment:
    """Returns the experiment of one of the benchmarks in `FOLDERS` on translated images of its source.

    Raises:
      UserError: another benchmark.
    """
    if experiment.benchmark not in FOLDERS:
        raise UserError(
            f"--config: variant 'translated': expected a benchmark of {' and '.join(FOLDERS)}, whose source has a "
            f"translated copy, got '{experiment.benchmark}'; leave the variant out"
        )
    source = dataclasses.replace(experiment.data["source"], images_from=FOLDERS[experiment.benchmark])
    return dataclasses.replace(experiment, data=experiment.data | {"source": source})
