"""The two sides of `benchmarks.networks`: a network of the library and its PyTorch counterpart, ready to be timed."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.side_by_side import MIB, Side, cores

FORWARD, BACKWARD = PHASES = ("forward", "forward+backward")
RESIDUAL_SCALE = 0.2


class Case(NamedTuple):
    """One row.

    Attributes:
      network: name in `uda_jax.networks`.
      height, width, batch, channels: of the input, which is random.
      dialect: of the weights that both sides get, or None if there is none: then only shapes and numbers of
        parameters are compared.
      shape: options of the network that both sides know.
      options: those of JAX alone, such as the start of the weights.
    """

    network: str
    height: int
    width: int
    batch: int = 1
    channels: int = 3
    dialect: str | None = None
    shape: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}
    classes: int = 19


class JaxSide(Side):
    """The network of the library; its input and functions are compiled ahead."""

    def __init__(self, case: Case):
        import jax
        import jax.numpy as jnp

        from uda_jax import networks

        options = {**case.shape, **case.options}
        if "dtype" in options:
            options["dtype"] = jnp.dtype(options["dtype"])
        network = networks.build(case.network, case.classes, **options)
        # The discriminators and the translator are the same in training, and give one map.
        modes = "train" in inspect.signature(network.__call__).parameters
        images, key = jnp.asarray(_images(case)), jax.random.key(0)

        def apply(variables, images, train):
            rest = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": key}} if modes and train else {}
            found = network.apply(variables, images, **rest)
            outputs, updated = found if rest else (found, {})
            return (outputs if modes else {"map": outputs}), updated

        def objective(params, batch_stats, images):
            outputs, updated = apply({"params": params, **batch_stats}, images, True)
            return sum(jnp.square(output).mean() for output in outputs.values()), updated

        self.case = case
        self.variables = jax.jit(network.init)(key, images)
        self._settle_weights(apply, images)
        params = self.variables["params"]
        rest = {name: value for name, value in self.variables.items() if name != "params"}
        forward = jax.jit(lambda variables, images: apply(variables, images, False)[0]).lower(self.variables, images)
        # Counted before XLA rewrites the program, so that the figure is the same on every machine.
        self.flops = forward.cost_analysis()["flops"]
        forward = forward.compile()
        backward = jax.jit(jax.grad(objective, has_aux=True)).lower(params, rest, images).compile()
        self.compiled = {FORWARD: forward, BACKWARD: backward}
        self.calls = {
            FORWARD: lambda: jax.block_until_ready(forward(self.variables, images)),
            BACKWARD: lambda: jax.block_until_ready(backward(params, rest, images)),
        }

    def _settle_weights(self, apply: Callable, images: Any) -> None:
        """Makes the start as tame as trained weights are: the comparison with PyTorch is to show faults, not rounding.

        Blocks of a ResNet come near the identity, since a hundred layers of random weights multiply a rounding error
        by thousands. This input's batch statistics become the running ones, so that maps neither vanish nor explode.
        """
        if "batch_stats" not in self.variables:
            return
        import jax

        from uda_jax.networks.batch_norm import MOMENTUM

        def calm(path, leaf):
            return RESIDUAL_SCALE * leaf if jax.tree_util.keystr(path).endswith("['bn3']['scale']") else leaf

        params = jax.tree_util.tree_map_with_path(calm, self.variables["params"])
        empty = jax.tree.map(lambda leaf: 0 * leaf, self.variables["batch_stats"])
        training = jax.jit(lambda variables, images: apply(variables, images, True)[1])
        updated = training({"params": params, "batch_stats": empty}, images)
        self.variables = {"params": params, **jax.tree.map(lambda leaf: leaf / MOMENTUM, updated)}

    def facts(self) -> dict[str, Any]:
        """Returns what the compiler tells: parameters, operations of a forward pass, bytes of temporaries."""
        import jax

        return {
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"])),
            "forward_gflop": self.flops / 1e9,
            "temporary_mib": {
                phase: compiled.memory_analysis().temp_size_in_bytes / MIB for phase, compiled in self.compiled.items()
            },
        }

    def weights(self) -> dict[str, np.ndarray] | None:
        """Returns the PyTorch state dict of the variables, or None without a dialect."""
        from uda_jax import weights

        return weights.to_torch(self.variables, self.case.dialect) if self.case.dialect else None

    def outputs(self) -> dict[str, np.ndarray]:
        """Returns what the forward phase gives, `[B, h, w, C]`."""
        return {name: np.asarray(output) for name, output in self.calls[FORWARD]().items()}


class TorchSide(Side):
    """The module of the same shape."""

    def __init__(self, case: Case):
        import torch

        from benchmarks import torch_networks

        torch.set_num_threads(cores())
        torch.manual_seed(0)
        self.module = torch_networks.build(case.network, case.classes, case.channels, **case.shape)
        images = torch.from_numpy(_images(case).transpose(0, 3, 1, 2).copy())

        def forward():
            with torch.no_grad():
                return self.module(images)

        def backward():
            self.module.zero_grad(set_to_none=True)
            sum(output.square().mean() for output in self.module(images).values()).backward()

        self.calls = {FORWARD: forward, BACKWARD: backward}

    def settle(self, phase: str) -> None:
        """As for both, in the phase's mode."""
        self.module.train(phase == BACKWARD)
        super().settle(phase)

    def parameters(self) -> int:
        """Returns the number of parameters."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def load(self, state_dict: Mapping[str, np.ndarray]) -> None:
        """Takes all weights from a state dict; PyTorch raises unless every name and shape agrees."""
        import torch

        self.module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state_dict.items()})

    def outputs(self) -> dict[str, np.ndarray]:
        """Returns what the forward phase gives, `[B, h, w, C]`."""
        self.module.eval()
        return {name: output.permute(0, 2, 3, 1).numpy() for name, output in self.calls[FORWARD]().items()}


def _images(case: Case) -> np.ndarray:
    shape = (case.batch, case.height, case.width, case.channels)
    return np.random.default_rng(0).standard_normal(shape, np.float32)
