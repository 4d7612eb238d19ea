"""`python -m uda_jax.cli` is `uda`."""

import sys

from uda_jax.cli.main import main

sys.exit(main())
