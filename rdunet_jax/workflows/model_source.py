"""The networks that a command is given: folders of runs, and a model file on disk or at an address."""

import re
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from data_pipeline.privacy import safe_name
from rdunet_jax.errors import InputError, RunError
from rdunet_jax.files import sha256_of
from rdunet_jax.runs.tensor_file import MOST_BYTES

SECONDS, MOST_SECONDS = 30, 1800
"""Without a byte, and in all."""
_CHUNK = 1 << 20
_OWN_MACHINE = ("localhost", "127.0.0.1", "::1")


@contextmanager
def networks_of(workdirs: Sequence[Path], model: str | None) -> Iterator[tuple[Path, ...]]:
    """Paths of runs and model files, of which those at an address are downloaded and removed afterwards.

    Args:
        model: path or https address of a model file. An address may end in `#sha256=` and the file's digest.

    Raises:
        RunError: there is neither a run nor a model, there is no such file, or it cannot be downloaded.
    """
    if model is None:
        if not workdirs:
            raise RunError("give --workdir with the folder of a run, or --model with a model file")
        yield tuple(workdirs)
    elif not re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", model):
        if not Path(model).is_file():
            raise RunError("no such model file; make one with `rdunet export-model`", path=model)
        yield (*workdirs, Path(model))
    else:
        with tempfile.TemporaryDirectory() as folder:
            address, _, fragment = model.partition("#")
            path = Path(folder) / safe_name(address.partition("?")[0].rpartition("/")[2] or "model")
            _download(address, path)
            digest = sha256_of(path)
            if fragment and fragment != f"sha256={digest}":
                raise RunError(f"has the SHA-256 {digest}, not the one after #; check the address", path=address)
            try:
                yield (*workdirs, path)
            except InputError as error:
                if error.path == path:
                    raise RunError(error.reason, path=address) from error
                raise


def _download(address: str, path: Path) -> None:
    """Writes what is at an address into a file.

    Raises:
        RunError: the address is not one of https, there is nothing, it is too large, or the transfer fails.
    """
    until = time.monotonic() + MOST_SECONDS
    try:
        _check(address)
        with urllib.request.build_opener(_Redirects).open(address, timeout=SECONDS) as reply, path.open("wb") as file:
            announced = reply.headers.get("Content-Length")
            left = MOST_BYTES
            if announced and int(announced) > left:
                raise RunError(f"larger than the {MOST_BYTES >> 20} MiB of a model file", path=address)
            while chunk := reply.read1(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise RunError(f"larger than the {MOST_BYTES >> 20} MiB of a model file", path=address)
                if time.monotonic() > until:
                    raise TimeoutError(f"not complete after {MOST_SECONDS} s")
                file.write(chunk)
            if announced and MOST_BYTES - left != int(announced):
                raise RunError("the transfer ended early; start again", path=address)
    except RunError:
        raise
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        reason = getattr(error, "reason", None) or error
        raise RunError(f"cannot be downloaded ({reason}); check the address and the network", path=address) from error


def _check(address: str) -> None:
    """Raises RunError where a third party could read or change what is transferred."""
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _OWN_MACHINE):
        raise RunError("model files are downloaded by https alone; give such an address", path=address)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to addresses of https alone."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        _check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # pyright: ignore[reportArgumentType]
