"""DACS with PLCA's association: the loss of one method added to the step of another.

    student f       min  L_DACS(x_s, x_m) + beta_F L_asso(F_s, F_t) + beta_P L_asso(P_s, P_t)

F are the features of the last stage and P the class probabilities of source and target images, as they are without
mixing or augmentation. Mixing teaches the student what the teacher is sure of; the association also pulls at target
pixels whose pseudo-label counts for little. This combination is not from a paper.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from uda_jax.methods import base
from uda_jax.methods.dacs import Dacs
from uda_jax.methods.plca import Association
from uda_jax.methods.self_training import Mixed
from uda_jax.schema import config_field


@dataclasses.dataclass(frozen=True)
class DacsPlca(Dacs):
    """Self-training on mixed images, and cycle association of the images that are mixed."""

    association: Association = config_field(Association(), "The cycle association.")

    def student_losses(
        self, params: Any, state: base.TrainState, batch: base.Batch, mixed: Mixed
    ) -> tuple[dict[str, jax.Array], Any]:
        """Forwards source, mixed and target; returns the weighted losses by name and the next statistics."""
        outputs, model_state = self.student_outputs(params, state, batch, mixed)
        target, model_state = self.forward(params, model_state, batch["target"]["image"])
        labels = batch["source"]["label"].astype(jnp.int32)
        key = jax.random.fold_in(state.key, state.step)
        associated = self.association.losses(outputs["source"], target, labels, key)
        return self.objective(outputs, batch, mixed) | associated, model_state


METHOD = DacsPlca
