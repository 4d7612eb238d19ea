"""Losses of `benchmarks.torch_steps`, written plainly in PyTorch after the papers' equations.

Maps are `[B, C, H, W]`, labels int64 `[B, H, W]` with 255 = ignore. None of them waits for the device.
"""

import math

import torch
from torch.nn import functional

IGNORED = 255
SOURCE, TARGET = 0.0, 1.0
# Centimetres that 16 bits hold, and one more, in metres.
FARTHEST, NUMERATOR = 655.35, 655.36


def upsample(maps, size, align_corners=True):
    """Returns maps interpolated bilinearly to a size."""
    return functional.interpolate(maps, size, mode="bilinear", align_corners=align_corners)


def cross_entropy(logits, labels):
    """Mean over the labelled pixels; 0 without any."""
    total = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def weighted_cross_entropy(logits, labels, weights):
    """Mean over all pixels, each weighted, ignored ones counted as 0."""
    return (functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none") * weights).mean()


def self_information(probabilities):
    """-p log2 p / log2 C, of every class."""
    return -probabilities * torch.log2(probabilities + 1e-30) / math.log2(probabilities.shape[1])


def entropy(probabilities):
    """Mean over the pixels of the sum of their self-information."""
    return self_information(probabilities).sum(1).mean()


def adversarial(decisions, domain, kind="bce"):
    """Distance of a discriminator's decisions from a domain."""
    truth = torch.full_like(decisions, domain)
    if kind == "bce":
        return functional.binary_cross_entropy_with_logits(decisions, truth)
    return functional.mse_loss(decisions, truth)


def domain_loss(source, target, kind="bce"):
    """A discriminator's loss on its decisions on both domains, their sum."""
    return adversarial(source, SOURCE, kind) + adversarial(target, TARGET, kind)


def berhu(prediction, target, mask):
    """Reverse Huber loss, the mean over the pixels of a mask."""
    error = torch.where(mask, (prediction - target).abs(), 0.0)
    threshold = 0.2 * error.detach().max()
    loss = torch.where(
        error <= threshold, error, (error.square() + threshold.square()) / (2 * threshold.clamp(min=1e-30))
    )
    return loss.sum() / mask.sum().clamp(min=1)


def absolute_depth(prediction, target, mask):
    """Mean absolute error over the pixels of a mask."""
    return torch.where(mask, (prediction - target).abs(), 0.0).sum() / mask.sum().clamp(min=1)


def inverse_depth(depth, nearest):
    """Returns 655.36 / (metres + 0.01), and 1 where depth is nearer than `nearest` or too far."""
    usable = (depth >= nearest) & (depth < FARTHEST)
    return torch.where(usable, NUMERATOR / (depth + 0.01), 1.0)


def label_smoothing(logits, strength=10.0):
    """PLCA's adaptive label smoothing: cross entropy against uniform labels, weighted by its distance from lambda."""
    uniform = -functional.log_softmax(logits, 1).mean(1)
    return ((uniform / strength - 1.0).detach() * uniform).mean()


def lovasz_softmax(probabilities, labels):
    """Lovasz-Softmax, the mean over the classes that the batch shows."""
    classes = probabilities.shape[1]
    p, labels = probabilities.transpose(0, 1).reshape(classes, -1), labels.reshape(1, -1)
    own = (labels == torch.arange(classes, device=labels.device)[:, None]).float()
    # Ignored pixels come last and weigh nothing.
    errors, order = torch.where(labels == IGNORED, -1.0, (own - p).abs()).sort(dim=1, descending=True)
    own = own.gather(1, order)
    total = own.sum(1, keepdim=True)
    jaccard = 1.0 - (total - own.cumsum(1)) / (total + (1.0 - own).cumsum(1))
    rises = torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], 1)
    present = total[:, 0] > 0
    costs = (errors.clamp(min=0.0) * rises).sum(1)
    return torch.where(present, costs, 0.0).sum() / present.sum().clamp(min=1)


def cycle_association(source, target, labels, similarity):
    """PLCA's loss of the pixels that a cycle associates, on whole matrices of similarities, as its code has them.

    Args:
      source, target: features or probabilities `[B, D, h, w]` of paired images.
      labels: of the source, at the same size.
      similarity: "cosine" or "kl".
    """
    source, target = (x.flatten(2).transpose(1, 2) for x in (source, target))
    labels = labels.flatten(1)
    # Each target pixel is mixed half and half with those like it.
    like = _similarities(target, target, similarity)
    weights = (_contrasted(like) if similarity == "cosine" else like).softmax(2)
    target = 0.5 * target + 0.5 * weights @ target
    there = _similarities(source, target, similarity)
    # The cosine is symmetric.
    back = there.transpose(1, 2) if similarity == "cosine" else _similarities(target, source, similarity)
    to_target, log_there = _strongest(there)
    to_source, log_back = _strongest(back)
    ends = to_source.gather(1, to_target)
    selected = (labels.gather(1, ends) == labels) & (labels != IGNORED)
    costs = -(log_there + log_back.gather(1, to_target))
    return torch.where(selected, costs, 0.0).sum() / selected.sum().clamp(min=1)


def _similarities(queries, keys, similarity):
    if similarity == "cosine":
        return functional.normalize(queries, dim=2) @ functional.normalize(keys, dim=2).transpose(1, 2)
    return queries @ (keys + 1e-10).log().transpose(1, 2)


def _contrasted(similarities):
    return similarities / similarities.detach().std(2, keepdim=True).clamp(min=1e-6)


def _strongest(similarities):
    """The column of each row's maximum, and the logarithm of its softmax."""
    index = similarities.argmax(2)
    logs = _contrasted(similarities).log_softmax(2)
    return index, logs.gather(2, index[:, :, None])[:, :, 0]


def nearest_labels(labels, size):
    """Returns labels at a smaller size, by PyTorch's "nearest" rule."""
    return functional.interpolate(labels[:, None].float(), size, mode="nearest")[:, 0].long()


def class_means(features, labels, classes):
    """Returns the mean feature of each class in each image `[B, K, D]`, and which classes are there, bool `[B, K]`."""
    own = (labels[:, None] == torch.arange(classes, device=labels.device)[:, None, None]).flatten(2).float()
    counts = own.sum(2)
    means = own @ features.flatten(2).transpose(1, 2) / counts.clamp(min=1)[:, :, None]
    return means, counts > 0


def semantic_adversarial(decisions, present, domain):
    """Cross entropy of decisions `[B, K, 2K]` on class means with (domain, class), over the classes that are there."""
    classes = present.shape[1]
    truth = torch.arange(classes, device=present.device) + int(domain) * classes
    truth = torch.where(present, truth, IGNORED)
    return cross_entropy(decisions.flatten(0, 1), truth.flatten())
