"""TFDS' standard checks of the builder, on three tiny phantoms in `dummy_data`.

Building and reading need no TensorFlow, but TFDS' test case does: `make test-slow` installs it. What `tests/` checks of
the builder runs without.
"""

from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipeline.nsclc_radiomics import nsclc_radiomics_dataset_builder
from data_pipeline.settings import PrepareOptions

pytest.importorskip("tensorflow", reason="TFDS' test case needs TensorFlow: pip install -e '.[tensorflow]'")
pytestmark = pytest.mark.slow

ONE = PrepareOptions(workers=1)


class NsclcRadiomicsTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS' standard checks, reading through `as_data_source`, as every user of the builder does."""

    DATASET_CLASS = nsclc_radiomics_dataset_builder.Builder
    SPLITS = {
        "train": 1,
        "train_patients": 1,
        "validation": 1,
        "validation_patients": 1,
        "test": 1,
        "test_patients": 1,
    }
    BUILDER_CONFIG_NAMES_TO_TEST = ["slice_minmax_256_patches", "hu_window_256_patches"]
    # The check forbids `os`, so that data sets may be in cloud buckets; DICOM folders are local.
    MOCK_OUT_FORBIDDEN_OS_FUNCTIONS = False

    @pytest.fixture(autouse=True)
    def _home(self, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))  # the pseudonyms' key is drawn there

    def _make_builder(self, config: Any = None) -> tfds.core.DatasetBuilder:
        return self.dataset_class(data_dir=self.tmp_dir, config=config, file_format="array_record", options=ONE)

    def test_download_and_prepare_as_dataset(self) -> None:
        for name in self.BUILDER_CONFIG_NAMES_TO_TEST:
            with self.subTest(name):
                self._download_and_prepare_as_dataset(self._make_builder(name))

    def _assertAsDataset(self, builder: tfds.core.DatasetBuilder) -> None:  # noqa: N802 (the base class's name)
        sources = builder.as_data_source()
        assert set(sources) == set(self.SPLITS)
        for split, source in sources.items():
            for example in source:
                depth = 10 if split.endswith("_patients") else 8
                assert example["image"].shape == example["mask"].shape == (depth, 256, 256)
                assert example["image"].dtype == builder.info.features["image"].np_dtype
                assert set(np.unique(example["mask"])) == {0, 1}
                assert example["ct_mask"].shape == ((10, 32, 32) if depth == 10 else (0, 0, 0))
                assert example["patient"].startswith(b"P-")
