"""What the networks are put together from: pseudo-dense block, dropout, pooling, upsampling, recurrent block."""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rdunet_jax.config import ModelConfig
from rdunet_jax.networks.convolution import ConvWeights, Dtype, add_bias, bias_init, convolve, kernel_init

ModuleDef = Callable[..., nn.Module]


def make_norm(c: ModelConfig, train: bool) -> ModuleDef:
    """Makes the config's normalisation; call it with a name. In training, batch normalisation uses the batch."""
    if c.norm == "group":
        return partial(GroupNorm, num_groups=c.norm_groups, epsilon=c.norm_epsilon)
    return partial(BatchNorm, use_running_average=not train, momentum=c.norm_momentum, epsilon=c.norm_epsilon)


class BatchNorm(nn.BatchNorm):
    """Flax's, computed in float32 whatever the input's dtype, which it returns.

    The variance is the mean of (x - mean)^2, as in Keras. Flax's default, mean(x^2) - mean(x)^2, loses all digits where
    the mean is some hundred times the standard deviation.
    """

    use_fast_variance: bool = False

    def __call__(self, x: Float[Array, "*space channels"]) -> Float[Array, "*space channels"]:  # pyright: ignore
        return super().__call__(x.astype(jnp.float32)).astype(x.dtype)


class GroupNorm(nn.GroupNorm):
    """Flax's, computed in float32 whatever the input's dtype, which it returns; its variance as in `BatchNorm`."""

    use_fast_variance: bool = False

    def __call__(self, x: Float[Array, "*space channels"]) -> Float[Array, "*space channels"]:  # pyright: ignore
        return super().__call__(x.astype(jnp.float32)).astype(x.dtype)


class PseudoDenseBlock(nn.Module):
    """Two 3x3x3 convolutions, each normalised and rectified; the second also sees the block's input (paper, section 2).

        a = relu(norm(conv_1(x)))        b = relu(norm(conv_2([x, a])))

    Both convolutions read x, and conv_2([x, a]) = conv_2x(x) + conv_2a(a). So conv_1 and conv_2x run as one convolution
    with twice the features, and [x, a] is never copied together: the same sums and the same parameters, regrouped.

    Attributes:
        features: channels of a and of b.
        norm: makes a normalisation layer; called with a name.
        dropout: makes a dropout layer, applied after each rectifier; None for no dropout.
        dense: False leaves x out of the second convolution: a plain U-Net block.
        kernel_size: of both convolutions; a depth of 1 keeps slices apart.
        dtype: what it computes in.
    """

    features: int
    norm: ModuleDef
    dropout: ModuleDef | None = None
    dense: bool = True
    kernel_size: Sequence[int] = (3, 3, 3)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch depth height width channels"]
    ) -> Float[Array, "batch depth height width features"]:
        channels = x.shape[-1]
        kernel_1, bias_1 = ConvWeights(self.features, self.kernel_size, self.dtype, name="conv_1")(channels)
        weights_2 = ConvWeights(self.features, self.kernel_size, self.dtype, name="conv_2")
        if self.dense:
            kernel_2, bias_2 = weights_2(channels + self.features)
            kernel_2x, kernel_2a = jnp.split(kernel_2, [channels], axis=-2)
            from_x = convolve(x, jnp.concatenate([kernel_1, kernel_2x], axis=-1))
            first, second = jnp.split(from_x, 2, axis=-1)
            a = self._activate(add_bias(first, bias_1), 1)
            second = second + convolve(a, kernel_2a)
        else:
            kernel_2, bias_2 = weights_2(self.features)
            a = self._activate(add_bias(convolve(x, kernel_1), bias_1), 1)
            second = convolve(a, kernel_2)
        return self._activate(add_bias(second, bias_2), 2)

    def _activate(self, y: Array, index: int) -> Array:
        y = nn.relu(self.norm(name=f"norm_{index}")(y))
        return y if self.dropout is None else self.dropout()(y)


