"""A trained network to call from Python: probabilities and masks of a CT that is a NumPy array.

A run is made here from two batches of noise, as quick as can be; `rdunet train` makes better ones:

>>> import rdunet_jax
>>> def batches(start):
...     while True:
...         image = np.random.default_rng(0).integers(-1000, 400, (2, 4, 16, 16, 1), np.int16)
...         yield {"image": image, "mask": (image > 0).astype(np.uint8)}
>>> network = rdunet_jax.model_config("tiny", widths=(4,), recurrent_width=4, patch_depth=4)
>>> recipe = rdunet_jax.TrainConfig(steps=2)
>>> state = rdunet_jax.fit(
...     network, recipe, normalise="hu_window", batches=batches, steps_per_epoch=2, workdir=Path("run")
... )
<BLANKLINE>
>>> model = rdunet_jax.load("run")
>>> volume = np.full((6, 32, 32), -800, np.int16)  # Hounsfield units: slices, rows, columns
>>> probabilities = model.predict(volume, spacing=(3.0, 1.0, 1.0))
>>> probabilities.shape, probabilities.dtype
((6, 32, 32), dtype('float32'))
>>> model.segment(volume, spacing=(3.0, 1.0, 1.0)).dtype
dtype('bool')
>>> model.config.model.widths, model.provenance.step
((4,), 2)
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from data_pipeline.preprocessing.intensity import AIR_HU
from data_pipeline.preprocessing.patient import prepare_hounsfield
from rdunet_jax.config import PostprocessingConfig
from rdunet_jax.errors import InputError
from rdunet_jax.inference.postprocessing import CTGrid, CTPrediction
from rdunet_jax.inference.sliding_window import SlidingWindow
from rdunet_jax.options import PredictionOverrides
from rdunet_jax.runs.model_file import TrainedOn, load_model
from rdunet_jax.runs.plugins import Plugin, load_plugin
from rdunet_jax.runs.training_data import DataIdentity, TrainingData
from rdunet_jax.runs.workdir import RunConfig, TrainedNetwork
from rdunet_jax.workflows.prediction import load_network, postprocessing_of, predict_ct, sliding_window

_AS_TRAINED = PredictionOverrides()
Spacing = tuple[float, float, float]
"""Millimetres between slices, rows and columns."""


@dataclass(frozen=True)
class Provenance:
    """Where a network comes from."""

    run: str
    """Name of the run's folder or of the model file, without its path."""
    step: int
    """Training steps of its checkpoint."""
    best: bool
    """Whether it is the checkpoint of the best validation, not the latest."""
    weights_sha256: str
    data_sets: tuple[DataIdentity, ...]
    """What it was trained on, with the SHA-256 of each; empty where that is not recorded."""
    trained_on: int
    """Number of patients."""
    selected_on: int
    """Number of patients by whom the checkpoint was chosen."""
    plugins: tuple[Plugin, ...]
    """Files with parts of the network that are not of this package."""


