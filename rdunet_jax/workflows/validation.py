"""Validation during training: two Dice scores of held-out patients, and a picture."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8
from scipy import ndimage

from data_pipeline.loading import Dataset
from data_pipeline.settings import Sampling
from rdunet_jax.config import InferenceConfig
from rdunet_jax.inference.sliding_window import SlidingWindow
from rdunet_jax.scoring.slices import SliceScores, score_slices, summarise
from rdunet_jax.training.history import Validation
from rdunet_jax.training.losses import soft_dice
from rdunet_jax.training.step import TrainState
from rdunet_jax.workflows.prediction import ct_mask, predict_patients

OnProgress = Callable[[int, int], None]
Case = tuple[Float32[np.ndarray, "depth rows columns"], Bool[np.ndarray, "depth rows columns"], SliceScores]
"""Probabilities and truth on the network's grid, and the scores of the thresholded prediction."""


@dataclass(frozen=True)
class Validator:
    """Measures a network on held-out patients: `fit` calls it with the state at each epoch's end."""

    data: Dataset
    split: str
    on: Literal["patients", "patches", "none"]
    """Whole patients, scored on the CT's grid as `rdunet evaluate` does; their patches, scored on the network's grid
    and not dilated, where a patient too short for a patch is one; or nothing but the picture."""
    sampling: Sampling
    """Its selection and depth are those of the patches, without a tumour-free share."""
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
        if self.on == "patches":
            every = self.data.patches(self.split, self.sampling)
            slices = [self.data.account.patients[name].depth for name in self.data.patient_names(self.split)]
            short = [self.data.patient(self.split, i) for i, n in enumerate(slices) if n < self.sampling.depth]
            patches = chain(every, ((one.image, one.mask) for one in short))
            for number, (image, mask) in enumerate(patches, 1):
                probabilities = self.window(state.variables, image)
                yield probabilities, mask, score_slices(probabilities > self.inference.threshold, mask)
                on_progress(number, len(every) + len(short))
            return
        patients, count = self.data.patients(self.split), self.data.patient_count(self.split)
        for one, probabilities in predict_patients(patients, count, self.window, state.variables, on_progress):
            mask = ct_mask(probabilities, one, self.inference)
            yield probabilities, one.mask, score_slices(mask, one.ct_mask)

    def _picture(self, state: TrainState) -> UInt8[np.ndarray, "rows columns 3"]:
        image, truth = self._shown
        return draw_prediction(self.window(state.variables, image), image, truth, self.inference)

    @cached_property
    def _shown(self) -> tuple[Shaped[np.ndarray, "depth rows columns"], Bool[np.ndarray, "depth rows columns"]]:
        """As many slices as a patch has, around the one of the first patient that holds most tumour."""
        patient = next(self.data.patients(self.split))
        depth = self.window.depth
        middle = int(patient.mask.sum(axis=(1, 2)).argmax())
        first = max(0, min(middle - depth // 2, len(patient.image) - depth))
        return patient.image[first : first + depth], patient.mask[first : first + depth]


def draw_prediction(
    probabilities: Float32[np.ndarray, "depth rows columns"],
    image: Shaped[np.ndarray, "depth rows columns"],
    truth: Bool[np.ndarray, "depth rows columns"],
    inference: InferenceConfig,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The slice that holds most tumour, in grey, with the outlines of truth (green) and prediction (red)."""
    index = int(truth.sum(axis=(1, 2)).argmax())
    grey = np.asarray(image[index], np.float32)
    grey = 255 * (grey - grey.min()) / max(float(np.ptp(grey)), 1.0)
    picture = np.repeat(grey.astype(np.uint8)[..., np.newaxis], 3, axis=-1)
    prediction = probabilities[index] > inference.threshold
    for mask, colour in ((truth[index], (0, 255, 0)), (prediction, (255, 0, 0))):
        picture[mask & np.logical_not(ndimage.binary_erosion(mask))] = colour
    return picture
