"""The public name of `uda_jax.data.labels.label_spaces`."""

from uda_jax.data.labels.label_spaces import (
    IGNORE,
    PROTOCOLS,
    LabelSpace,
    known_ids,
    label_space,
    lookup_table,
)

__all__ = ["IGNORE", "PROTOCOLS", "LabelSpace", "known_ids", "label_space", "lookup_table"]
