"""What a data set says about itself: settings, split, and what happened to each patient's files.

`Account` is written as JSON into `metadata.json` (by TFDS) and `report.json`, and read back with its types checked.
"""

from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from data_pipeline.errors import InputError
from data_pipeline.preprocessing.patient import PatientRecord
from data_pipeline.ranges import Digest, Pattern, check
from data_pipeline.settings import SPLITS, DatasetSettings, PatchSelection

Kind = TypeVar("Kind")


@dataclass(frozen=True, kw_only=True)
class PatientEntry(PatientRecord):
    """A patient's record, and what the data set holds of it.

    Attributes:
        examples_sha256: SHA-256 of the patient's arrays.
        fingerprint: `str` of the patient's `Fingerprint`, which finds the same CT under another name; empty in data
            sets of older versions.
    """

    examples_sha256: Digest
    fingerprint: Annotated[str, Pattern(r"([0-9a-f]{16}( [0-9a-f]{16})*)?", "of hexadecimal hashes")] = ""


@dataclass(frozen=True)
class Rejected:
    """A CT or a file that is not in the data set.

    Attributes:
        patient: its name in the data set; None for a file that belongs to no CT.
        reason: why, in one line, without names of files or text from them.
        file: its path below the source; None unless identities are kept.
        quoted: text from the file, such as names of ROIs; empty unless identities are kept.
    """

    patient: str | None
    reason: str
    file: str | None = None
    quoted: str = ""


@dataclass(frozen=True)
class FoldEntry:
    """One fold of a data set.

    Attributes:
        splits: names of the CTs of each part, in order; those of `test` are held out by no other fold.
        split_sha256: see `splits.split_sha256`.
    """

    splits: dict[str, list[str]]
    split_sha256: str


@dataclass(frozen=True)
class Account:
    """All that a data set says about itself.

    Attributes:
        settings: what it is made of.
        splits: names of the CTs of each part, in order.
        split_sha256: see `splits.split_sha256`.
        patients: each CT's entry, by its name.
        rejected: CTs and files left out.
        ignored: number of files that are neither CT nor RTSTRUCT, by kind.
        identities_kept: whether names are Patient IDs.
        dataset_sha256: SHA-256 of all examples and of how they are split.
        selection: what the examples of a data set of patches are; None where they are single slices.
        copies: groups of names that are one person, since they share slices or contours; each is in one part.
        folds: for cross-validation; empty where none were asked for.
    """

    settings: DatasetSettings
    splits: dict[str, list[str]]
    split_sha256: str
    patients: dict[str, PatientEntry]
    rejected: list[Rejected]
    ignored: dict[str, int]
    identities_kept: bool
    dataset_sha256: str
    selection: PatchSelection | None
    copies: list[list[str]] = field(default_factory=list)
    folds: list[FoldEntry] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises InputError where the fields contradict each other, as after a change by hand."""
        for name in ("split_sha256", "dataset_sha256"):
            check(name, getattr(self, name), Digest)
        listed = [name for part in self.splits.values() for name in part]
        each_once = len(listed) == len(set(listed)) and self.patients.keys() >= set(listed)
        if set(self.splits) != set(SPLITS) or not each_once:
            raise InputError(f"the split has not the parts {', '.join(SPLITS)} with each patient once")

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists, for `json.dumps`."""
        return asdict(self)


def from_json(kind: type[Kind], value: Any) -> Kind:
    """A dataclass from what `json.loads` made of its `asdict`; fields that it does not know are left out.

    Raises:
        InputError: a value is out of its range.
        TypeError: a field is missing or of another type.
    """
    return _read(kind, value)


def _read(kind: Any, value: Any) -> Any:
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        known = {
            field.name: _read(hints[field.name], value[field.name]) for field in fields(kind) if field.name in value
        }
        return kind(**known)  # pyright: ignore[reportCallIssue]: an instance is none of our kinds
    if origin in (Union, UnionType):
        return _read_one_of(arguments, value)
    if origin is dict and isinstance(value, dict):
        return {_read(arguments[0], key): _read(arguments[1], one) for key, one in value.items()}
    if origin is list and isinstance(value, list):
        return [_read(arguments[0], one) for one in value]
    if origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            return tuple(_read(*pair) for pair in zip(kinds, value, strict=True))
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    if not isinstance(kind, type) and origin not in (dict, list, tuple) and value in arguments:
        return value  # a Literal
    raise TypeError(f"{type(value).__name__} in place of {kind}")


def _read_one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    """The value as the first of the kinds that it can be."""
    for kind in kinds:
        with suppress(TypeError):
            return _read(kind, value)
    raise TypeError(f"{type(value).__name__} in place of {' or '.join(map(str, kinds))}")
