"""Batches without a label: told while training, where a look at the frames before it could not see them coming."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from uda_jax.data.labels.label_spaces import IGNORE
from uda_jax.data.pipeline import domains
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.inference.label_check import teaches


class LabelWatch:
    """Notices that batches hold no label, such as when every crop misses the labelled part of its frame.

    Args:
      sections: the stage's domains by name.
      batch_size: frames of each domain in a global batch.
      log_every: steps without a label before this counts.
    """

    def __init__(self, sections: Mapping[str, Domain], batch_size: int, log_every: int):
        self._sections = {name: domain for name, domain in sections.items() if teaches(name, domain)}
        self._batch_size, self._log_every = batch_size, log_every
        self._without = dict.fromkeys(self._sections, 0)

    def add(self, batch: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Looks at this process's block of a batch."""
        for name in self._sections:
            empty = bool((batch[name]["label"] == IGNORE).all())
            self._without[name] = self._without[name] + 1 if empty else 0

    def check(self) -> None:
        """Raises a UserError if a domain has had no label for so long that each of its frames had its turn.

        Every process has to call it.
        """
        for name, steps in zip(self._sections, self._fewest(list(self._without.values())), strict=True):
            if steps < self._log_every:
                continue
            count = len(domains.open_domain(self._sections[name], f"config.data.{name}"))
            if steps * self._batch_size >= count:
                raise UserError(
                    f"config.data.{name}: no pixel of the last {steps} batches had a label, though each of its {count} "
                    "frames had its turn, so that nothing is learnt from it; look at its labels with 'uda check', and "
                    "at its crop and size"
                )

    def _fewest(self, steps: Sequence[int]) -> list[int]:
        """Returns the least count of all processes."""
        if jax.process_count() == 1 or not steps:
            return list(steps)
        gathered: Any = multihost_utils.process_allgather(np.array(steps))
        return np.asarray(gathered).min(axis=0).tolist()
