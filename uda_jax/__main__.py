"""`python -m uda_jax` is `uda`."""

import sys

from uda_jax.cli.main import main

sys.exit(main())
