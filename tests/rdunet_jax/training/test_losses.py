"""Losses against closed forms in float64, against Keras' and Optax', and at the edges."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from rdunet_jax.training.losses import (
    LOSSES,
    SMOOTHING,
    binary_cross_entropy,
    dice,
    focal,
    make_loss,
    soft_dice,
    tversky,
)

OWN = [name for name in LOSSES if LOSSES.origin(name) is None]
"""Without those of plugins that other tests have loaded."""
# A few roundings of float32 numbers in sums of equal sign.
ROUNDING = 1e-6


def example(shape=(2, 3, 4)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=shape).astype(np.float32), rng.integers(0, 2, shape).astype(np.uint8)


def closed_form(name: str, logits: np.ndarray, targets: np.ndarray, alpha: float = 0.5) -> float:
    """The textbook's formula in float64."""
    p, t = 1 / (1 + np.exp(-logits.astype(np.float64))), targets.astype(np.float64)
    hit, false, missed, s = (p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum(), SMOOTHING
    right = np.where(t == 1, p, 1 - p)
    return {
        "bce": -np.log(right).mean(),
        "dice": 1 - (2 * hit + 1) / (p.sum() + t.sum() + 1),
        "tversky": 1 - (hit + s) / (hit + alpha * false + (1 - alpha) * missed + s),
        "focal": -(np.where(t == 1, 0.25, 0.75) * (1 - right) ** 2 * np.log(right)).mean(),
        "iou": 1 - (hit + s) / (hit + false + missed + s),
    }[name]


@pytest.mark.parametrize("name", OWN)
def test_each_is_its_formula(name) -> None:
    logits, targets = example()
    loss = make_loss(name)(jnp.asarray(logits), jnp.asarray(targets))
    assert loss.dtype == jnp.float32
    assert float(loss) == pytest.approx(closed_form(name, logits, targets), rel=ROUNDING)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.7, 0.9])
def test_tversky_is_its_formula_at_every_alpha(alpha) -> None:
    logits, targets = example()
    loss = make_loss("tversky", alpha)(jnp.asarray(logits), jnp.asarray(targets))
    assert float(loss) == pytest.approx(closed_form("tversky", logits, targets, alpha), rel=ROUNDING)


def test_tversky_alpha_weighs_false_positives() -> None:
    targets = jnp.array([1, 1, 0, 0], jnp.uint8)
    too_much, too_little = jnp.array([9.0, 9, 9, -9]), jnp.array([9.0, -9, -9, -9])
    assert tversky(too_much, targets, 0.9) > tversky(too_little, targets, 0.9)
    assert tversky(too_much, targets, 0.1) < tversky(too_little, targets, 0.1)


def test_dice_is_tversky_at_one_half_and_the_reported_dice() -> None:
    logits, targets = (jnp.asarray(x) for x in example())
    assert float(dice(logits, targets)) == float(tversky(logits, targets, 0.5))
    reported = soft_dice(jax.nn.sigmoid(logits), targets.astype(jnp.float32))
    assert float(dice(logits, targets)) == pytest.approx(1 - float(reported), rel=ROUNDING)


def test_keras_and_optax_have_the_same() -> None:
    # So many voxels that the smoothing, 0.5 here and 1e-7 there, is nothing beside the sums: 0.5 of about 1e5.
    logits, targets = example((4, 8, 80, 80))
    x, t = jnp.asarray(logits), jnp.asarray(targets, jnp.float32)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        p = jax.nn.sigmoid(x)
        theirs = {
            dice: keras.losses.Dice()(t, p),
            focal: keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True, alpha=0.25, gamma=2.0)(t, p),
            binary_cross_entropy: keras.losses.BinaryCrossentropy()(t, p),
        }
        # What Keras 3 calls false positives it computes from (1 - prediction) * target, so its beta is our alpha.
        tverskys = {a: keras.losses.Tversky(alpha=1 - a, beta=a)(t, p) for a in (0.1, 0.9)}
        optax_focal = optax.sigmoid_focal_loss(x, t, alpha=0.25, gamma=2.0).mean()
    for loss, expected in theirs.items():
        assert float(loss(x, t)) == pytest.approx(float(expected), abs=1e-5), loss
    for alpha, expected in tverskys.items():
        assert float(tversky(x, t, alpha)) == pytest.approx(float(expected), abs=1e-5)
    assert float(focal(x, t)) == pytest.approx(float(optax_focal), rel=1e-5)


