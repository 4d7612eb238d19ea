"""Pixel-level cycle association between two images (PLCA, NeurIPS 2020, arXiv 2011.00147).

A pixel is compared with another by the product of its query with the other's key. By "cosine", queries and keys are
the normalised features. By "kl", the query is the distribution x and the key is log z. That is -KL(x || z) up to a
constant of x, which changes neither the deviation over z, the softmax, the maximum nor the gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from uda_jax.losses import association_blockwise

SIMILARITIES = ("cosine", "kl")

# "auto": maps of more pixels are compared tile by tile, and pixels per tile.
_MOST_DENSE = 1024
_BLOCK = 512

_LOG_EPSILON = 1e-10
_LEAST_NORM = 1e-12
# What a constant row deviates by is rounding, and must not be scaled up to a contrast.
_LEAST_DEVIATION = 1e-6


class _Links(NamedTuple):
    """The most similar pixel of each pixel of an image pair, and the log-probability of choosing it."""

    target_index: jax.Array  # j*(i), [B, L]
    target_log: jax.Array  # log p(i -> j*(i))
    source_index: jax.Array  # i*(j), [B, M]
    source_log: jax.Array  # log q(j -> i*(j))


@jax.named_scope("cycle_association")
def cycle_association(
    source: jax.Array,
    target: jax.Array,
    source_labels: jax.Array,
    *,
    similarity: str = "cosine",
    aggregation: float | None = 0.5,
    block_size: int | str | None = "auto",
    contrast: bool = True,
) -> jax.Array:
    r"""Contrastive loss of the pixels that a cycle from source to target and back associates.

    Image n of the source is paired with image n of the target. Let :math:`j^*(i)` be the target pixel most similar to
    source pixel i, and :math:`i^*(j)` the source pixel most similar to target pixel j. The cycle of a labelled pixel i
    is consistent if :math:`i^*(j^*(i))` has its label. The loss is the mean of
    :math:`-\log p_{i, j^*(i)} - \log q_{j^*(i), i^*(j^*(i))}` over all such i of the batch, where p is the softmax,
    over the target's pixels, of i's similarities divided by their unbiased standard deviation, and q that of the way
    back. Deviations, indices and labels pass no gradient. Among equally similar pixels the first counts.

    Args:
      source: maps `[B, H, W, C]`, features before the classifier or class probabilities; computed in float32.
      target: maps `[B, h, w, C]`; they are mixed by `aggregate` first.
      source_labels: integer classes `[B, H, W]` at the maps' size (`ops.resize_nearest_legacy`); 255 is ignored.
      similarity: "cosine" for features or "kl" for probabilities, the negative Kullback-Leibler divergence from the
        pixel that is compared to the other.
      aggregation: alpha of `aggregate`, in (0, 1); None leaves the target as it is.
      block_size: pixels per tile of the similarity matrix, which is then computed twice but never held; None holds
        whole matrices of H W h w entries; "auto" chooses by the size of the maps.
      contrast: whether similarities are divided by their deviation, here and in the aggregation; False takes the
        softmax of the similarities as they are.

    Returns:
      A float32 scalar in nats; 0 with zero gradient where no cycle is consistent.

    Raises:
      ValueError: an unknown similarity, a field out of range, or shapes that do not fit together.
    """
    links = _associate(source, target, source_labels, similarity, aggregation, block_size, contrast)
    _, _, selected = _cycles(links, source_labels)
    back = jnp.take_along_axis(links.source_log, links.target_index, axis=1)
    losses = jnp.where(selected, -(links.target_log + back), 0.0)
    return jnp.sum(losses) / jnp.maximum(jnp.sum(selected), 1)


@jax.named_scope("association_diagnostics")
def association_diagnostics(
    source: jax.Array,
    target: jax.Array,
    source_labels: jax.Array,
    *,
    similarity: str = "cosine",
    aggregation: float | None = 0.5,
    block_size: int | str | None = "auto",
    contrast: bool = True,
    target_labels: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """What `cycle_association` finds for the same arguments, without a gradient.

    Args:
      source, target, source_labels, similarity, aggregation, block_size, contrast: as in `cycle_association`.
      target_labels: integer classes `[B, h, w]`, 255 = unknown; only "correct_ratio" reads them.

    Returns:
      A dict of

      * "target_index", "return_index": int32 `[B, H W]`, j*(i) and the source pixel i*(j*(i)) at which the cycle of
        each source pixel ends, counted row by row;
      * "cycle_mask", "selected_mask": bool `[B, H, W]`, where the label at the end is that at the start, and where it
        is a class as well, so that the pixel counts in the loss;
      * "cover_ratio": distinct j* of the first image per source pixel;
      * "positive_ratio": selected pixels per labelled source pixel of the batch; -1 where none is labelled;
      * "correct_ratio": among the selected pixels of the first image whose j* has a label, the share whose label is
        the same; -1 where there is none, or without `target_labels`.

    Raises:
      ValueError: as in `cycle_association`, or target labels of another shape.
    """
    if target_labels is not None and target_labels.shape != target.shape[:3]:
        raise ValueError(f"target_labels: expected shape {target.shape[:3]} of the maps, got {target_labels.shape}")
    source, target = jax.lax.stop_gradient((source, target))
    links = _associate(source, target, source_labels, similarity, aggregation, block_size, contrast)
    ends, cycles, selected = _cycles(links, source_labels)
    labels = source_labels.reshape(selected.shape)
    covered = jnp.zeros(links.source_index.shape[1], bool).at[links.target_index[0]].set(True)
    known = correct = jnp.zeros(labels.shape[1], bool)
    if target_labels is not None:
        found = target_labels[0].reshape(-1)[links.target_index[0]]
        known = selected[0] & (found != 255)
        correct = known & (found == labels[0])
    return {
        "target_index": links.target_index,
        "return_index": ends,
        "cycle_mask": cycles.reshape(source_labels.shape),
        "selected_mask": selected.reshape(source_labels.shape),
        "cover_ratio": jnp.sum(covered) / labels.shape[1],
        "positive_ratio": _share(selected, labels != 255),
        "correct_ratio": _share(correct, known),
    }


@jax.named_scope("aggregate")
def aggregate(
    target: jax.Array,
    *,
    similarity: str = "cosine",
    alpha: float = 0.5,
    block_size: int | str | None = "auto",
    contrast: bool = True,
) -> jax.Array:
    r"""Mixes each pixel with all pixels of its image that are like it, so that they share its gradient.

    :math:`z_q = (1 - \alpha) t_q + \alpha \sum_k w_{qk} t_k`, where the weights w are the softmax over k of the
    similarities of q and k: by "cosine" divided by their unbiased standard deviation, which passes no gradient, and by
    "kl" as they are.

    Args:
      target: maps `[B, H, W, C]`, features or probabilities; computed in float32.
      similarity: "cosine" or "kl".
      alpha: share of the weighted mean, in (0, 1).
      block_size, contrast: as in `cycle_association`; by "kl" there is no contrast to switch off.

    Returns:
      float32 maps `[B, H, W, C]`. Distributions remain distributions.

    Raises:
      ValueError: an unknown similarity, or a field out of range.
    """
    _check(similarity, alpha, block_size)
    block = _tile(block_size, target)
    return jax.vmap(lambda t: _aggregate(t, similarity, alpha, block, contrast))(_flat(target)).reshape(target.shape)


def _associate(
    source: jax.Array,
    target: jax.Array,
    labels: jax.Array,
    similarity: str,
    aggregation: float | None,
    block_size: int | str | None,
    contrast: bool,
) -> _Links:
    """Checks the arguments of the public functions and links the pixels of every image pair."""
    _check(similarity, aggregation, block_size)
    if source.ndim != 4 or target.ndim != 4 or (source.shape[0], source.shape[3]) != (target.shape[0], target.shape[3]):
        raise ValueError(f"target: expected shape [B, h, w, C] of source {source.shape}, got {target.shape}")
    if labels.shape != source.shape[:3]:
        raise ValueError(f"source_labels: expected shape {source.shape[:3]} of the maps, got {labels.shape}")
    block = _tile(block_size, source, target)

    # One pair after the other would take less memory, but a batch that is spread over devices must stay spread.
    def pair(source, target):
        if aggregation is not None:
            target = _aggregate(target, similarity, aggregation, block, contrast)
        return _link(source, target, similarity, block, contrast)

    return jax.vmap(pair)(_flat(source), _flat(target))


def _aggregate(target: jax.Array, similarity: str, alpha: float, block: int | None, contrast: bool) -> jax.Array:
    """`aggregate` for the pixels `[M, C]` of one image."""
    queries, keys = _queries(target, similarity), _keys(target, similarity)
    contrast = contrast and similarity == "cosine"
    if block is None:
        weights = jax.nn.softmax(_contrasted(_product(queries, keys), contrast))
        mean = jnp.matmul(weights, target, precision=jax.lax.Precision.HIGHEST)
    else:
        temperatures = _temperatures(queries, keys, contrast)
        mean = association_blockwise.blockwise_softmax_average(
            queries, keys, target, temperatures, min(block, len(target))
        )
    return (1.0 - alpha) * target + alpha * mean


def _link(source: jax.Array, target: jax.Array, similarity: str, block: int | None, contrast: bool) -> _Links:
    """The links between the pixels `[L, C]` and `[M, C]` of one image pair."""
    there = _queries(source, similarity), _keys(target, similarity)
    # The cosine is symmetric: one matrix serves both ways.
    back = None if similarity == "cosine" else (_queries(target, similarity), _keys(source, similarity))
    if block is None:
        similarities = _product(*there)
        returning = similarities.T if back is None else _product(*back)
        return _Links(*_strongest(similarities, contrast), *_strongest(returning, contrast))
    temperatures = _temperatures(*there, contrast), _temperatures(*(there[::-1] if back is None else back), contrast)
    # Both matrices with the source's pixels in rows.
    factors = there, None if back is None else back[::-1]
    return _Links(*association_blockwise.blockwise_argmax(*factors, *temperatures, min(block, len(target))))


def _strongest(similarities: jax.Array, contrast: bool) -> tuple[jax.Array, jax.Array]:
    """The column of each row's maximum, and its log-probability in the softmax of the contrast."""
    index = jnp.argmax(similarities, axis=1)
    logs = jax.nn.log_softmax(_contrasted(similarities, contrast))
    return index, jnp.take_along_axis(logs, index[:, None], axis=1)[:, 0]


