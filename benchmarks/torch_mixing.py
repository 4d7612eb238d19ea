"""Mixed images of DACS and CorDA for `benchmarks.torch_steps`: masks of classes, colour jitter and blur, on the device.

What is on or off, and by how much, is drawn on the host; nothing waits for the device.
"""

import math
import random

import torch
from torch.nn import functional

JITTER, BLUR = 0.8, 0.5
SPAN = 0.25
SIGMAS = (0.15, 1.15)
VALUES = 256


def class_mask(labels):
    """Returns a mask `[B, H, W]` of half of the values, rounded up, that each label `[B, H, W]` shows, 255 included."""
    flat = labels.flatten(1)
    present = torch.zeros(len(labels), VALUES, dtype=torch.bool, device=labels.device).scatter_(1, flat, True)
    scores = torch.where(present, torch.rand(present.shape, device=labels.device), math.inf)
    rank = scores.argsort(1).argsort(1)
    chosen = present & (rank < (present.sum(1, keepdim=True) + 1) // 2)
    return chosen.gather(1, flat).view_as(labels)


def augment(images, generator: random.Random):
    """Returns images `[B, 3, H, W]` of 0 to 255 with jittered colours, blurred, either or neither."""
    if generator.random() < JITTER:
        draws = [[generator.uniform(-SPAN, SPAN) for _ in range(4)] for _ in images]
        order = generator.sample(range(4), 4)
        images = 255.0 * colour_jitter(images / 255.0, draws, order)
    if generator.random() < BLUR:
        images = gaussian_blur(images, [generator.uniform(*SIGMAS) for _ in images])
    return images


def colour_jitter(images, deviations, order):
    """Changes brightness, contrast, saturation and hue of images in [0, 1].

    Args:
      images: `[B, 3, H, W]`.
      deviations: of each image, four numbers; 0 changes nothing.
      order: a permutation of 0 to 3, which is applied first, second ...
    """
    changes = torch.tensor(deviations, device=images.device).T[:, :, None, None, None]
    for each in order:
        change = changes[each]
        if each == 0:
            images = (images + change).clamp(0.0, 1.0)
        elif each == 1:
            images = (images * (1.0 + change)).clamp(0.0, 1.0)
        elif each == 2:
            images = _saturated(images, 1.0 + change)
        else:
            images = _turned(images, change)
    return images


def _saturated(images, factor):
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - least
    # Saturation, chroma / value, ends at 1.
    most = value / torch.where(chroma > 0, chroma, 1.0)
    return value - (value - images) * torch.minimum(factor, most)


def _turned(images, turn):
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - least
    red, green, blue = images.split(1, 1)
    others = torch.where(green == value, 2.0 * chroma + blue - red, 4.0 * chroma + red - green)
    sixths = torch.where(red == value, green - blue, others) / torch.where(chroma > 0, chroma, 1.0) + 6.0 * turn
    offsets = torch.tensor([5.0, 3.0, 1.0], device=images.device)[:, None, None]
    position = (sixths + offsets).remainder(6.0)
    return value - chroma * torch.minimum(position, 4.0 - position).clamp(0.0, 1.0)


def gaussian_blur(images, sigmas):
    """Blurs each image `[3, H, W]` by its own Gaussian, along one axis after the other, on reflected borders.

    The kernel is the odd number at or below a tenth of each side.
    """
    batch, channels, *size = images.shape
    x = images.reshape(1, batch * channels, *size)
    deviations = torch.tensor(sigmas, device=images.device).repeat_interleave(channels)[:, None]
    for axis, side in enumerate(size):
        tenth = math.ceil(0.1 * side)
        radius = (tenth - 1 + tenth % 2) // 2
        distance = torch.arange(-radius, radius + 1, device=images.device)
        kernels = (-distance.square() / (2.0 * deviations.square())).exp()
        kernels = kernels / kernels.sum(1, keepdim=True)
        along = (1, 1, -1, 1) if axis == 0 else (1, 1, 1, -1)
        margin = (0, 0, radius, radius) if axis == 0 else (radius, radius, 0, 0)
        kernels = kernels.view(batch * channels, *along[1:])
        x = functional.conv2d(functional.pad(x, margin, mode="reflect"), kernels, groups=batch * channels)
    return x.view_as(images)


def pseudo_labels(logits):
    """Returns the most probable class of each pixel `[B, H, W]` and its probability."""
    confidence, labels = logits.softmax(1).max(1)
    return labels, confidence