@pytest.mark.parametrize("name", OWN)
def test_gradients_are_those_of_the_formula(name) -> None:
    logits, targets = example()
    gradient = jax.grad(make_loss(name, 0.5))(jnp.asarray(logits), jnp.asarray(targets))
    expected, h = np.zeros(logits.shape), 1e-5
    for index in np.ndindex(*logits.shape):
        ends = []
        for sign in (1, -1):
            moved = logits.astype(np.float64)
            moved[index] += sign * h
            ends.append(closed_form(name, moved, targets))
        expected[index] = (ends[0] - ends[1]) / (2 * h)
    # Central differences in float64 are right to about 1e-10; the rest is float32's rounding of numbers up to 0.1.
    np.testing.assert_allclose(gradient, expected, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("targets", [(0, 1, 1, 0), (0, 0, 0, 0), (1, 1, 1, 1)])
@pytest.mark.parametrize("logits", [(-1e4, 1e4, -1e4, 1e4), (-1e4,) * 4, (1e4,) * 4, (0.0,) * 4])
def test_extreme_logits_and_empty_masks_give_finite_losses_and_gradients(name, dtype, targets, logits) -> None:
    loss, gradient = jax.value_and_grad(make_loss(name))(jnp.array(logits, dtype), jnp.array(targets, jnp.uint8))
    assert loss.dtype == jnp.float32 and gradient.dtype == dtype
    assert np.isfinite(float(loss)) and float(loss) >= 0
    assert np.isfinite(np.float32(gradient)).all()
    if all((logit > 0) == target for logit, target in zip(logits, targets, strict=True)) and 0.0 not in logits:
        assert float(loss) == 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_confident_errors_cost_their_logit(dtype) -> None:
    logits = jnp.array([-1e4, 1e4, -1e4, 1e4], dtype)
    targets = jnp.array([0, 1, 1, 0], jnp.uint8)
    loss, gradient = jax.value_and_grad(binary_cross_entropy)(logits, targets)
    # of the two wrong ones each costs |logit|; 0.4% is bfloat16's spacing
    assert float(loss) == pytest.approx(5e3, rel=4e-3)
    np.testing.assert_allclose(np.float32(gradient), [0, 0, -0.25, 0.25], atol=1e-6)
    # Focal: |logit| at weight 1/4 for tumour and 3/4 for the rest, over 4 voxels
    assert float(focal(logits, targets)) == pytest.approx(2.5e3, rel=4e-3)


@pytest.mark.parametrize("name", OWN)
def test_bfloat16_logits_lose_no_more_than_their_own_rounding(name) -> None:
    logits, targets = example((2, 8, 64, 64))
    coarse = jnp.asarray(logits).astype(jnp.bfloat16)
    exact = closed_form(name, np.asarray(coarse.astype(jnp.float32)), targets)
    # 65,000 terms: a sum kept in bfloat16 would stop growing at 256
    assert float(make_loss(name)(coarse, jnp.asarray(targets))) == pytest.approx(exact, rel=1e-5)


def test_weighted_sums() -> None:
    logits, targets = (jnp.asarray(x) for x in example())
    expected = 0.3 * tversky(logits, targets, 0.7) + binary_cross_entropy(logits, targets) + 2 * focal(logits, targets)
    total = jax.jit(make_loss("0.3*tversky + bce+2 * focal", 0.7))(logits, targets)
    assert float(total) == pytest.approx(float(expected), rel=ROUNDING)


@pytest.mark.parametrize("formula", ["", "bce+", "hinge", "x*bce", "bce*2"])
def test_an_unknown_formula_is_refused_with_the_names_there_are(formula) -> None:
    with pytest.raises(ValueError, match="bce, dice, tversky, focal, iou"):
        make_loss(formula)
