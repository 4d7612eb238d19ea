"""Adversarial losses on class-wise decisions: which domain does this mean, or this pixel, of class k come from?

ASS (Wang et al., CVPR Workshops 2020, arXiv 2004.00794). Its semantic discriminator has 2K outputs: output k < K
stands for (source, class k), output K + k for (target, class k). Domain labels as in `adversarial`: source 0, target 1.
The discriminator minimises half the loss of the source's decisions with domain 0 plus half that of the target's with
domain 1; the adapted network minimises the loss of the target's decisions with domain 0.
"""

import jax
import jax.numpy as jnp

from uda_jax.losses.segmentation import cross_entropy

KINDS = ("class_conditional", "binary")


@jax.named_scope("semantic_adversarial")
def semantic_adversarial(
    logits: jax.Array, present: jax.Array, domain: int, *, kind: str = "class_conditional"
) -> jax.Array:
    r"""Distance of the decisions on class means from a constant domain.

    With the decision o on the mean of class k, "class_conditional" is the cross entropy of all 2K outputs,
    :math:`\mathrm{logsumexp}(o) - o_k` for the source and :math:`\mathrm{logsumexp}(o) - o_{K+k}` for the target;
    "binary" is the sigmoid cross entropy of :math:`o_k` alone, :math:`\mathrm{softplus}(o_k) - \mathrm{domain}\, o_k`.

    Args:
      logits: raw outputs `[..., K, 2K]`, one row per class mean; "binary" reads the first K.
      present: bool `[..., K]`, which classes the image shows.
      domain: 0 for source, 1 for target; static.
      kind: "class_conditional" or "binary".

    Returns:
      A float32 scalar in nats, the mean over the present (image, class) pairs; 0 with zero gradient without any.

    Raises:
      ValueError: an unknown kind or domain, or shapes that do not fit together.
    """
    if logits.shape != (*present.shape, 2 * present.shape[-1]):
        expected = (*present.shape, 2 * present.shape[-1])
        raise ValueError(f"logits: expected shape {expected} for present {present.shape}, got {logits.shape}")
    classes = jnp.where(present, jnp.arange(present.shape[-1]), -1)
    return _decisions(logits, classes, domain, kind)


@jax.named_scope("semantic_adversarial_map")
def semantic_adversarial_map(
    logits: jax.Array, labels: jax.Array, domain: int, *, kind: str = "class_conditional"
) -> jax.Array:
    """The convolutional form of `semantic_adversarial`: one decision per location instead of one per class mean.

    Args:
      logits: raw outputs `[B, h, w, 2K]`; "binary" reads the first K.
      labels: integer classes `[B, h, w]`; everything outside [0, K), 255 included, is ignored.
      domain: 0 for source, 1 for target; static.
      kind: "class_conditional" or "binary".

    Returns:
      A float32 scalar in nats, the mean over the labelled locations; 0 with zero gradient without any.

    Raises:
      ValueError: an unknown kind or domain, an odd number of outputs, or shapes that do not fit together.
    """
    if logits.shape[:-1] != labels.shape or logits.shape[-1] % 2:
        raise ValueError(f"logits: expected shape {(*labels.shape, '2K')}, got {logits.shape}")
    labels = labels.astype(jnp.int32)
    # A label of K or more would otherwise name an output of the target.
    return _decisions(logits, jnp.where(labels < logits.shape[-1] // 2, labels, -1), domain, kind)


def _decisions(logits: jax.Array, classes: jax.Array, domain: int, kind: str) -> jax.Array:
    """Mean loss of decisions `[..., 2K]` on things of known classes `[...]`, in [0, K) or negative for none."""
    if domain not in (0, 1):
        raise ValueError(f"domain: expected 0 (source) or 1 (target), got {domain!r}")
    num_classes = logits.shape[-1] // 2
    if kind == "class_conditional":
        outputs = jnp.where(classes >= 0, classes + domain * num_classes, -1)
        return cross_entropy(logits, outputs, ignore_label=-1)
    if kind == "binary":
        own = classes[..., None] == jnp.arange(num_classes)
        own = jnp.sum(jnp.where(own, logits[..., :num_classes].astype(jnp.float32), 0.0), axis=-1)
        # The sigmoid cross entropy of z is the softmax cross entropy of (0, z).
        outcomes = jnp.stack([jnp.zeros_like(own), own], axis=-1)
        return cross_entropy(outcomes, jnp.where(classes >= 0, domain, -1), ignore_label=-1)
    raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
