"""What a benchmark computes: sizes, weights and input of a case. Needs NumPy alone, which every contestant has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Program = Callable[[], np.ndarray]
"""Computes once, waits for the result and returns it."""

MATMUL = 2048
"""Rows and columns of the matrices whose product measures what the machine can compute."""


@dataclass(frozen=True)
class Case:
    """What is computed. Default sizes are those of the full network."""

    task: Literal["predict", "train", "patient"]
    folder: str = ""
    """Contains `weights.npz`, for `patient` also `volume.npy`; the results are written there."""
    size: int = 256
    batch: int = 1
    depth: int = 8
    widths: Sequence[int] = (32, 64, 128)
    recurrent_width: int = 256
    recurrent_layers: int = 3
    threads: int = 2
    augmentation: Sequence[str] = ()
    patients: int = 1
    """How many times the volume is predicted in one run."""

    def network(self) -> dict[str, Any]:
        """Fields of `ModelConfig` that the case sets."""
        return {
            "widths": tuple(self.widths),
            "recurrent_width": self.recurrent_width,
            "recurrent_layers": self.recurrent_layers,
        }

    def weights(self) -> list[np.ndarray]:
        """Weights in the order of the Keras network."""
        with np.load(Path(self.folder) / "weights.npz") as file:
            return [file[f"arr_{index}"] for index in range(len(file.files))]

    def volume(self) -> np.ndarray:
        """Grey values of the patient, uint8 (slices, size, size)."""
        return np.load(Path(self.folder) / "volume.npy")

    def patches(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and masks, (batch, depth, height, width, 1), the same for every contestant."""
        rng = np.random.default_rng(1)
        images = rng.random((self.batch, self.depth, self.size, self.size, 1), np.float32)
        return images, (images > 0.7).astype(np.uint8)

    def forward_flops(self) -> float:
        """Multiplications and additions in the convolutions of one forward pass, counted as direct convolutions."""

        def convolution(area: int, channels: int, features: int, taps: int) -> float:
            return 2.0 * self.batch * self.depth * area * taps * channels * features

        def block(area: int, channels: int, features: int) -> float:
            return convolution(area, channels, features, 27) + convolution(area, channels + features, features, 27)

        total, area, channels, skips = 0.0, self.size**2, 1, []
        for features in self.widths:
            total += block(area, channels, features)
            channels, area = channels + features, area // 4
            skips.append(features)
        skips[-1] = channels  # the coarsest level passes on its whole output
        for _ in range(self.recurrent_layers):
            width = self.recurrent_width
            total += convolution(area, channels + width, 4 * width, 9)
            channels = width
        for features, skip in zip(reversed(self.widths), reversed(skips), strict=True):
            area *= 4
            total += convolution(area, channels, features, 1)  # 2x2 kernel at stride 2: one tap for each pixel
            channels = features + skip
            total += block(area, channels, features)
            channels += features
        return total + convolution(area, channels, 1, 1)


def unchanged(image: Any) -> Any:
    """The grey conversion of images that are normalised already: none."""
    return image