def _contrasted(similarities: jax.Array, contrast: bool) -> jax.Array:
    """Divides each row by its deviation, if asked to. Its mean is left, as it would not change the softmax."""
    if not contrast:
        return similarities
    deviations = jnp.std(similarities, axis=1, keepdims=True, ddof=min(1, similarities.shape[1] - 1))
    return similarities / jax.lax.stop_gradient(jnp.maximum(deviations, _LEAST_DEVIATION))


def _temperatures(queries: jax.Array, keys: jax.Array, contrast: bool) -> jax.Array:
    """What `_contrasted` divides the rows of queries' products with keys by, without their matrix."""
    if not contrast:
        return jnp.ones(len(queries))
    deviations = association_blockwise.deviations(*jax.lax.stop_gradient((queries, keys)))
    return jnp.maximum(deviations, _LEAST_DEVIATION)


def _queries(pixels: jax.Array, similarity: str) -> jax.Array:
    return _normalise(pixels) if similarity == "cosine" else pixels


def _keys(pixels: jax.Array, similarity: str) -> jax.Array:
    return _normalise(pixels) if similarity == "cosine" else jnp.log(pixels + _LOG_EPSILON)


def _normalise(pixels: jax.Array) -> jax.Array:
    """Scales each pixel to length 1; one of length 0, which a ReLU may leave, stays 0 and has no gradient."""
    squares = jnp.sum(jnp.square(pixels), axis=1, keepdims=True)
    long = squares > _LEAST_NORM**2
    return jnp.where(long, pixels / jnp.sqrt(jnp.where(long, squares, 1.0)), 0.0)


