"""Multipart forms, read with Werkzeug's decoder, but with error messages that say what is wrong.

Werkzeug's own loop over its decoder (`MultiPartParser`) treats a form that it cannot read as
empty, so that a client would be told that a field is missing. It also reads file names only in
UTF-8, and treats a part without one as text, whatever its Content-Type (RFC 7578, 4.2 and 4.4).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any

from flask import Request
from werkzeug.datastructures import FileStorage, Headers
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.sansio.multipart import (
    Data,
    Epilogue,
    Event,
    Field,
    File,
    MultipartDecoder,
    NeedData,
    State,
)

from superres.errors import BadRequest, UnsupportedUpload

# The field of the image, the only file whose bytes are kept.
FIELD = "image"
PIECE_BYTES = 64 * 1024
# For a part's headers, and for all text fields together: options take less than a kilobyte. Each
# waiting request keeps its form in memory.
MAX_HEADER_BYTES, MAX_TEXT_BYTES = 16 * 1024, 64 * 1024
# An image's name if the client sends none.
DEFAULT_NAME = "image"
LET_CLIENT = "Let the browser or client set the Content-Type of a form itself."
# Encodings that leave a part's bytes unchanged.
PLAIN_ENCODINGS = frozenset({"", "7bit", "8bit", "binary"})
# Werkzeug ends an unquoted boundary at the first character that a token must not have, such as the
# = in boundary=----=_Part_1, for which clients often omit the quotes.
BARE_BOUNDARY = re.compile(r';\s*boundary=([^";\s]+)\s*(?:;|$)', re.IGNORECASE)
# The same for file names: filename=my photo.png
BARE_FILE_NAME = re.compile(r';\s*filename=(?!")([^;]*)', re.IGNORECASE)
EXTENDED_FILE_NAME = re.compile(r';\s*filename\*="?([^";]*)"?', re.IGNORECASE)
READABLE = re.compile("(utf-8|iso-8859-1|us-ascii)'[^']*'.", re.IGNORECASE)
# A backslash that does not escape a quote: from a Windows path, or a name that ends with one.
PATH_BACKSLASH = re.compile(r'\\(?!"(?!\s*(?:;|$)))')
# How browsers encode line breaks in names (HTML, 4.10.21.8); Werkzeug itself decodes their %22.
ENCODED_LINE_END = re.compile("%0[AD]")


def clean_disposition(text: str) -> str:
    """Fix a part's Content-Disposition so that Werkzeug reads the intended file name."""
    text = PATH_BACKSLASH.sub("/", text)
    text = BARE_FILE_NAME.sub(lambda found: f'; filename="{found[1].strip()}"', text)
    text = ENCODED_LINE_END.sub(" ", text)
    # .NET sends both. filename* takes precedence in any position (RFC 6266, 4.3); Werkzeug takes
    # the last one, even if it cannot decode it.
    if extended := EXTENDED_FILE_NAME.search(text):
        text = text.replace(extended[0], "")
        if READABLE.match(extended[1]) or "filename=" not in text.lower():
            text = f"{text}; filename*={extended[1].strip()}"
    return text


class FormDecoder(MultipartDecoder):
    """Werkzeug's decoder, extended to headers that real clients send."""

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        if len(data) > MAX_HEADER_BYTES:
            raise RequestEntityTooLarge
        try:
            data.decode()
        except UnicodeDecodeError:
            data = data.decode("latin-1").encode()
        headers = super()._parse_headers(data)
        if "Content-Disposition" in headers:
            headers["Content-Disposition"] = clean_disposition(headers["Content-Disposition"])
        return headers

    def read(self, piece: bytes | None) -> Iterator[Event]:
        """Yield the events of another piece of the form; None means the form's end.

        Raises
        ------
        BadRequest
            The form cannot be read; the message says what is wrong.
        """
        try:
            self.receive_data(piece)
            while not isinstance(event := self.next_event(), NeedData | Epilogue):
                yield event
        except (ValueError, RequestEntityTooLarge) as error:
            raise BadRequest(self._describe(error)) from None

    def _describe(self, error: Exception) -> str:
        """Return what is wrong with a form that the decoder has given up on."""
        if self.state is State.PREAMBLE:
            name = self.boundary.decode()[:70]
            return f"The boundary of the Content-Type, {name!r}, is not in the form. {LET_CLIENT}"
        if isinstance(error, RequestEntityTooLarge):
            if self.state is State.PART:
                return f"A part of the form has more than {MAX_HEADER_BYTES:,} bytes of headers."
            return f"The form has more than {self.max_parts} fields."
        if self.state is State.PART and (
            not self.complete or self.buffer.startswith((b"\r", b"\n"))
        ):
            return "A part of the form has no Content-Disposition, which names its field."
        return "The form is cut short: its closing boundary is missing."


