"""Optimisers of `benchmarks.torch_steps`: PyTorch's own, its fused kernels, in the form that each method's code has."""

import re

import torch

RATE, MOMENTUM, DECAY, POWER = 2.5e-4, 0.9, 5e-4, 0.9
HORIZON = 250_000

_ENCODER = re.compile(r"(conv1|bn1|layer[1-4])\.")
_NORM = re.compile(r"(bn\d|downsample\.1)\.")


def poly(iteration, horizon=HORIZON):
    """Returns the share of the rate at an iteration."""
    return max(0.0, 1 - iteration / horizon) ** POWER


def constant_linear(iteration, horizon=HORIZON):
    """Returns the share of the rate: 1, and over the second half down to 0."""
    return min(1.0, 2.0 * max(0.0, 1 - iteration / horizon))


def constant(iteration):
    """Returns 1."""
    return 1.0


def freeze_norms(segmenter):
    """Switches off the gradient of scale and shift of an encoder's batch norms, as most of the released codes do."""
    for name, parameter in segmenter.named_parameters():
        if _ENCODER.match(name) and _NORM.search(name):
            parameter.requires_grad_(False)


class Sgd:
    """SGD with momentum; the encoder's tensors may be updated several times with one gradient, heads ten times as fast.

    Args:
      network: the segmenter.
      repeated: whether convolutions of the encoder's blocks are updated 3 times and its shortcuts 4 times, as often as
        AdaptSegNet's code lists them.
      accumulating: whether weight decay adds up over these updates, as up to PyTorch 1.4.
      head_multiple: of the rate outside the encoder.
      share: of the rate, by iteration.
    """

    def __init__(self, network, *, repeated=True, accumulating=True, head_multiple=10.0, share=poly):
        self.share, self.accumulating = share, accumulating
        groups = {}
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(self._group(name, repeated, head_multiple), []).append(parameter)
        self.groups = {
            group: torch.optim.SGD(params, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, fused=True)
            for group, params in groups.items()
        }

    @staticmethod
    def _group(name, repeated, head_multiple):
        """Returns the multiple of the rate and the number of updates of a parameter."""
        if not _ENCODER.match(name):
            return head_multiple, 1
        if not repeated or not name.startswith("layer"):
            return 1.0, 1
        return 1.0, 4 if ".downsample." in name else 3

    def step(self, iteration):
        """Updates the network by its gradients, which are gone afterwards."""
        for (multiple, repeats), optimiser in self.groups.items():
            (group,) = optimiser.param_groups
            group["lr"] = RATE * multiple * self.share(iteration)
            adds_up = self.accumulating and repeats > 1
            group["weight_decay"] = 0.0 if adds_up else DECAY
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            for _ in range(repeats):
                if adds_up:
                    torch._foreach_add_([parameter.grad for parameter in params], params, alpha=DECAY)
                optimiser.step()
            optimiser.zero_grad(set_to_none=True)


class Adam:
    """Adam of one network or several, at one rate."""

    def __init__(self, *networks, rate=1e-4, betas=(0.9, 0.99), share=poly):
        self.rate, self.share = rate, share
        params = [parameter for network in networks for parameter in network.parameters()]
        self.optimiser = torch.optim.Adam(params, lr=rate, betas=betas, fused=True)

    def step(self, iteration):
        """Updates the networks by their gradients, which are gone afterwards."""
        (group,) = self.optimiser.param_groups
        group["lr"] = self.rate * self.share(iteration)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


class Average:
    """A teacher's parameters, which follow a student's: theta_g <- a theta_g + (1 - a) theta_f, a at most `alpha`."""

    def __init__(self, teacher, student, alpha):
        self.teacher, self.student, self.alpha = list(teacher.parameters()), list(student.parameters()), alpha

    @torch.no_grad()
    def step(self, iteration):
        """Moves the teacher; at iteration 0 it becomes the student."""
        moved = 1.0 - min(1.0 - 1.0 / (iteration + 1), self.alpha)
        torch._foreach_lerp_(self.teacher, self.student, moved)
