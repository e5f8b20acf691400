"""Copies of one person under several Patient IDs: noted for each patient, and drawn as one into the split."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_pipeline.account import PatientEntry
from data_pipeline.errors import InputError
from data_pipeline.nsclc_radiomics.staging import Job
from data_pipeline.preprocessing.fingerprints import Fingerprint, groups_of_copies, shared
from data_pipeline.settings import DatasetSettings
from data_pipeline.splits import Split, divide, split_patients


def copies_of_persons(jobs: Sequence[Job], fingerprints: Mapping[str, Fingerprint]) -> list[list[str]]:
    """Groups of persons whose CTs share slices or contours.

    Args:
        jobs: CTs, whose persons are grouped.
        fingerprints: by name of the CT.
    """
    pieces: dict[str, Fingerprint] = {}
    for job in jobs:
        before, here = pieces.get(job.person, Fingerprint((), ())), fingerprints[job.name]
        pieces[job.person] = Fingerprint(before.slices + here.slices, before.contours + here.contours)
    return groups_of_copies(pieces)


def note_copies(
    entries: Mapping[str, PatientEntry],
    jobs: Sequence[Job],
    fingerprints: Mapping[str, Fingerprint],
    copies: Sequence[Sequence[str]],
) -> dict[str, PatientEntry]:
    """The entries, with a note on each CT of a person that has copies."""
    noted = dict(entries)
    for group in copies:
        members = [job for job in jobs if job.person in group]
        for job in members:
            for other in (one for one in members if one.person != job.person):
                slices, contours = shared(fingerprints[job.name], fingerprints[other.name])
                if slices or contours:
                    note = f"{slices} slices and {contours} contours are equal to those of {other.name}: one person"
                    noted[job.name] = replace(noted[job.name], notes=(*noted[job.name].notes, note))
    return noted


def split_with_copies(
    persons: set[str], tests: set[str] | None, copies: Sequence[Sequence[str]], settings: DatasetSettings
) -> Split:
    """`split_patients`, with each group of copies drawn as one.

    Args:
        persons: all to be split.
        tests: the test patients, where they are fixed. Copies of them are left out of every part.
        copies: from `copies_of_persons`.
        settings: seed and shares.
    """
    first = {name: group[0] for group in copies for name in group}
    fixed = tests or set()
    near_tests = {name for group in copies if fixed & set(group) for name in group} - fixed
    taken = persons - near_tests
    drawn_as = {name: name if name in fixed else first.get(name, name) for name in taken}
    split = split_patients(drawn_as.values(), settings.seed, settings.test_share, settings.validation_share, tests)
    return {part: sorted(name for name in taken if drawn_as[name] in names) for part, names in split.items()}


def folds_with_copies(persons: set[str], copies: Sequence[Sequence[str]], settings: DatasetSettings) -> list[Split]:
    """A split for each fold: its patients are the test part, and validation patients are drawn from the others.

    Args:
        persons: all to be divided.
        copies: from `copies_of_persons`; each group is in one fold.
        settings: number of folds, seed and share of validation patients. Two groups are too few to draw any.

    Raises:
        InputError: there are fewer groups than folds.
    """
    if settings.folds is None:
        return []
    copied = {name for group in copies for name in group}
    together = [sorted(persons & set(group)) for group in copies]
    groups = [group for group in together if group] + [[name] for name in persons - copied]
    splits = []
    for held_out in divide(groups, settings.folds, settings.seed):
        others = [group for group in groups if not set(group) & set(held_out)]
        drawn = settings if len(others) > 1 else replace(settings, validation_share=0.0)
        splits.append(split_with_copies(persons, set(held_out), copies, drawn))
    return splits


def check_copies(split: Split, copies: Sequence[Sequence[str]], file: Path) -> None:
    """Refuse a frozen split that separates copies of one person.

    Raises:
        InputError: naming them and the parts.
    """
    for group in copies:
        parts = [part for part, names in split.items() if set(group) & set(names)]
        if len(parts) > 1:
            raise InputError(
                f"{', '.join(group)} are one person, but in {' and '.join(parts)}; draw another split, or remove the "
                "copies",
                path=file,
            )
