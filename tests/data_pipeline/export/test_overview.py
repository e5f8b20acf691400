"""The picture of a segmented CT."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import InputError
from data_pipeline.export.overview import write_overview
from tests.data_pipeline.export.samples import Sample, real_sample


def _picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG" and set(image.info) <= {"Software", "dpi"}
        return np.asarray(image.convert("RGB")).astype(int)


def _coloured(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where the picture has this colour, below the legend."""
    return (np.abs(picture - colour).max(axis=2) < 30)[100:]


ORANGE, BLUE = (230, 159, 0), (86, 180, 233)


def test_overview_of_a_real_patient(real_patients: Path, tmp_path: Path) -> None:
    sample, mask = real_sample(real_patients / "ibsi1_lung_ct")
    hounsfield, geometry = sample.volume.hounsfield, sample.volume.geometry
    write_overview(hounsfield, geometry, tmp_path / "one.png", mask)
    write_overview(hounsfield, geometry, tmp_path / "both.png", np.roll(mask, 6, axis=2), mask)
    one, both = _picture(tmp_path / "one.png"), _picture(tmp_path / "both.png")
    assert _coloured(one, ORANGE).sum() > 2000 and not _coloured(one, BLUE).any()
    assert _coloured(both, ORANGE).sum() > 2000 and _coloured(both, BLUE).sum() > 2000
    assert one.shape[1] > 2000  # four panels in a row


def test_overview_turns_any_storage_the_usual_way(samples: dict[str, Sample], tmp_path: Path) -> None:
    """The same anatomy, stored upright, upside down and turned by 90 degrees, gives the same picture."""
    geometry = samples["axial"].volume.geometry
    rng = np.random.default_rng(0)
    row_mm, column_mm = geometry.pixel_spacing_mm
    _, height, width = geometry.shape
    hounsfield = rng.integers(-1000, 200, geometry.shape).astype(np.int16)
    mask = np.zeros(geometry.shape, bool)
    mask[1:5, 2:6, 3:9] = True
    x, y, _ = np.eye(3)

    def stored(name: str, row: np.ndarray, column: np.ndarray, spacing: tuple[float, float], turn) -> np.ndarray:
        shape = turn(mask).shape
        turned = type(geometry)(
            geometry.positions_mm,
            row,
            column,
            spacing,
            shape,
            geometry.sop_instance_uids,
            geometry.frame_of_reference_uid,
        )
        write_overview(turn(hounsfield), turned, tmp_path / name, turn(mask))
        return _picture(tmp_path / name)

    upright = stored("a.png", x, y, (row_mm, column_mm), lambda volume: volume)
    reversed_ = stored("b.png", -x, -y, (row_mm, column_mm), lambda volume: volume[:, ::-1, ::-1])
    # The column index runs to the patient's front, the row index to his left.
    turned = stored("c.png", -y, x, (column_mm, row_mm), lambda volume: volume[:, ::-1].transpose(0, 2, 1))
    np.testing.assert_array_equal(reversed_, upright)
    np.testing.assert_array_equal(turned, upright)
    assert height != width and row_mm != column_mm


@pytest.mark.parametrize("slices", [0, 1, 2, 3, 5])
def test_overview_with_few_tumour_slices(samples: dict[str, Sample], tmp_path: Path, slices: int) -> None:
    sample = samples["axial"]
    mask = np.zeros(sample.volume.geometry.shape, np.uint8)
    mask[:slices, 4:9, 4:8] = 1
    write_overview(sample.volume.hounsfield, sample.volume.geometry, tmp_path / "picture.png", mask)
    assert _coloured(_picture(tmp_path / "picture.png"), ORANGE).any() == bool(slices)


def test_overview_refuses_another_grid(samples: dict[str, Sample], tmp_path: Path, unchecked_shapes) -> None:
    volume = samples["axial"].volume
    with pytest.raises(InputError, match="use the CT's own grid"):
        write_overview(volume.hounsfield, volume.geometry, tmp_path / "picture.png", np.zeros((2, 2, 2), bool))
    assert not any(tmp_path.iterdir())
