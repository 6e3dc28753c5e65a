"""What an uploaded file is, by its bytes, and what it may be called. Nothing is taken on its sender's word."""

import re
import unicodedata
from typing import BinaryIO

from django.conf import settings
from PIL import Image, UnidentifiedImageError
from PIL.Image import DecompressionBombError

from streams.errors import WireError

NAME_BYTES = 255
HEAD_BYTES = 4096
TAIL_BYTES = 65536

PICTURES = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp"}
PDF = "application/pdf"
_SOURCES = "py js ts java c h cpp go rs rb php sh sql css toml ini cfg log txt yaml yml tsv"
TEXTS = dict.fromkeys(_SOURCES.split(), "text/plain")
TEXTS |= {"md": "text/markdown", "csv": "text/csv", "json": "application/json"}

_MAGIC = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"%PDF-"), PDF),
)
# What a browser or reader might take the file for, whatever it begins with.
_OTHER_FACES = re.compile(rb"%PDF-|<!doctype html|<html|<svg|<script|<\?xml|<\?php|PK\x03\x04", re.IGNORECASE)
_ENDS = {"image/png": b"IEND\xaeB`\x82", "image/jpeg": b"\xff\xd9", "image/gif": b"\x3b", PDF: b"%%EOF"}


def clean_name(raw: str) -> str:
    """A name to show: no path, no control or direction marks, 255 bytes. Raises bad_filename where nothing is left."""
    name = re.split(r"[/\\]", unicodedata.normalize("NFC", raw.replace("\0", "")))[-1]
    name = "".join(char for char in name if unicodedata.category(char)[0] != "C").strip(" .")
    if not name:
        raise WireError("bad_filename", field="file")
    stem, dot, extension = name.rpartition(".")
    if not dot or len(extension.encode()) > 20:
        return _cut(name, NAME_BYTES)
    return f"{_cut(stem, NAME_BYTES - len(extension.encode()) - 1)}.{extension}"


def _cut(text: str, most_bytes: int) -> str:
    return text.encode()[:most_bytes].decode(errors="ignore")


def kind_of(name: str, file: BinaryIO, size: int) -> str:
    """The mime type: by the bytes, which the name's ending must agree with.

    Raises WireError empty_file, file_type_not_allowed, file_incomplete, file_decompression_limit.
    """
    if size == 0:
        raise WireError("empty_file")
    extension = name.rpartition(".")[2].lower()
    file.seek(0)
    head = file.read(HEAD_BYTES)
    mime = next((mime for magic, mime in _MAGIC if magic.match(head)), None)
    if mime is None:
        if extension not in TEXTS:
            raise WireError("file_type_not_allowed")
        _check_text(file)
        return TEXTS[extension]
    if mime != (PDF if extension == "pdf" else PICTURES.get(extension)) or _OTHER_FACES.search(head, 5):
        raise WireError("file_type_not_allowed")
    _check_end(mime, file, size, head)
    if mime != PDF:
        _check_picture(file)
    return mime


def _check_text(file: BinaryIO) -> None:
    """UTF-8 without NUL, and no page or picture that is written as text."""
    file.seek(0)
    try:
        text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WireError("file_type_not_allowed") from error
    start = text[:HEAD_BYTES].lstrip().lower()
    if "\0" in text or start.startswith(("<!doctype", "<html", "<svg", "<script", "<?xml", "<?php")):
        raise WireError("file_type_not_allowed")


def _check_end(mime: str, file: BinaryIO, size: int, head: bytes) -> None:
    """Whether its end is there."""
    if mime == "image/webp":
        is_whole = size >= 8 + int.from_bytes(head[4:8], "little")
    else:
        file.seek(max(0, size - TAIL_BYTES))
        is_whole = _ENDS[mime] in file.read()
    if not is_whole:
        raise WireError("file_incomplete")


def _check_picture(file: BinaryIO) -> None:
    """By its head alone: nothing is unfolded here, so a bomb costs nothing."""
    file.seek(0)
    try:
        with Image.open(file) as picture:
            width, height = picture.size
    except DecompressionBombError as error:
        raise WireError("file_decompression_limit") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise WireError("file_incomplete") from error
    if width * height > settings.HEADRACE.picture_pixels:
        raise WireError("file_decompression_limit")
