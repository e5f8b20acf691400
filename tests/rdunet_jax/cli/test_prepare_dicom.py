"""`rdunet prepare` on DICOM folders that are unusual: what it writes, what it prints, what it refuses."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdunet_jax.cli import main as cli
from tests.data_pipeline.dicom_files import Written, contour, write_rtstruct, write_series

SQUARE = [(3, 3), (3, 8), (8, 8), (8, 3)]
TISSUE = np.full((9, 12, 10), 1100, np.uint16)
TISSUE[:, :2] = 24  # air around the body


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # the pseudonyms' key is made there


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs `rdunet prepare` on a folder; returns (status, report.json or {}, everything printed)."""

    def run(source: Path, *arguments: object, data: str = "data") -> tuple[int, dict[str, Any], str]:
        fixed = ("prepare", source, "--data-dir", tmp_path / data, "--image-size", 16, "--workers", 1, "--keep-ids")
        monkeypatch.setattr(sys, "argv", ["rdunet", *map(str, fixed + arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        reports = list((tmp_path / data).glob("nsclc_radiomics/*/*/report.json"))
        report = json.loads(reports[0].read_text()) if reports else {}
        return status, report, captured.out + captured.err

    return run


def write_patient(folder: Path, slices=(4,), **options: Any) -> Written:
    """A CT of tissue with a square on some slices."""
    series = write_series(folder / "ct", **{"stored": TISSUE, **options})
    squares = [contour(series.points(index, SQUARE), series.uids[index]) for index in slices]
    write_rtstruct(folder / "rs", {"GTV-1": squares}, series, patient=options.get("patient", 1))
    return series


def test_the_fill_rule_is_a_flag(prepare, tmp_path: Path) -> None:
    write_patient(tmp_path / "in")
    voxels = {}
    for rule in ("pixel_center", "rt_utils"):
        status, report, _ = prepare(tmp_path / "in", "--fill-rule", rule, data=rule)
        assert status == 0 and report["settings"]["fill_rule"] == rule
        voxels[rule] = report["patients"]["PATIENT-1"]["contours"]["mask_voxels"]
    assert voxels == {"pixel_center": 5 * 5, "rt_utils": 6 * 6}
    assert (tmp_path / "rt_utils/nsclc_radiomics/slice_minmax_16_rt_utils").is_dir()
