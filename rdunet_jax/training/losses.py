"""Losses from logits, computed in float32, each a mean or a ratio over a whole batch; and weighted sums of them.

| name      | loss                                                                   |
|-----------|------------------------------------------------------------------------|
| `bce`     | binary cross-entropy, the paper's choice                               |
| `dice`    | 1 - soft Dice                                                          |
| `tversky` | 1 - Tversky index: Dice with a weight for FP and another for FN         |
| `focal`   | cross-entropy with less weight on voxels that are already right        |
| `iou`     | 1 - soft intersection over union                                       |

The paper's Table 5 compares all five. A plugin registers others in `LOSSES`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Shaped

from rdunet_jax.config import parse_loss
from rdunet_jax.registry import LOSSES

Logits = Float[Array, "*shape"]
Targets = Shaped[Array, "*shape"]
"""0 or 1, any dtype."""
Scalar = Float[Array, ""]
Loss = Callable[[Logits, Targets], Scalar]

SMOOTHING = 0.5
"""Added above and below in the ratios of overlap, so that an empty mask has a value and a gradient. With 0.5 the Dice
loss is one minus the Dice with +1 smoothing that the Keras code reports."""


@LOSSES.register("bce")
def binary_cross_entropy(logits: Logits, targets: Targets) -> Scalar:
    """Mean binary cross-entropy over all voxels (paper, section 3.3)."""
    return optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets.astype(jnp.float32)).mean()


@LOSSES.register("tversky")
def tversky(logits: Logits, targets: Targets, alpha: float = 0.5) -> Scalar:
    """One minus the Tversky index TP / (TP + alpha FP + (1 - alpha) FN) of the probabilities.

    Alpha weighs false positives. Where false positives cost more, a trained network has fewer of them and misses more.
    The paper's Table 5 shows this for a rising alpha: 786 slices falsely positive and 221 falsely negative at 0.1, 243
    and 396 at 0.9. An alpha on the false negatives would reverse that trend. At 0.5 this is Dice.
    """
    return _overlap_loss(logits, targets, alpha, 1 - alpha)


@LOSSES.register("dice")
def dice(logits: Logits, targets: Targets) -> Scalar:
    """One minus soft Dice, (2 TP + 1) / (|X| + |Y| + 1)."""
    return _overlap_loss(logits, targets, 0.5, 0.5)


@LOSSES.register("iou")
def iou(logits: Logits, targets: Targets) -> Scalar:
    """One minus the soft intersection over union."""
    return _overlap_loss(logits, targets, 1.0, 1.0)


@LOSSES.register("focal")
def focal(logits: Logits, targets: Targets, gamma: float = 2.0, alpha: float = 0.25) -> Scalar:
    """Mean of -w (1 - p)^gamma log p, with p the probability of the right class (Lin et al. 2017, and their defaults).

    Args:
        alpha: w of tumour; the rest has 1 - alpha.
    """
    targets = targets.astype(jnp.float32)
    margin = logits.astype(jnp.float32) * (2 * targets - 1)
    # (1 - p)^gamma as an exponential: a power has no gradient where 1 - p is rounded to 0.
    voxels = jnp.exp(-gamma * jax.nn.softplus(margin)) * jax.nn.softplus(-margin)
    return ((alpha * targets + (1 - alpha) * (1 - targets)) * voxels).mean()


def _overlap_loss(logits: Logits, targets: Targets, false_positives: float, false_negatives: float) -> Scalar:
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    tumour, rest = jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits)  # 1 - p would cancel where p is near 1
    wrong = false_positives * (tumour * (1 - targets)).sum() + false_negatives * (rest * targets).sum()
    return _overlap_error((tumour * targets).sum(), wrong)


def _overlap_error(overlap: Any, wrong: Any) -> Any:
    """One minus a smoothed ratio of overlap; as wrong / all and not 1 - right / all, for digits where it is small."""
    return wrong / (overlap + wrong + SMOOTHING)


def soft_dice(probabilities: Any, targets: Any) -> Any:
    """Soft Dice (2 TP + 1) / (|X| + |Y| + 1), the metric of the Keras code: one minus the Dice loss.

    Args:
        probabilities: a NumPy or JAX array of floats.
        targets: of the same shape, library and dtype, 0 or 1.
    """
    overlap = (probabilities * targets).sum()
    return 1 - _overlap_error(overlap, 0.5 * (probabilities.sum() + targets.sum()) - overlap)


def make_loss(formula: str, tversky_alpha: float = 0.5) -> Loss:
    """The loss of a formula: a name of `LOSSES`, or names with weights such as `bce+0.5*dice`.

    Raises:
        RunError: it is not such a formula.
    """
    losses: dict[str, Loss] = {**LOSSES, "tversky": partial(tversky, alpha=tversky_alpha)}
    terms = [(weight, losses[name]) for weight, name in parse_loss(formula)]

    def weighted_sum(logits: Logits, targets: Targets) -> Scalar:
        return sum((weight * loss(logits, targets) for weight, loss in terms), start=jnp.float32(0))

    return weighted_sum
