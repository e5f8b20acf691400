"""All that is inside a file: what is compressed or encoded in it, and what is in that again."""

import base64
import binascii
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator

import zstandard
from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_ZSTD = b"\x28\xb5\x2f\xfd"
_DEEPEST = 4


def layers(content: bytes, depth: int = 0) -> Iterator[bytes]:
    """The bytes themselves, and those of every archive, stream and picture in them, wherever they begin.

    Zip members with their names, gzip, Zstandard frames (Orbax), text and pixels of PNG, and base64 (HTML).
    """
    yield content
    if depth == _DEEPEST:
        return
    for part in (*_zip(content), *_gzip(content), *_zstd(content), *_png(content), *_base64(content)):
        yield from layers(part, depth + 1)


def _zip(content: bytes) -> Iterator[bytes]:
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                yield member.filename.encode() + b" " + archive.read(member)


def _gzip(content: bytes) -> Iterator[bytes]:
    if content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)


def _zstd(content: bytes) -> Iterator[bytes]:
    for found in re.finditer(re.escape(_ZSTD), content):
        try:
            yield zstandard.ZstdDecompressor().decompressobj().decompress(content[found.start() :])
        except zstandard.ZstdError:  # other bytes that look like its head
            continue


def _png(content: bytes) -> Iterator[bytes]:
    """Every chunk of every PNG: text as it is or unpacked, and the pixels unpacked."""
    for found in re.finditer(re.escape(_PNG), content):
        at = found.end()
        while at + 8 <= len(content):
            length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
            data = content[at + 8 : at + 8 + length]
            at += 12 + length
            if kind in (b"zTXt", b"iTXt"):
                with_text = re.search(rb"\0\0?[\0\1]?(x[\x01\x5e\x9c\xda].*)", data, re.DOTALL)
                yield zlib.decompress(with_text[1]) if with_text else data
            if kind == b"IEND":
                break
        yield Image.open(io.BytesIO(content[found.start() : at])).tobytes()


def _base64(content: bytes) -> Iterator[bytes]:
    for found in re.finditer(rb"[A-Za-z0-9+/]{40,}={0,2}", content):
        text = found[0]
        try:
            yield base64.b64decode(text[: len(text) // 4 * 4] if b"=" not in text else text)
        except binascii.Error:
            continue