@dataclass
class Part:
    """One field of a form.

    Attributes
    ----------
    file_name : None for text
    content : empty for a file that is not needed
    """

    name: str
    file_name: str | None
    headers: Headers
    content: IO[bytes]
    is_kept: bool = True


class FormParser(FormDataParser):
    """Reads multipart forms; leaves other types to Werkzeug's parser."""

    def parse(
        self,
        stream: IO[bytes],
        mimetype: str,
        content_length: int | None,
        options: dict[str, str] | None = None,
    ) -> tuple[IO[bytes], Any, Any]:
        """Read a form's text fields and files.

        Raises
        ------
        BadRequest
            The form is cut short or malformed; the message says what is wrong.
        UnsupportedUpload
            A part of it has a transfer encoding.
        """
        if mimetype != "multipart/form-data":
            return super().parse(stream, mimetype, content_length, options)
        boundary = (options or {}).get("boundary", "")
        if not boundary or not boundary.isascii():
            raise BadRequest(f"The Content-Type has no boundary. {LET_CLIENT}")
        decoder = FormDecoder(
            boundary.encode(), self.max_form_memory_size, max_parts=self.max_form_parts
        )
        parts: list[Part] = []
        try:
            self._read_parts(stream, decoder, content_length, parts)
        except BaseException:
            for part in parts:
                part.content.close()
            raise
        texts, files = [], []
        for part in parts:
            part.content.seek(0)
            if part.file_name is None:
                texts.append((part.name, part.content.read().decode(errors="replace")))
            else:
                storage = FileStorage(part.content, part.file_name, part.name, headers=part.headers)
                files.append((part.name, storage))
        return stream, self.cls(texts), self.cls(files)

    def _read_parts(
        self,
        stream: IO[bytes],
        decoder: FormDecoder,
        content_length: int | None,
        parts: list[Part],
    ) -> None:
        """Append the form's parts."""
        has_any = False
        while piece := stream.read(PIECE_BYTES):
            has_any = True
            if decoder.state is not State.EPILOGUE:
                self._take(decoder.read(piece), content_length, parts)
        if not has_any:
            raise BadRequest("The form is empty.")
        self._take(decoder.read(None), content_length, parts)

    def _take(self, events: Iterator[Event], content_length: int | None, parts: list[Part]) -> None:
        """Start parts, and fill the last one."""
        for event in events:
            if isinstance(event, Field | File):
                is_first = all(part.name != event.name for part in parts)
                parts.append(self._begin_part(event, content_length, is_first))
            elif isinstance(event, Data):
                part = parts[-1]
                if part.is_kept:
                    part.content.write(event.data)
                texts = [each.content.tell() for each in parts if each.file_name is None]
                if part.file_name is None and sum(texts) > MAX_TEXT_BYTES:
                    raise BadRequest(
                        f"With the text field {part.name[:40]!r} the form's text has more than "
                        f"{MAX_TEXT_BYTES:,} bytes; a file needs a file name, or a Content-Type "
                        "such as image/png."
                    )

    def _begin_part(self, event: Field | File, content_length: int | None, is_first: bool) -> Part:
        if not event.name:
            raise BadRequest("A part of the form has no name; it must have its field's name.")
        if event.headers.get("Content-Transfer-Encoding", "").lower() not in PLAIN_ENCODINGS:
            raise UnsupportedUpload(
                "Content-Transfer-Encoding is not supported; send the file as it is."
            )
        media_type = event.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if isinstance(event, File):
            file_name = event.filename
        elif is_picture_type(media_type):
            file_name = DEFAULT_NAME
        else:
            return Part(event.name, None, event.headers, BytesIO())
        if event.name != FIELD or not is_first:
            return Part(event.name, file_name, event.headers, BytesIO(), is_kept=False)
        content = self.stream_factory(content_length, media_type, file_name, None)
        return Part(event.name, file_name, event.headers, content)


def is_picture_type(media_type: str) -> bool:
    """Tell whether an image may have this media type."""
    return media_type.startswith("image/") or media_type == "application/octet-stream"


class FormRequest(Request):
    """A request whose forms are read by `FormParser`."""

    form_data_parser_class = FormParser

    @property
    def mimetype_params(self) -> dict[str, str]:
        """The Content-Type's parameters."""
        found = BARE_BOUNDARY.search(self.headers.get("Content-Type", ""))
        return {**super().mimetype_params, **({"boundary": found[1]} if found else {})}
