"""Plain supervised training: the lower bound without adaptation, and the oracle.

Take it to know what adaptation is worth, and, with target labels, what is the most that it could be.

On the source alone it is "source only"; on labelled target frames alone it is the oracle; on both it is the
source-plus-labelled-target baseline. Every method is measured between the first two.
"""

import dataclasses
from collections.abc import Iterable

import jax

from uda_jax.errors import UserError
from uda_jax.methods import base
from uda_jax.methods.parts.forward import dropout_key, segmentation_losses
from uda_jax.methods.parts.updates import initial_state, single_player_step
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, sgd

# Batch statistics are threaded in this order wherever several domains are forwarded.
LABELLED_DOMAINS = ("source", "labelled_target")


@dataclasses.dataclass(frozen=True)
class SourceOnly(base.SegmentationMethod):
    """Cross entropy on every labelled domain of the batch."""

    optimiser: Optimiser = config_field(sgd(), "Optimiser of the segmenter.")
    aux_weight: float = config_field(
        0.1, "Weight of the earlier head's cross entropy (AdaptSegNet, lambda_seg).", low=0.0
    )

    def check_domains(self, names: Iterable[str], path: str) -> None:
        """Raises a UserError without a labelled domain, or with another one, which nothing would read."""
        names = list(names)
        if not _labelled(names):
            raise UserError(f"{path}: expected at least one labelled domain, such as source, got {names}; add it")
        if unread := set(names) - set(_labelled(names)):
            raise UserError(
                f"{path}.{min(unread)}: expected domains named {' or '.join(LABELLED_DOMAINS)}, or such a name with "
                "a suffix, since only labels are learnt; remove it"
            )

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state; any domain of the batch gives the image shape."""
        variables = {"segmenter": self.initial_segmenter(key, example_batch)}
        return initial_state(key, variables, {"segmenter": self.player("segmenter", optimiser=self.optimiser)})

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One forward per labelled domain, one backward, one update."""

        def loss(params):
            losses, model_state = {}, state.model_state["segmenter"]
            for i, domain in enumerate(_labelled(batch)):
                images, labels = batch[domain]["image"], batch[domain]["label"]
                outputs, model_state = self.forward(params["segmenter"], model_state, images, key=dropout_key(state, i))
                prefix = "" if domain == "source" else f"{domain}_"
                terms = segmentation_losses(self.segmenter, outputs, labels, self.aux_weight)
                losses |= {prefix + name: value for name, value in terms.items()}
            return losses, {"segmenter": model_state}

        return single_player_step(state, self.player("segmenter", optimiser=self.optimiser), loss)


def _labelled(names: Iterable[str]) -> list[str]:
    """Returns the labelled domains among some: the source's first, then the labelled target's."""
    kinds = [[name for name in sorted(names) if name.startswith(kind)] for kind in LABELLED_DOMAINS]
    return sum(kinds, [])


METHOD = SourceOnly
