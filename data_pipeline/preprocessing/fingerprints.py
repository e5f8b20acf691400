"""Finds one person under two Patient IDs: by bit-equal slices or contours, which two persons never share.

Collections overlap (the IBSI phantom is a crop of LUNG1-002), and anonymisers give one person several IDs. Where the
copies get into different parts of a split, a network is tested on a patient that it was trained on.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16

from data_pipeline.contours.rtstruct import Contour

ROUNDING_MM = 1e-3
"""Contours are compared to this precision, so that rewriting a file does not change them."""


@dataclass(frozen=True)
class Fingerprint:
    """Hashes of what a patient's files hold.

    Attributes:
        slices: one per slice that is not constant (air alone is equal in many patients).
        contours: one per contour of at least three points.
    """

    slices: tuple[str, ...]
    contours: tuple[str, ...]

    def __str__(self) -> str:
        """All hashes, separated by blanks: what a data set and a run store of a patient."""
        return " ".join(dict.fromkeys(self.slices + self.contours))


def fingerprint(hounsfield: Int16[np.ndarray, "depth height width"], contours: Sequence[Contour]) -> Fingerprint:
    """The fingerprint of a CT and its contours."""
    return Fingerprint(
        tuple(_hash(np.ascontiguousarray(plane)) for plane in hounsfield if plane.min() != plane.max()),
        tuple(
            _hash(np.rint(one.points_mm / ROUNDING_MM) + 0.0)  # + 0.0 makes -0.0 and 0.0 equal
            for one in contours
            if len(one.points_mm) >= 3
        ),
    )


def _hash(array: np.ndarray) -> str:
    return hashlib.blake2b(f"{array.shape} ".encode() + array.tobytes(), digest_size=8).hexdigest()


def shared(one: Fingerprint, other: Fingerprint) -> tuple[int, int]:
    """Number of slices and of contours that two patients have in common."""
    return len(set(one.slices) & set(other.slices)), len(set(one.contours) & set(other.contours))


def groups_of_copies(fingerprints: Mapping[str, Fingerprint]) -> list[list[str]]:
    """Names of patients that share a slice or a contour, directly or through others; groups of two or more, sorted."""
    owners: dict[str, list[str]] = defaultdict(list)
    for name, one in fingerprints.items():
        for piece in {*one.slices, *one.contours}:
            owners[piece].append(name)
    group = {name: {name} for name in fingerprints}
    for names in owners.values():
        for other in names[1:]:
            if group[other] is not group[names[0]]:
                merged = group[names[0]] | group[other]
                group.update(dict.fromkeys(merged, merged))
    found = {id(names): sorted(names) for names in group.values() if len(names) > 1}
    return sorted(found.values())
