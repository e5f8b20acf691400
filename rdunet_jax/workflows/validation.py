"""Validation during training: two Dice scores of held-out patients, and a picture."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8
from scipy import ndimage

from data_pipeline.loading import Dataset
from rdunet_jax.config import InferenceConfig
from rdunet_jax.inference.sliding_window import SlidingWindow
from rdunet_jax.scoring.slices import SliceScores, score_slices, summarise
from rdunet_jax.training.history import Validation
from rdunet_jax.training.losses import soft_dice
from rdunet_jax.training.step import TrainState
from rdunet_jax.workflows.prediction import ct_mask, predict_patients

OnProgress = Callable[[int, int], None]
Case = tuple[Float32[np.ndarray, "depth size size"], Bool[np.ndarray, "depth size size"], SliceScores]
"""Probabilities and truth on the network's grid, and the scores of the thresholded prediction."""


@dataclass(frozen=True)
class Validator:
    """Measures a network on held-out patients: `fit` calls it with the state at each epoch's end."""

    data: Dataset
    split: str
    on: Literal["patients", "patches", "none"]
    """Whole patients, scored on the CT's grid as `rdunet evaluate` does; their patches, scored on the network's grid
    and not dilated; or nothing but the picture. Patients too short for a patch are scored as whole patients."""
    window: SlidingWindow
    inference: InferenceConfig

    def __call__(self, state: TrainState, on_progress: OnProgress) -> Validation:
        """Both scores, each a mean over the cases or their slices, and the picture."""
        picture = self._picture(state)
        if self.on == "none":
            return Validation(None, None, picture)
        soft, scores = [], []
        for probabilities, truth, case_scores in self._cases(state, on_progress):
            one = soft_dice(probabilities.astype(np.float64), truth.astype(np.float64))
            soft.append(float(one) if np.isfinite(one) else 0.0)
            scores.append(case_scores)
        return Validation(summarise(scores)["mean_dice_marked_slices"] or 0.0, float(np.mean(soft)), picture)

    def _cases(self, state: TrainState, on_progress: OnProgress) -> Iterator[Case]:
        patches = self.data.patch_count(self.split)
        if self.on == "patches" and patches:
            for number, (image, mask) in enumerate(self.data.patches(self.split), 1):
                probabilities = self.window(state.variables, image)
                yield probabilities, mask, score_slices(probabilities > self.inference.threshold, mask)
                on_progress(number, patches)
            return
        patients, count = self.data.patients(self.split), self.data.patient_count(self.split)
        for one, probabilities in predict_patients(patients, count, self.window, state.variables, on_progress):
            mask = ct_mask(probabilities, one.ct_mask.shape, self.inference)
            yield probabilities, one.mask, score_slices(mask, one.ct_mask)

    def _picture(self, state: TrainState) -> UInt8[np.ndarray, "size size 3"]:
        image, truth = self._shown
        return draw_prediction(self.window(state.variables, image), image, truth, self.inference)

    @cached_property
    def _shown(self) -> tuple[Shaped[np.ndarray, "depth size size"], Bool[np.ndarray, "depth size size"]]:
        """As many slices as a patch has, around the one of the first patient that holds most tumor."""
        patient = next(self.data.patients(self.split))
        depth = self.window.depth
        middle = int(patient.mask.sum(axis=(1, 2)).argmax())
        first = max(0, min(middle - depth // 2, len(patient.image) - depth))
        return patient.image[first : first + depth], patient.mask[first : first + depth]


def draw_prediction(
    probabilities: Float32[np.ndarray, "depth size size"],
    image: Shaped[np.ndarray, "depth size size"],
    truth: Bool[np.ndarray, "depth size size"],
    inference: InferenceConfig,
) -> UInt8[np.ndarray, "size size 3"]:
    """The slice that holds most tumor, in gray, with the outlines of truth (green) and prediction (red)."""
    index = int(truth.sum(axis=(1, 2)).argmax())
    gray = np.asarray(image[index], np.float32)
    gray = 255 * (gray - gray.min()) / max(float(np.ptp(gray)), 1.0)
    picture = np.repeat(gray.astype(np.uint8)[..., np.newaxis], 3, axis=-1)
    prediction = probabilities[index] > inference.threshold
    for mask, color in ((truth[index], (0, 255, 0)), (prediction, (255, 0, 0))):
        picture[mask & ~ndimage.binary_erosion(mask)] = color
    return picture