class ChannelDropout(nn.Module):
    """Spatial dropout (Tompson et al. 2015; Keras' `SpatialDropout3D`): drops whole channels, scales the others up."""

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch depth height width channels"]
    ) -> Float[Array, "batch depth height width channels"]:
        if self.deterministic or self.rate == 0:
            return x
        batch, *_, channels = x.shape
        # Flat, because XLA compiles a 5-D draw (as in nn.Dropout) four times longer.
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, (batch * channels,))
        scale = jnp.where(keep, 1 / (1 - self.rate), 0).astype(x.dtype).reshape(batch, 1, 1, 1, channels)
        return x * jnp.broadcast_to(scale, x.shape)


class MaxPool(nn.Module):
    """Maximum over windows of 2 in height and width, and in depth too if `temporal`; an odd size is rounded up.

    Written as comparisons of strided slices: on CPU the gradient of `nn.max_pool` is a scatter, and slow. Among equal
    values the first takes the whole gradient, as in `nn.max_pool`.
    """

    temporal: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch depth height width channels"]
    ) -> Float[Array, "batch pooled_depth pooled_height pooled_width channels"]:
        for axis in (3, 2, 1) if self.temporal else (3, 2):
            if x.shape[axis] % 2:
                padding = [(0, 0)] * x.ndim
                padding[axis] = (0, 1)
                x = jnp.pad(x, padding, constant_values=-jnp.inf)
            first = lax.slice_in_dim(x, 0, None, stride=2, axis=axis)
            second = lax.slice_in_dim(x, 1, None, stride=2, axis=axis)
            x = jnp.where(first >= second, first, second)
        return x


class TransposedUpsample(nn.Module):
    """Keras' `Conv2DTranspose(features, 2, strides=2)` on every slice; `temporal` doubles the depth too.

    With stride equal to the kernel's size no two outputs overlap: every input voxel makes its own 2x2 outputs, which is
    one matrix product and a rearrangement. The kernel is (2, 2, channels, features), or (2, 2, 2, ...) if `temporal`.
    """

    features: int
    temporal: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch depth height width channels"]
    ) -> Float[Array, "batch upsampled_depth upsampled_height upsampled_width features"]:
        batch, depth, height, width, channels = x.shape
        window = (2, 2, 2) if self.temporal else (2, 2)
        kernel = self.param("kernel", kernel_init, (*window, channels, self.features)).astype(self.dtype)
        bias = self.param("bias", bias_init, (self.features,)).astype(self.dtype)
        kernel = kernel.reshape(-1, 2, 2, channels, self.features)
        steps = kernel.shape[0]  # along depth: 1 or 2
        y = x.astype(self.dtype) @ kernel.transpose(3, 0, 1, 2, 4).reshape(channels, -1)
        y = y.reshape(batch, depth, height, width, steps, 2, 2, self.features).transpose(0, 1, 4, 2, 5, 3, 6, 7)
        return add_bias(y.reshape(batch, depth * steps, height * 2, width * 2, self.features), bias)


class NearestUpsample(nn.Module):
    """Every voxel repeated twice in height and width, and in depth too if `temporal` (Keras' `UpSampling2D` / 3D)."""

    temporal: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch depth height width channels"]
    ) -> Float[Array, "batch upsampled_depth upsampled_height upsampled_width channels"]:
        batch, depth, height, width, channels = x.shape
        steps = 2 if self.temporal else 1
        y = jnp.broadcast_to(x[:, :, None, :, None, :, None], (batch, depth, steps, height, 2, width, 2, channels))
        return y.reshape(batch, depth * steps, height * 2, width * 2, channels)


class RecurrentBlock(nn.Module):
    """A stack of recurrent layers over the depth axis (paper, section 2), each followed by a normalisation if asked.

    Attributes:
        features: channels of each layer.
        layer: makes a recurrent layer; called as `layer(features, dtype=, name=)`.
        norm: makes a normalisation layer; called with a name.
        layers: how many.
        normalised: False leaves the normalisations out.
        dtype: what it computes in.
    """

    features: int
    layer: ModuleDef
    norm: ModuleDef
    layers: int = 3
    normalised: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch depth height width channels"]
    ) -> Float[Array, "batch depth height width features"]:
        for index in range(1, self.layers + 1):
            x = self.layer(self.features, dtype=self.dtype, name=f"recurrent_{index}")(x)
            if self.normalised:
                x = self.norm(name=f"norm_{index}")(x)
        return x
