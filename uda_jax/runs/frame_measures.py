"""What a trained network makes of unlabelled frames: of each its mean entropy and its mean feature.

    python -m uda_jax.runs.frame_measures RUN POOL.json OUTPUT.npz

It is a process of its own, since `uda budget`, which starts it, leaves the devices to the runs. The entropy is that by
which IntraDA ranks; the feature is the segmenter's last map before its classifier, averaged over the frame.
"""

import io
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uda_jax import ops
from uda_jax.data.io import atomic
from uda_jax.data.pipeline import streams
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.methods.parts.forward import forward
from uda_jax.runs import states
from uda_jax.runs.kinds.rank import frames_only
from uda_jax.runs.workdir import Workdir
from uda_jax.schema import from_mapping
from uda_jax.training import sharding
from uda_jax.training.precision import at_precision


class Measures(NamedTuple):
    """Of some frames, in the order of their names.

    Attributes:
      names: of the frames.
      entropy: float64 `[N]`, see `ops.entropy_score`.
      features: float64 `[N, D]`.
    """

    names: list[str]
    entropy: np.ndarray
    features: np.ndarray


def measure(workdir: Path, pool: Domain, path: str) -> Measures:
    """Runs the network that a run's result row is of over all frames of a domain.

    Args:
      workdir: of the run.
      pool: the domain; neither its labels are read nor its chance used.
      path: dotted name of its section, for messages.

    Raises:
      UserError: the run's method has no segmenter of classes; or as `streams.evaluation_batches`.
    """
    method, state, _ = states.restore(workdir)
    module = getattr(method, "network", None)
    if module is None:
        raise UserError(f"{workdir}: expected a method with a segmenter, got {type(method).__name__}")
    mesh = sharding.data_mesh()

    def of_batch(state: Any, images: jax.Array) -> dict[str, jax.Array]:
        scores = method.predict(state, images, images.shape[1:3])["scores"]
        inputs = ops.normalise(images, method.segmenter.input_norm)
        networks = state.params["segmenter"], state.model_state["segmenter"]
        maps, _ = forward(module, *networks, inputs, train=False)
        features = maps["features"] if "features" in maps else maps["logits"]
        entropy = ops.entropy_score(jax.nn.softmax(scores.astype(jnp.float32)))
        return {"entropy": entropy, "features": jnp.mean(features.astype(jnp.float32), axis=(1, 2))}

    compiled, split = sharding.Compiled(at_precision(method, of_batch), mesh), sharding.split_over_batch(mesh)
    size = Workdir(workdir).experiment().evaluation.batch_size
    batches, found = streams.evaluation_batches(frames_only(pool), size, path=path), {}
    for batch in batches:
        values = jax.device_get(compiled(state, sharding.to_global(batch["image"], split)))
        for k, index in enumerate(batch["index"].tolist()):
            if index >= 0:
                found[index] = values["entropy"][k], values["features"][k]
    entropy, features = zip(*(found[index] for index in sorted(found)), strict=True)
    return Measures(batches.dataset.names(), np.array(entropy, np.float64), np.array(features, np.float64))


def save(measures: Measures, file: Path) -> None:
    """Writes measures, all of them or nothing."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **measures._asdict() | {"names": np.array(measures.names)})
    atomic.write(file, stream.getvalue())


def load(file: Path) -> Measures:
    """Reads measures back."""
    with np.load(file) as stored:
        return Measures(stored["names"].tolist(), stored["entropy"], stored["features"])


def main(words: list[str]) -> int:
    """Measures; a user's mistake is one line and status 2."""
    run, pool, output = map(Path, words)
    try:
        save(measure(run, from_mapping(Domain, json.loads(pool.read_text()), str(pool)), str(pool)), output)
    except UserError as error:
        print(f"uda: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