def _product(queries: jax.Array, keys: jax.Array) -> jax.Array:
    # Similarities deviate by a tenth or less, and in bfloat16 or TF32 their maxima would be others.
    return jnp.matmul(queries, keys.T, precision=jax.lax.Precision.HIGHEST)


def _cycles(links: _Links, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where cycles end, whether at the label of their start, and whether that is a class, `[B, L]` each."""
    labels = labels.reshape(links.target_index.shape)
    ends = jnp.take_along_axis(links.source_index, links.target_index, axis=1)
    cycles = jnp.take_along_axis(labels, ends, axis=1) == labels
    return ends, cycles, cycles & (labels != 255)


def _share(part: jax.Array, whole: jax.Array) -> jax.Array:
    count = jnp.sum(whole)
    return jnp.where(count > 0, jnp.sum(part) / jnp.maximum(count, 1), -1.0)


def _flat(maps: jax.Array) -> jax.Array:
    return maps.reshape(maps.shape[0], -1, maps.shape[-1]).astype(jnp.float32)


def _tile(block_size: int | str | None, *maps: jax.Array) -> int | None:
    if block_size == "auto":
        return _BLOCK if max(x.shape[1] * x.shape[2] for x in maps) > _MOST_DENSE else None
    return block_size


def _check(similarity: str, alpha: float | None, block_size: int | str | None) -> None:
    if similarity not in SIMILARITIES:
        raise ValueError(f"similarity: expected one of {', '.join(SIMILARITIES)}, got {similarity!r}")
    if alpha is not None and not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha of the aggregation: expected a number in (0, 1), got {alpha!r}")
    if block_size not in ("auto", None) and not (isinstance(block_size, int) and block_size > 0):
        raise ValueError(f"block_size: expected 'auto', None or a positive number of pixels, got {block_size!r}")
