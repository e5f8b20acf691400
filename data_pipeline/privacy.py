"""Keyed pseudonyms: a patient has the same one in every file, and without the key nobody learns whose it is."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from data_pipeline.errors import InputError

DEFAULT_KEY_FILE = Path("~/.config/rdunet/pseudonym.key")


def load_key(path: Path = DEFAULT_KEY_FILE) -> bytes:
    """The secret key at `path`, drawn at first use and readable by its owner alone.

    Raises:
        InputError: the file cannot be read or made, or holds no key.
    """
    path = path.expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # O_EXCL: of two programs started at once only one draws the key.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
        except FileExistsError:
            pass
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: the pseudonym key cannot be read or made ({error}); name another with --key"
        ) from error
    if len(key) < 32:
        raise InputError(f"{path}: not a pseudonym key (32 characters or more); remove it or name another with --key")
    return key.encode()


def pseudonym(patient_id: str, key: bytes) -> str:
    """`P-` and ten hexadecimal digits of HMAC-SHA256 of the Patient ID."""
    return "P-" + hmac.new(key, patient_id.encode(), hashlib.sha256).hexdigest()[:10]
