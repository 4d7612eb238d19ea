"""LeNet and DTN, the classifiers of digits, with the outputs of a segmenter of 1x1 maps.

Source: the digit experiments of CyCADA (arXiv 1711.03213) in its released code, which IntraDA (arXiv 2004.07703)
follows. There are no published weights, so dense layers read maps flattened in their own order, height, width and
channel, not in PyTorch's.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.errors import UserError
from uda_jax.networks import initialisers
from uda_jax.networks.base import Entry, Options, patterns
from uda_jax.networks.batch_norm import BatchNorm
from uda_jax.networks.convolution import small_conv
from uda_jax.networks.kernels import max_pool
from uda_jax.schema import config_field

FEW_CHANNELS_CONV = functools.partial(small_conv, few_channels=True)
XAVIER = initialisers.xavier_normal()

# Two unpadded 5x5 convolutions, each followed by a halving, leave one pixel of 16.
LENET_SMALLEST = 16


@dataclasses.dataclass(frozen=True)
class DTNOptions(Options):
    """What `networks.build` accepts for "dtn"."""


@dataclasses.dataclass(frozen=True)
class LeNetOptions(Options):
    """What `networks.build` accepts for "lenet"."""

    grey: bool = config_field(
        False, "Whether it sees the mean of the image's channels alone, as CyCADA's LeNet sees grey digits."
    )


class LeNet(nn.Module):
    """Two 5x5 convolutions with max pools and two dense layers, for MNIST and USPS.

    Training needs an rng named "dropout": half of the second convolution's channels and half of the features are
    dropped. Kernels start Xavier-normal, biases at zero.

    Attributes:
      num_classes: channels of the logits.
      options: whether images are seen in grey, and the type.
    """

    num_classes: int
    options: LeNetOptions = LeNetOptions()

    def setup(self):
        """Names the layers; each creates its parameters when first called."""
        dtype = self.options.dtype
        options = {"padding": 0, "kernel_init": XAVIER, "dtype": dtype, "conv_general_dilated": FEW_CHANNELS_CONV}
        self.conv1 = nn.Conv(20, (5, 5), **options)
        self.conv2 = nn.Conv(50, (5, 5), **options)
        self.channel_dropout = nn.Dropout(0.5, broadcast_dims=(1, 2))
        self.fc1 = nn.Dense(500, kernel_init=XAVIER, dtype=dtype)
        self.feature_dropout = nn.Dropout(0.5)
        self.fc2 = nn.Dense(self.num_classes, kernel_init=XAVIER, dtype=dtype)

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Classifies normalised images.

        Args:
          images: `[B, H, W, C]` with any number of channels; the paper's are 28x28 and grey.
          train: whether dropout is active; then apply with `rngs={"dropout": key}`.

        Returns:
          float32 maps of one pixel: "logits" `[B, 1, 1, num_classes]` and "features" `[B, 1, 1, 500]`, before the ReLU
          and the dropout that precede the last layer.

        Raises:
          UserError: a height or width below 16.
        """
        height, width = images.shape[1:3]
        if min(height, width) < LENET_SMALLEST:
            raise UserError(
                f"network.lenet: expected images of at least {LENET_SMALLEST}x{LENET_SMALLEST} pixels, "
                f"got {height}x{width}; enlarge the size of the data"
            )
        x = jnp.mean(images, axis=-1, keepdims=True) if self.options.grey else images
        x = nn.relu(max_pool(self.conv1(x), 2, 2))
        x = self.channel_dropout(self.conv2(x), deterministic=not train)
        x = nn.relu(max_pool(x, 2, 2))
        features = self.fc1(_flatten(x)).astype(jnp.float32)
        return {"logits": self.classify(features, train), "features": features}

    def classify(self, features: jax.Array, train: bool = False) -> jax.Array:
        """Returns logits `[B, 1, 1, num_classes]` for features `[B, 1, 1, 500]`."""
        x = self.feature_dropout(nn.relu(features), deterministic=not train)
        return self.fc2(x).astype(jnp.float32)


class DTN(nn.Module):
    """Three 5x5 convolutions of stride 2 and two dense layers, all but the last with batch norm, for SVHN.

    Training needs an rng named "dropout": 10, 30 and 50 % of the convolutions' channels and half of the features are
    dropped. Kernels start Xavier-normal, biases at zero.

    Attributes:
      num_classes: channels of the logits.
      options: the type.
    """

    num_classes: int
    options: DTNOptions = DTNOptions()

    def setup(self):
        """Names the layers; each creates its parameters when first called."""
        dtype = self.options.dtype

        def conv(features, high):
            return nn.Conv(features, (5, 5), strides=2, padding=[(2, high)] * 2, kernel_init=XAVIER, dtype=dtype)

        # The last one gives a row and a column too many, which are cut off: on the CPU, XLA has only a naive loop for
        # the gradient through a result smaller than the kernel (4x4 under 5x5).
        self.conv1, self.conv2, self.conv3 = conv(64, 2), conv(128, 2), conv(256, 4)
        self.bn1, self.bn2, self.bn3, self.bn4 = (BatchNorm(dtype=dtype) for _ in range(4))
        self.channel_dropouts = [nn.Dropout(rate, broadcast_dims=(1, 2)) for rate in (0.1, 0.3, 0.5)]
        self.fc1 = nn.Dense(512, kernel_init=XAVIER, dtype=dtype)
        self.feature_dropout = nn.Dropout(0.5)
        self.fc2 = nn.Dense(self.num_classes, kernel_init=XAVIER, dtype=dtype)

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Classifies normalised images.

        Args:
          images: `[B, H, W, C]` with any number of channels; the paper's are 32x32 and coloured.
          train: whether dropout is active and batch norm in its training mode; then apply with
            `rngs={"dropout": key}, mutable=["batch_stats"]`.

        Returns:
          float32 maps of one pixel: "logits" `[B, 1, 1, num_classes]` and "features" `[B, 1, 1, 512]`, before the ReLU
          and the dropout that precede the last layer.
        """
        x = images
        convs, norms = (self.conv1, self.conv2, self.conv3), (self.bn1, self.bn2, self.bn3)
        for conv, norm, dropout in zip(convs, norms, self.channel_dropouts, strict=True):
            height, width = (-(-n // 2) for n in x.shape[1:3])
            x = norm(conv(x)[:, :height, :width], train)
            x = nn.relu(dropout(x, deterministic=not train))
        features = self.bn4(self.fc1(_flatten(x)), train).astype(jnp.float32)
        return {"logits": self.classify(features, train), "features": features}

    def classify(self, features: jax.Array, train: bool = False) -> jax.Array:
        """Returns logits `[B, 1, 1, num_classes]` for features `[B, 1, 1, 512]`."""
        x = self.feature_dropout(nn.relu(features), deterministic=not train)
        return self.fc2(x).astype(jnp.float32)


def _flatten(x: jax.Array) -> jax.Array:
    """Returns `[B, 1, 1, H * W * C]` for `x` `[B, H, W, C]`."""
    return x.reshape(x.shape[0], 1, 1, -1)


NETWORKS = {
    "lenet": Entry(LeNet, LeNetOptions, layers=patterns(("conv1/", "conv2/", "fc1/"))),
    "dtn": Entry(DTN, DTNOptions, layers=patterns(("(conv|bn)1/", "(conv|bn)2/", "(conv|bn)3/", "(fc1|bn4)/"))),
}
