"""Which regions `--roi` means: by literal name first, else by regular expression. One rule for every format."""

import re
import unicodedata
import warnings
from collections.abc import Sequence


def matching_names(regions: Sequence[Sequence[str]], wanted: str) -> list[int]:
    """Indices of the regions of which a name is literally the wanted one; if there is none, of those of which a whole
    name matches it as a regular expression. Case, outer blanks and Unicode composition (NFKC) do not matter.

    Args:
        regions: the names of each.
        wanted: a name, or a regular expression.
    """
    text = _comparable(wanted).casefold()
    if literal := [n for n, names in enumerate(regions) if any(_comparable(one).casefold() == text for one in names)]:
        return literal
    pattern = pattern_of(wanted)
    if pattern is None:
        return []
    return [n for n, names in enumerate(regions) if any(pattern.fullmatch(_comparable(one)) for one in names)]


def pattern_of(wanted: str) -> re.Pattern[str] | None:
    """The regular expression; None where the text is none, as many names of ROIs are not: `GTV (1`, `tumour*+`."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of characters that a later Python may read otherwise
            return re.compile(unicodedata.normalize("NFKC", wanted), re.IGNORECASE)
    except (re.error, OverflowError, RecursionError):
        return None


def _comparable(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip()
