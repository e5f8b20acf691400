"""Losses against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdunet_jax.losses import binary_cross_entropy


def test_binary_cross_entropy_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.integers(0, 2, (2, 3, 4))
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()
    assert float(binary_cross_entropy(jnp.asarray(logits), jnp.asarray(targets))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_extreme_logits_give_finite_losses_and_gradients(dtype) -> None:
    logits = jnp.array([-1e4, 1e4, -1e4, 1e4], dtype)
    targets = jnp.array([0, 1, 1, 0], jnp.uint8)
    loss, gradient = jax.value_and_grad(binary_cross_entropy)(logits, targets)
    assert loss.dtype == jnp.float32
    # of the two wrong ones each costs |logit|; 0.4% is bfloat16's spacing
    assert float(loss) == pytest.approx(5e3, rel=4e-3)
    np.testing.assert_allclose(np.float32(gradient), [0, 0, -0.25, 0.25], atol=1e-6)
