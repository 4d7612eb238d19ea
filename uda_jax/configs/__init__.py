"""The packaged configs: `uda_jax.configs.advent` and its siblings.

In a wheel the files of the project's top-level `configs/` folder lie in this package. In a source checkout
they stay where they are, and this package looks there.
"""

from pathlib import Path

_checkout = Path(__file__).resolve().parents[2] / "configs"
if not (Path(__file__).parent / "common").is_dir() and (_checkout / "common").is_dir():
    __path__.append(str(_checkout))
