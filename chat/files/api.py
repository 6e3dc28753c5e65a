"""REST of files: one part `file` in, counted as it comes; out again as an attachment, to its owner only."""

from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO

import structlog
from django.conf import settings
from django.core.files.uploadhandler import FileUploadHandler
from django.http import FileResponse, HttpResponseBase, QueryDict
from django.http.multipartparser import MultiPartParser as DjangoParser
from django.http.multipartparser import MultiPartParserError
from django.utils.datastructures import MultiValueDict
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from rest_framework.parsers import BaseParser, DataAndFiles
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.rest.bodies import found, path_id
from chat.files import checks, pdf, store
from streams.errors import WireError, too_large
from streams.turnstile import Turnstile

IN_MEMORY_BYTES = 1024 * 1024
TAIL_BYTES = 512

CROWDED = gettext_noop("Too many documents are read at this moment. Try again in a few seconds.")

log = structlog.get_logger("headrace.files")


def _bounds() -> tuple[int, int, float]:
    bounds = settings.HEADRACE
    return bounds.pdfs_at_once, bounds.requests_waiting, bounds.request_wait_s


_pdfs = Turnstile(_bounds, "busy", CROWDED)


class Upload:
    """One part as it came."""

    def __init__(self, field: str, name: str, content: BinaryIO, size: int) -> None:
        self.field, self.name, self.content, self.size = field, name, content, size


class _Counting(FileUploadHandler):
    """Keeps one part, to memory and then to disk, and gives up at the first byte too many."""

    chunk_size = 64 * 1024

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        self.content = SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - closed with the request
        self.size = 0

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        self.size += len(raw_data)
        if self.size > settings.HEADRACE.file_bytes:
            self.content.close()
            raise too_large("file_too_large", settings.HEADRACE.file_bytes)
        self.content.write(raw_data)

    def file_complete(self, file_size: int) -> Upload:
        return Upload(self.field_name, self.file_name, self.content, self.size)


class _Parser(DjangoParser):
    def sanitize_file_name(self, file_name: str) -> str:
        return file_name  # as it came: `clean_name` judges it


class _Tail:
    """A stream that remembers its last bytes, for whether the form came whole."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.last = stream, b""

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.last = (self.last + data)[-TAIL_BYTES:]
        return data


class FormParser(BaseParser):
    """multipart/form-data with one file."""

    media_type = "multipart/form-data"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> DataAndFiles:
        request = parser_context["request"]
        tail = _Tail(stream)
        meta = request.META | {"CONTENT_TYPE": media_type}
        try:
            parser = _Parser(meta, tail, [_Counting(request)], "utf-8")
            fields, files = parser.parse()
        except (MultiPartParserError, UnicodeError, ValueError) as error:
            raise WireError("bad_request") from error
        if not tail.last.rstrip().endswith(b"--" + parser._boundary + b"--"):
            raise WireError("file_incomplete")
        uploads = [upload for name in files for upload in files.getlist(name)]
        unknown = {*fields, *(upload.field for upload in uploads)} - {"file"}
        if unknown:
            raise WireError("unknown_field", fields={name: _("There is no such field.") for name in sorted(unknown)})
        # Django's CSRF check asks the form's fields for a token, so there must be some, though none is taken.
        return DataAndFiles(QueryDict(), MultiValueDict({"file": uploads}))


class FilesView(APIView):
    """Takes one file: text, a picture (PNG, JPEG, GIF, WebP) or a PDF."""

    scopes = ("chat",)
    parser_classes = (FormParser,)

    def post(self, request: Request) -> Response:
        uploads = request.FILES.getlist("file")
        if len(uploads) != 1:
            raise WireError("validation_error", fields={"file": _("Send one file, as the part named file.")})
        upload = uploads[0]
        with upload.content:
            row = accept(request.auth.user_id, upload)
        return Response(store.shown(row), status=201, headers={"Location": f"{request.path}{row.id}/"})


class FileView(APIView):
    scopes = ("chat",)

    def get(self, request: Request, ref: str) -> HttpResponseBase:
        row = found(store.own(request.auth.user_id).filter(id=path_id(ref)).first())
        try:
            content = store.storage().open(row.key)
        except FileNotFoundError as error:
            raise WireError("not_found") from error
        response = FileResponse(content, as_attachment=True, filename=row.name, content_type=row.mime)
        response["X-Content-Type-Options"] = "nosniff"
        response["Content-Security-Policy"] = "default-src 'none'; sandbox"
        response["Cache-Control"] = "private, max-age=31536000, immutable"
        return response

    def delete(self, request: Request, ref: str) -> Response:
        store.remove(found(store.own(request.auth.user_id).filter(id=path_id(ref)).first()))
        return Response(status=204)


def accept(user: int, upload: Upload) -> Any:
    """The file's row, its bytes kept. Raises WireError of what is wrong with it."""
    name = checks.clean_name(upload.name)
    mime = checks.kind_of(name, upload.content, upload.size)
    return store.keep(user, name, mime, upload.size, _text(mime, upload), upload.content)


def _text(mime: str, upload: Upload) -> str:
    """What of it a model reads as text."""
    bounds = settings.HEADRACE
    if mime.startswith("image/"):
        return ""
    upload.content.seek(0)
    if mime != checks.PDF:
        return upload.content.read().decode("utf-8-sig")[: bounds.file_text_chars]
    limits = pdf.Limits(
        bounds.file_text_chars,
        bounds.pdf_memory_bytes,
        bounds.pdf_cpu_s,
        bounds.pdf_unfold_ratio,
        bounds.pdf_unfold_bytes,
    )
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile(suffix=".pdf") as copy:
        while data := upload.content.read(IN_MEMORY_BYTES):
            copy.write(data)
        copy.flush()
        try:
            with _pdfs.take():
                return pdf.text_of(copy.name, limits, bounds.pdf_s)
        except pdf.Bomb as error:
            raise WireError("file_decompression_limit") from error
        except pdf.Broken as error:
            raise WireError("file_incomplete") from error
