"""The one error that a user's input can cause."""

from pathlib import Path


class InputError(ValueError):
    """Input that cannot be used. The message is one line that names the file or folder and says what to do.

    Names of files and words from inside a file may identify a patient. They are fields of their own, so that a report
    without identities needs only `reason`.

    Args:
        reason: why, in one line; without paths and without text from the file where the two below are given.
        path: the file or folder; it comes first in the message.
        quoted: text from the file (such as names of ROIs); it comes last in the message.

    Attributes:
        reason, path, quoted: as given.
    """

    def __init__(self, reason: str, *, path: Path | str | None = None, quoted: str = ""):
        super().__init__(f"{f'{path}: ' if path is not None else ''}{reason}{quoted and f': {quoted}'}")
        self.reason, self.path, self.quoted = reason, path, quoted