@dataclass(frozen=True)
class Model:
    """A trained network with its post-processing; `load` makes it."""

    path: Path
    """The run's folder, or the model file."""
    network: TrainedNetwork
    postprocessing: PostprocessingConfig

    @property
    def config(self) -> RunConfig:
        """All settings of the run."""
        return self.network.config

    @cached_property
    def provenance(self) -> Provenance:
        """Run, checkpoint, hash of the weights, data and plugins."""
        one, trained_on = self.network, _trained_on(self.path)
        return Provenance(
            run=one.run,
            step=one.step,
            best=one.is_best,
            weights_sha256=one.weights_sha256,
            data_sets=trained_on.data_sets if trained_on else (),
            trained_on=trained_on.patients_trained_on if trained_on else 0,
            selected_on=trained_on.patients_selected_on if trained_on else 0,
            plugins=one.config.plugins,
        )

    def predict(
        self, volume_hu: Shaped[np.ndarray, "depth height width"], spacing: Spacing
    ) -> Float32[np.ndarray, "depth height width"]:
        """Tumour probability of every voxel, on the CT's own grid: what `rdunet segment` thresholds.

        Args:
            volume_hu: Hounsfield units of any number of slices, in the order of their position, rows and columns as in
                the DICOM files; whole numbers of any dtype. Values below -1024 are padding, and are taken as air.
            spacing: millimetres between slices, rows and columns.

        Raises:
            InputError: the array or the spacing cannot be that of a CT, or the probabilities are not finite.
        """
        return self._of_ct(volume_hu, spacing).probabilities

    def segment(
        self, volume_hu: Shaped[np.ndarray, "depth height width"], spacing: Spacing
    ) -> Bool[np.ndarray, "depth height width"]:
        """The tumour's mask, on the CT's own grid: what `rdunet segment` writes. Arguments as for `predict`."""
        return self._of_ct(volume_hu, spacing).mask

    def _of_ct(self, volume_hu: np.ndarray, spacing: Spacing) -> CTPrediction:
        hounsfield = _hounsfield(volume_hu)
        if len(spacing) != 3 or not all(np.isfinite(mm) and mm > 0 for mm in spacing):
            raise InputError(f"spacing is {spacing}, but must be the mm between slices, rows and columns, all above 0")
        size = self.config.image_size
        ct = CTGrid(
            *hounsfield.shape[1:],
            pixel_mm=(float(spacing[1]), float(spacing[2])),
            slice_mm=np.full(len(hounsfield), float(spacing[0])),
            voxel_mm=self.config.spacing,
        )
        resampling = ct.resampling(size)
        if self.postprocessing.lungs_only:
            ct = replace(ct, hounsfield=prepare_hounsfield(hounsfield, "hu_window", size, resampling))
        image = prepare_hounsfield(hounsfield, self.config.intensity, size, resampling)
        return predict_ct(self.network, self._window, image, ct, self.postprocessing)

    @cached_property
    def _window(self) -> SlidingWindow:
        return sliding_window(self.network)


def _trained_on(path: Path) -> TrainedOn | None:
    """What a run or a model file records of its data; None where it records nothing."""
    if path.is_file():
        return load_model(path).description.trained_on
    data = TrainingData.load(path)
    return TrainedOn.of(data) if data else None


def _hounsfield(volume: np.ndarray) -> np.ndarray:
    """The volume as int16; what is below air is padding and becomes air, as in every file that is read.

    Raises:
        InputError: it has another number of axes, no voxel, or values that are not whole numbers of int16.
    """
    if volume.ndim != 3 or not volume.size:
        raise InputError(f"volume_hu has the shape {volume.shape}, but must be (slices, rows, columns)")
    limits = np.iinfo(np.int16)
    if volume.dtype.kind not in "iuf" or not (limits.min <= volume.min() and volume.max() <= limits.max):
        raise InputError(f"volume_hu must hold Hounsfield units from {limits.min} to {limits.max}")
    if not (volume == np.rint(volume)).all():
        raise InputError("volume_hu must hold whole Hounsfield units; round them first")
    return np.maximum(volume, AIR_HU).astype(np.int16, copy=False)


def load(
    run_or_file: Path | str, options: PredictionOverrides = _AS_TRAINED, plugins: Iterable[Path | str] = ()
) -> Model:
    """The trained network of a run's folder (its best checkpoint), or of a model file.

    Args:
        options: stride, threshold and so on in place of the run's; see `PredictionOverrides`.
        plugins: files with the network's own parts, as `--plugin` gives them: code that runs. Not needed where the user
            named them before, or where their parts are registered already.

    Raises:
        InputError: there is no network, it is damaged, or it needs a plugin that was not named.
    """
    for plugin in plugins:
        load_plugin(plugin)
    path = Path(run_or_file)
    network = load_network(path, options)
    assert isinstance(network, TrainedNetwork)  # of one run
    return Model(path, network, postprocessing_of(path, network, options))
