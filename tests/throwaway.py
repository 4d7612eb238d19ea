"""A method that takes milliseconds, for tests of what surrounds methods."""

import dataclasses

import jax
import jax.numpy as jnp

from uda_jax.methods.base import TrainState


@dataclasses.dataclass(frozen=True)
class Counting:
    """Scores are a linear function of a pixel's colour, which every step changes; one network never learns."""

    num_classes: int = 3
    precision: str = "fp32"
    accumulation: int = 1

    def init(self, key, example_batch):
        del example_batch
        learning, frozen = ({"weights": jax.random.normal(k, (3, self.num_classes))} for k in jax.random.split(key))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params={"segmenter": learning},
            model_state={"segmenter": {}},
            opt_state={},
            teacher=None,
            key=key,
            extra={},
            frozen={"anchor": {"params": frozen, "model_state": {}}},
        )

    def train_step(self, state, batch):
        drift = 0.1 * state.frozen["anchor"]["params"]["weights"]
        params = {"segmenter": {"weights": state.params["segmenter"]["weights"] + drift}}
        loss = jnp.mean(jnp.stack([jnp.mean(maps["image"].astype(jnp.float32)) for maps in batch.values()]))
        return state.replace(step=state.step + 1, params=params), {"loss/total": loss}

    def predict(self, state, images, size):
        scores = images.astype(jnp.float32) / 255 @ state.params["segmenter"]["weights"]
        return {"scores": jax.image.resize(scores, (len(images), *size, self.num_classes), "nearest")}
