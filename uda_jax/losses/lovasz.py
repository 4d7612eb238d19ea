"""Lovasz-Softmax, the surrogate of intersection over union that PLCA trains the source with (arXiv 2011.00147)."""

import jax
import jax.numpy as jnp

# So many errors are sorted. A CPU is slow to sort more of them with their indices; they are counted by level.
_MOST_SORTED = 2**17
_LEVELS = 2**15


@jax.named_scope("lovasz_softmax")
def lovasz_softmax(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    r"""Lovasz extension of the Jaccard loss, averaged over the classes that the batch shows.

    For class c, the errors :math:`e_i = |[y_i = c] - p_{ic}|` of all labelled pixels of the batch are sorted, largest
    first. When the first k hold f of the class's G pixels and b others, :math:`J_k = 1 - (G - f) / (G + b)`. The class
    costs :math:`\sum_k e_{(k)} (J_k - J_{k-1})`, and the weights :math:`J_k - J_{k-1}` pass no gradient.

    More than 131,072 probabilities are not sorted but counted in 32,768 levels of :math:`\sqrt e`, in linear time:
    within one level, the pixels of class c come first and the others share one weight.

    Args:
      probabilities: `[..., C]`, summing to 1 over the last axis; computed in float32.
      labels: integer classes `[...]`; 255 and everything outside [0, C) is ignored.

    Returns:
      A float32 scalar in [0, 1]; 0 with zero gradient where no pixel is labelled.

    Raises:
      ValueError: the shapes do not fit together.
    """
    costs, own = _pixel_costs(probabilities, labels)
    return _mean_over_classes(jnp.sum(costs, axis=0), jnp.any(own, axis=0))


@jax.named_scope("grouped_lovasz_softmax")
def grouped_lovasz_softmax(probabilities: jax.Array, labels: jax.Array, group: int) -> jax.Array:
    r"""`lovasz_softmax` as PLCA's released code computes it on several devices, each with a group of the images.

    The weights :math:`J_k - J_{k-1}` are those of the whole batch, as in `lovasz_softmax`. Of each class a group has
    the costs of its own pixels, and it averages over the classes of its own labels: the errors of its other pixels
    with classes that it does not show are left out. The loss is the sum over the groups.

    Args:
      probabilities, labels: as in `lovasz_softmax`, `[B, ..., C]` and `[B, ...]`.
      group: successive images of a group; a divisor of B. B gives `lovasz_softmax`.

    Returns:
      A float32 scalar in [0, B / group]; 0 with zero gradient where no pixel is labelled.

    Raises:
      ValueError: the shapes do not fit together, or a group that is no divisor.
    """
    if group < 1 or len(labels) % group:
        raise ValueError(f"group: expected a divisor of the {len(labels)} images, got {group}")
    costs, own = _pixel_costs(probabilities, labels)
    shape = len(labels) // group, -1, costs.shape[-1]
    costs, own = jnp.sum(costs.reshape(shape), axis=1), jnp.any(own.reshape(shape), axis=1)
    return jnp.sum(_mean_over_classes(costs, own))


def _pixel_costs(probabilities: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns what each pixel adds to the cost of each class, and whether it is labelled as the class, `[N, C]`."""
    if labels.shape != probabilities.shape[:-1]:
        shape = probabilities.shape
        raise ValueError(f"labels: expected shape {shape[:-1]} for probabilities {shape}, got {labels.shape}")
    num_classes = probabilities.shape[-1]
    p = probabilities.reshape(-1, num_classes).astype(jnp.float32)
    labels = labels.reshape(-1, 1).astype(jnp.int32)
    valid = (labels >= 0) & (labels < num_classes) & (labels != 255)
    own = valid & (labels == jnp.arange(num_classes))
    errors = jnp.where(valid, jnp.where(own, 1.0 - p, p), 0.0)
    weigh = _weights_by_sorting if errors.size <= _MOST_SORTED else _weights_by_counting
    return errors * weigh(jax.lax.stop_gradient(errors), own, valid), own


def _mean_over_classes(costs: jax.Array, present: jax.Array) -> jax.Array:
    """Returns the mean of costs `[..., C]` over the classes that are present; 0 where none is."""
    return jnp.sum(jnp.where(present, costs, 0.0), axis=-1) / jnp.maximum(jnp.sum(present, axis=-1), 1)


def _weights_by_sorting(errors: jax.Array, own: jax.Array, valid: jax.Array) -> jax.Array:
    """Returns the weights `[N, C]` of the errors `[N, C]`, exactly."""
    # Ignored pixels come last: nothing valid is behind them, and their own errors are 0.
    order = jnp.argsort(jnp.where(valid, -errors, 1.0), axis=0)
    own = jnp.take_along_axis(own, order, axis=0)
    found, others = jnp.cumsum(own, axis=0), jnp.cumsum(~own, axis=0)
    own_weight, other_weight = _weights(found, others - ~own, others, found[-1])
    weights = jnp.where(own, own_weight, other_weight)
    return jnp.put_along_axis(jnp.zeros_like(weights), order, weights, axis=0, inplace=False)


def _weights_by_counting(errors: jax.Array, own: jax.Array, valid: jax.Array) -> jax.Array:
    """Returns the weights `[N, C]` of the errors `[N, C]`, as if those of one level were equal."""
    num_classes = errors.shape[1]
    # The root makes levels finer near 0, where most errors of a trained network are. NaN must have a level too.
    level = jnp.clip((jnp.sqrt(errors) * _LEVELS).astype(jnp.int32), 0, _LEVELS - 1)
    cell = (2 * jnp.arange(num_classes) + own) * _LEVELS + (_LEVELS - 1 - level)
    counted = jnp.broadcast_to(valid, errors.shape).astype(jnp.int32)
    counts = jnp.zeros(2 * num_classes * _LEVELS, jnp.int32).at[cell].add(counted, mode="promise_in_bounds")
    counts = counts.reshape(num_classes, 2, _LEVELS)
    others, found = jnp.moveaxis(jnp.cumsum(counts, axis=-1), 1, 0)
    own_weight, other_weight = _weights(found, others - counts[:, 0], others, found[:, -1:])
    return jnp.stack([other_weight, own_weight], axis=1).reshape(-1).at[cell].get(mode="promise_in_bounds")


def _weights(found: jax.Array, before: jax.Array, after: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What J rises by for each pixel of a tie: of the class's own pixels, which come first, and of the others.

    Written out, because the difference of two values of J near 1 would keep few digits in float32.

    Args:
      found: f, how many of the class's pixels have been met with the tie.
      before, after: b, how many other pixels have been met before the tie and with it.
      total: G, how many pixels the class has.
    """
    own = 1.0 / jnp.maximum(total + before, 1).astype(jnp.float32)
    return own, own * (total - found) / jnp.maximum(total + after, 1).astype(jnp.float32)
