"""One person under two IDs: found by equal slices or contours, and nothing else."""

import numpy as np
import pytest

from data_pipeline.contours.rtstruct import Contour, read_contours
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import read_chest_ct
from data_pipeline.preprocessing.fingerprints import Fingerprint, fingerprint, groups_of_copies, shared
from tests.conftest import REAL_PATIENTS


def outline(points) -> Contour:
    return Contour(np.asarray(points, float), "CLOSED_PLANAR", None, "GTV-1", 0)


TRIANGLE = [(1.25, 2, 3), (4, 5.5, 3), (0, 9, 3)]


def test_slices_and_contours_are_counted_once_each():
    volume = np.random.default_rng(0).integers(-1000, 400, (5, 6, 7)).astype(np.int16)
    one = fingerprint(volume, [outline(TRIANGLE), outline(np.add(TRIANGLE, 1))])
    other = fingerprint(volume[[4, 2]], [outline(TRIANGLE)])
    assert shared(one, other) == (2, 1)
    assert shared(one, fingerprint(volume + np.int16(1), [outline(np.add(TRIANGLE, 0.01))])) == (0, 0)


def test_what_many_patients_share_is_no_evidence():
    """Slices of air alone, points; and a slice of another shape with the same bytes."""
    air = fingerprint(np.full((2, 4, 4), -1024, np.int16), [outline(TRIANGLE[:1]), outline(TRIANGLE[:2])])
    assert air == Fingerprint((), ())
    volume = np.arange(16, dtype=np.int16).reshape(1, 4, 4)
    assert shared(fingerprint(volume, []), fingerprint(volume.reshape(1, 2, 8), [])) == (0, 0)


def test_rewritten_coordinates_are_the_same():
    rounded = outline(np.add(TRIANGLE, [-1.25 + 1e-5, 0, -3 - 1e-5]))
    exact = outline(np.add(TRIANGLE, [-1.25, 0, -3]))
    assert shared(fingerprint(np.zeros((1, 2, 2), np.int16), [rounded]), Fingerprint((), ())) == (0, 0)
    assert fingerprint(np.zeros((1, 2, 2), np.int16), [rounded]) == fingerprint(np.zeros((1, 2, 2), np.int16), [exact])


def test_groups_join_through_others():
    pieces = {"d": "4", "a": "12", "c": "3", "b": "23", "e": ""}
    assert groups_of_copies({name: Fingerprint(tuple(text), ()) for name, text in pieces.items()}) == [["a", "b", "c"]]
    assert groups_of_copies({"a": Fingerprint(("1",), ()), "b": Fingerprint((), ("1",))}) == [["a", "b"]]


def test_the_ibsi_phantom_is_lung1_002(real_patients):
    """A crop of another matrix: no slice is equal, all 26 contours are."""
    folder = REAL_PATIENTS.parent / "data_nsclc_2018"
    if not folder.is_dir():
        pytest.skip(f"LUNG1-002 is not at {folder}")
    found = {}
    for series in (*discover(real_patients).series, *discover(folder).series):
        contours = read_contours(series.rtstructs[0])
        found[series.patient_id] = fingerprint(read_chest_ct(series).hounsfield, contours)
    (pair,) = groups_of_copies(found)
    assert pair[1] == "LUNG1-002" and shared(*(found[name] for name in pair)) == (0, 26)
