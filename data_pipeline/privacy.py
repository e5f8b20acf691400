"""Names that are safe to show and to write: keyed pseudonyms, file names, and text from a file in one line."""

import hashlib
import hmac
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from data_pipeline.errors import InputError

DEFAULT_KEY_FILE = Path("~/.config/rdunet/pseudonym.key")
_DIGEST = "sha256 "

_LOG = logging.getLogger(__name__)
_MOST_KEY_BYTES = 1 << 16
_SAFE = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?", re.ASCII)
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE | re.ASCII)
"""Names of devices on Windows, with any suffix."""
_KEPT = 40


def load_key(path: Path | None = None) -> bytes:
    """The secret key at `path`, drawn at first use (with a warning) and readable by its owner alone.

    A file made here has a second line with a digest of the key, since a damaged key would silently give other names.

    Args:
        path: the file (default: `DEFAULT_KEY_FILE`).

    Raises:
        InputError: the file cannot be read or made, or holds no key; or there is no home folder to keep one in.
    """
    path = in_home(path or DEFAULT_KEY_FILE)
    if path is None:
        raise InputError("the pseudonyms need a key, and there is no home folder to keep it in; name a file with --key")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _draw_key(path)
        with path.open("rb") as stored:
            key, _, digest = stored.read(_MOST_KEY_BYTES).decode("utf-8").strip().partition(f"\n{_DIGEST}")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not a text file"
        raise InputError(
            f"{path}: the pseudonym key cannot be read or made ({why}); name another with --key"
        ) from error
    if len(key) < 32 or not key.replace("\n", "").isprintable():
        raise InputError(f"{path}: not a pseudonym key (32 characters or more); remove it or name another with --key")
    if digest and digest != _digest(key):
        raise InputError(f"{path}: damaged (the key does not fit its SHA-256); restore it from a copy")
    return key.encode()


def _draw_key(path: Path) -> None:
    key = secrets.token_hex(32)
    temporary = path.with_name(f".partial-{secrets.token_hex(4)}-{path.name}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{key}\n{_DIGEST}{_digest(key)}\n")
        with suppress(FileExistsError):  # of two programs started at once only one draws the key
            os.link(temporary, path)
            _LOG.warning("%s: a new key of pseudonyms; keep it, for another gives the same patients other names", path)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def in_home(path: Path) -> Path | None:
    """`path` with its `~` resolved; None if the process has no home folder (no HOME and no entry in passwd)."""
    try:
        return path.expanduser()
    except RuntimeError:
        return None


def pseudonym(patient_id: str, key: bytes) -> str:
    """`P-` and ten hexadecimal digits of HMAC-SHA256 of the Patient ID."""
    return "P-" + hmac.new(key, patient_id.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:10]


def safe_name(text: str) -> str:
    """A name for a file or folder made of any text, such as a Patient ID.

    ASCII letters, digits, dot, dash and underscore; 1 to 64 characters; no leading dash or dot, no trailing dot, none
    of the names that Windows reserves. Text that is such a name is returned unchanged; other text keeps up to 40
    characters and gets a digest, so that different texts keep different names.
    """
    return text if _SAFE.fullmatch(text) and not _RESERVED.fullmatch(text) else _with_digest(text)


def safe_names(texts: Iterable[str]) -> dict[str, str]:
    """`safe_name` of each text, with digests also where two differ in case alone, so that all differ on any disk."""
    names = {text: safe_name(text) for text in texts}
    counts = Counter(name.casefold() for name in names.values())
    return {text: name if counts[name.casefold()] == 1 else _with_digest(text) for text, name in names.items()}


def _with_digest(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    kept = re.sub(r"[^A-Za-z0-9_-]+", "_", text, flags=re.ASCII).strip("_-")[:_KEPT]
    return f"{kept or 'name'}-{digest}" if not _RESERVED.fullmatch(kept) else f"_{kept}-{digest}"


def one_line(text: str) -> str:
    """Text from a file, fit for a terminal or a report: what is not printable (line ends, ANSI codes) becomes �."""
    return "".join(character if character.isprintable() else "�" for character in text)
