"""The small CT series, read once."""

import pytest

from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import read_volume
from tests.data_pipeline.export.samples import KINDS, Sample, write_small_series


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    made = {}
    for seed, (name, kind) in enumerate(KINDS.items()):
        folder = tmp_path_factory.mktemp("series") / "ct"
        write_small_series(folder, kind, seed)
        (patient,) = discover(folder).series
        made[name] = Sample(read_volume(patient), patient.files)
    return made
