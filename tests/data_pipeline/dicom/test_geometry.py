"""Which side of the patient is at which edge of a slice."""

import numpy as np
import pytest

from data_pipeline.dicom.geometry import CTGeometry


@pytest.mark.parametrize(
    "row_cosine, sides", [((1, 0, 0), ("R", "L")), ((-0.9, 0.1, 0), ("L", "R")), ((0, 1, 0), ("A", "P"))]
)
def test_sides_are_those_of_the_patient(row_cosine: tuple[float, ...], sides: tuple[str, str]) -> None:
    """DICOM's x grows to the patient's left, y to the back (LPS)."""
    row, column = np.array(row_cosine, float), np.array([0, 0, 1.0])
    assert CTGeometry(np.zeros((1, 3)), row, column, (1.0, 1.0), (1, 2, 2), ("1",), "").sides == sides
