"""Damaged files end in a mask or in an `InputError`: no other exception, no crash, no hang, no memory without bound."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import read_volume
from data_pipeline.errors import InputError
from tests.data_pipeline.dicom.fuzz_dicom import SECONDS
from tests.data_pipeline.dicom_files import write_series

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(("seed", "count"), [(0, 120), pytest.param(1, 2000, marks=pytest.mark.slow)])
def test_damaged_files_are_refused_or_read(tmp_path, seed, count):
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "tests.data_pipeline.dicom.fuzz_dicom",
        str(tmp_path),
        str(seed),
        str(count),
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60 + count)
    assert run.returncode == 0, run.stderr[-2000:]
    report = json.loads(run.stdout)
    assert not report["failures"]
    assert sum(report["fates"].values()) == count and set(report["fates"]) == {"used", "refused"}
    assert report["slowest"] < SECONDS and report["growth"] < 2**30
    assert not run.stderr


def test_a_good_patient_beside_a_broken_one_is_still_read(tmp_path):
    write_series(tmp_path / "good", patient=1)
    broken = write_series(tmp_path / "broken", patient=2).files
    broken[0].write_bytes(broken[0].read_bytes()[:-50])
    broken[1].write_bytes(broken[1].read_bytes()[:200])
    found = discover(tmp_path)
    good, bad = found.series
    assert [one.what for one in found.rejected] == [broken[1]]
    assert read_volume(good).hounsfield.shape == (4, 12, 10)
    with pytest.raises(InputError, match=str(broken[0])):
        read_volume(bad)
