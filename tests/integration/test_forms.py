"""Forms as real clients send them, as bytes to the real service; none but these bytes is at fault."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection
from io import BytesIO
from urllib.parse import unquote

import pytest
from PIL import Image
from requests import Request as ClientRequest

from superres.web.forms import FormParser
from testkit.pictures import encode
from testkit.service import Service, run_light_service

PNG = encode(Image.new("RGB", (9, 7), (200, 30, 60)), "PNG")
# So large that Werkzeug reads it in several pieces, and would consider it too long a text.
LARGE = PNG + bytes(range(256)) * 2600
FORM = "multipart/form-data; boundary=B"
END = b"--B--\r\n"
IMAGE = b'form-data; name="image"; filename="a.png"'
TIMEOUT_SECONDS = 60


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with run_light_service(tmp_path_factory.mktemp("service")) as running:
        yield running
        assert "Traceback" not in running.log


@dataclass(frozen=True)
class Answer:
    """A response of the service."""

    status: int
    headers: Message
    body: bytes

    @property
    def words(self) -> str:
        """Return a problem's message."""
        assert self.headers["Content-Type"] == "application/problem+json"
        return str(json.loads(self.body)["error"])

    @property
    def name(self) -> str:
        """Return the name under which a browser would save the image."""
        assert (self.status, self.headers["Content-Type"]) == (200, "image/png"), self.body[:500]
        disposition = self.headers["Content-Disposition"]
        extended = re.search(r"filename\*=UTF-8''(\S+)$", disposition)
        plain = re.fullmatch(r'inline; filename="([^"]*)"', disposition)
        found = unquote(extended[1]) if extended else plain and plain[1]
        assert found, disposition
        return str(found)


def post(
    service: Service,
    body: bytes | list[bytes],
    content_type: str = FORM,
    path: str = "/api/enhance",
    **headers: str,
) -> Answer:
    """Send a body, or a list of chunks."""
    connection = HTTPConnection(service.url.removeprefix("http://"), timeout=TIMEOUT_SECONDS)
    sent = {"Content-Type": content_type, **headers}
    try:
        connection.request("POST", path, body, sent, encode_chunked=isinstance(body, list))
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def make_part(
    disposition: bytes, content: bytes = PNG, headers: bytes = b"Content-Type: image/png\r\n"
) -> bytes:
    return (
        b"--B\r\nContent-Disposition: "
        + disposition
        + b"\r\n"
        + headers
        + b"\r\n"
        + content
        + b"\r\n"
    )


def make_form(file_name: bytes) -> bytes:
    """Return a form whose image has this file name, verbatim between the quotes."""
    return make_part(b'form-data; name="image"; filename="' + file_name + b'"') + END


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("café.png".encode(), "café_x3.png"),
        # Not UTF-8: an old browser, curl or PHP in a Windows console, a form of accept-charset.
        ("café.png".encode("cp1252"), "café_x3.png"),
        ("фото.png".encode("cp1251"), "ôîòî_x3.png"),
        ("我的图.png".encode("gbk"), "ÎÒµÄÍ¼_x3.png"),
        # Its bytes include a backslash before the dot, and at the name's end.
        ("表.png".encode("shift_jis"), "png_x3.png"),
        ("表".encode("shift_jis"), "image_x3.png"),
        # Whole paths: Internet Explorer, .NET Framework, curl -F 'image=@a.png;filename=...'
        (rb"C:\Users\Jo\My Pic.PNG", "My Pic_x3.png"),
        (rb"C:\\Users\\Jo\\My Pic.PNG", "My Pic_x3.png"),
        (rb"\\server\share\My Pic.PNG", "My Pic_x3.png"),
        (b"/home/jo/My Pic.PNG", "My Pic_x3.png"),
        (rb"..\..\etc\passwd.png", "passwd_x3.png"),
        # How browsers, and curl --form-escape, write a quote.
        (b"a%22b.png", "ab_x3.png"),
        (rb"a\"b.png", "ab_x3.png"),
        (b"a%0D%0Ab.png", "a  b_x3.png"),
        (b"a;b=c.png", "a;b=c_x3.png"),
        (b"100%25.png", "100%25_x3.png"),
        (b"a\x01\x7fb.png", "ab_x3.png"),
        ("a\u202egnp.exe\u200f.png".encode(), "agnp.exe_x3.png"),
        (b"n" * 300 + b".png", "n" * 100 + "_x3.png"),
        ("图".encode() * 300 + b".png", "图" * 66 + "_x3.png"),
        ("👩‍🔬.png".encode(), "👩‍🔬_x3.png"),
        (b".png", "png_x3.png"),
    ],
)
def test_file_name_of_a_form_names_the_result(service: Service, sent: bytes, name: str) -> None:
    answer = post(service, make_form(sent))
    assert answer.name == name
    assert len(answer.name.encode()) <= 255


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        # .NET's HttpClient, PowerShell's -Form
        (b"form-data; name=image; filename=x.png; filename*=utf-8''caf%C3%A9.png", "café_x3.png"),
        (
            b"form-data; name=image; filename=\"=?utf-8?B?Y2Fmw6kucG5n?=\"; filename*=utf-8''caf%C3%A9.png",
            "café_x3.png",
        ),
        (
            b"form-data; filename*=UTF-8''caf%C3%A9.png; filename=\"x.png\"; name=image",
            "café_x3.png",
        ),
        # Apache's HttpClient 5
        (b'form-data; name="image"; filename*="UTF-8\'\'caf%C3%A9.png"', "café_x3.png"),
        # Old requests and urllib3
        (b"form-data; name=\"image\"; filename*=utf-8''caf%C3%A9.png", "café_x3.png"),
        (b"form-data; name=\"image\"; filename*=iso-8859-1'en'caf%E9.png", "café_x3.png"),
        (b"form-data; name=image; filename=x.png; filename*=gbk''%CE%D2.png", "x_x3.png"),
        (b"form-data; name=image; filename=x.png; filename*=utf-8''", "x_x3.png"),
        (b"form-data; name=image; filename=x.png; filename*=", "x_x3.png"),
        (b"form-data; name=image; filename*=gbk''%CE%D2.png", "%CE%D2_x3.png"),
        (b"form-data; name=image; filename=my photo.png", "my photo_x3.png"),
        (b"form-data; name=image; filename=" + "фото.png".encode(), "фото_x3.png"),
        (b'FORM-DATA; NAME="image"; FILENAME="a.png"', "a_x3.png"),
        (b'form-data;name="image";filename="a.png"', "a_x3.png"),
        (b'form-data; filename="a.png"; name="image"', "a_x3.png"),
        (b'form-data; name="image";\r\n filename="a.png"', "a_x3.png"),
        (b'attachment; name="image"; filename="a.png"', "a_x3.png"),
        (b'form-data; name="image"', "image_x3.png"),
    ],
)
def test_disposition_of_a_real_client_is_read(
    service: Service, disposition: bytes, name: str
) -> None:
    assert post(service, make_part(disposition) + END).name == name


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Type: image/png\r\n",
        b"content-type: Image/PNG; charset=binary\r\n",
        b"Content-Type: application/octet-stream\r\nContent-Length: 99\r\n",
        b"Content-Transfer-Encoding: binary\r\nContent-Type: image/jpeg\r\n",
    ],
)
@pytest.mark.parametrize("picture", [PNG, LARGE], ids=["small", "large"])
def test_part_of_a_pictures_type_is_a_file_without_a_name(
    service: Service, headers: bytes, picture: bytes
) -> None:
    part = make_part(b'form-data; name="image"', picture, headers)
    assert post(service, part + END).name == "image_x3.png"


FILE = make_part(IMAGE)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (FILE + END, 'multipart/form-data; boundary="B"'),
        (FILE + END, "Multipart/Form-Data; charset=utf-8; BOUNDARY=B"),
        (FILE + END, "multipart/form-data;boundary=B ; charset=utf-8"),
        (
            (FILE + END).replace(b"--B", b"--a=b/c:d?(e)"),
            "multipart/form-data; boundary=a=b/c:d?(e)",
        ),
        (
            (FILE + END).replace(b"--B", b"------=_Part_1"),
            "multipart/form-data; boundary=----=_Part_1",
        ),
        ((FILE + END).replace(b"--B", b"--a b"), 'multipart/form-data; boundary="a b"'),
        (b"This is a form.\r\n" + FILE + END + b"an epilogue\r\n", FORM),
        (b"\r\n" + FILE + b"--B--", FORM),
        (FILE + b"--B--  \r\n" + b"x" * 600_000, FORM),
        (FILE.replace(PNG, b"?").replace(b"\r\n", b"\n").replace(b"?", PNG) + b"--B--\n", FORM),
        (make_part(IMAGE, LARGE) + END, FORM),
        (FILE.replace(b"Content-Type: image/png\r\n", b"") + END, FORM),
        (FILE.replace(b"--B\r\n", b"--B  \r\n") + END, FORM),
    ],
)
def test_form_of_a_real_client_is_read(service: Service, body: bytes, content_type: str) -> None:
    assert post(service, body, content_type).name == "a_x3.png"


def test_form_in_chunks_is_read(service: Service) -> None:
    body = make_part(IMAGE, LARGE) + END
    pieces = [body[start : start + 7001] for start in range(0, len(body), 7001)]
    assert post(service, pieces, **{"Transfer-Encoding": "chunked"}).name == "a_x3.png"


def test_client_that_waits_for_100_continue_gets_it_and_its_result(service: Service) -> None:
    body = make_part(IMAGE) + END
    connection = HTTPConnection(service.url.removeprefix("http://"), timeout=TIMEOUT_SECONDS)
    connection.putrequest("POST", "/api/enhance")
    for name, value in (
        ("Content-Type", FORM),
        ("Content-Length", str(len(body))),
        ("Expect", "100-Continue"),
    ):
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.sock.recv(8192) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.send(body)
    assert connection.getresponse().status == 200
    connection.close()


def test_form_of_a_library_with_options_is_read(service: Service) -> None:
    prepared = ClientRequest(
        "POST",
        service.url,
        files={"image": ("naïve.png", PNG)},
        data={"scale": "2", "_charset_": "utf-8"},
    ).prepare()
    assert isinstance(prepared.body, bytes)
    answer = post(service, prepared.body, prepared.headers["Content-Type"])
    assert answer.name == "naïve_x2.png"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        (FILE, FORM, 400, "cut short: its closing boundary"),
        (FILE[:60], FORM, 400, "cut short: its closing boundary"),
        (FILE + b"--B\r\n", FORM, 400, "cut short: its closing boundary"),
        (make_part(IMAGE, LARGE), FORM, 400, "cut short: its closing boundary"),
        (FILE + END, "multipart/form-data; boundary=C", 400, "'C', is not in the form"),
        (make_part(IMAGE, LARGE) + END, "multipart/form-data; boundary=C", 400, "'C', is not in"),
        (PNG, FORM, 400, "'B', is not in the form"),
        (FILE + END, "multipart/form-data", 400, "no boundary"),
        (FILE + END, "multipart/form-data; boundary=", 400, "no boundary"),
        (b"", FORM, 400, "form is empty"),
        (b"--B\r\n\r\nhello\r\n" + END, FORM, 400, "no Content-Disposition"),
        (b"--B\r\nContent-Type: image/png\r\n\r\nhello\r\n" + END, FORM, 400, "no Content-Disposition"),
        (make_part(b'form-data; filename="a.png"') + END, FORM, 400, "has no name"),
        (make_part(b'form-data; name="a"', b"1", b"") * 33 + END, FORM, 400, "more than 32 fields"),
        (make_part(IMAGE, PNG, b"X-A: " + b"a" * 600_000 + b"\r\n") + END, FORM, 400, "more than 16,384 bytes of headers"),
        (make_part(IMAGE, PNG, b"X-A: " + b"a" * 17_000 + b"\r\n") + END, FORM, 400, "more than 16,384 bytes of headers"),
        (make_part(b'form-data; name="_a"', b"a" * 9000, b"") * 8 + FILE + END, FORM, 400, "'_a' the form's text has more than 65,536 bytes"),
        (make_part(b'form-data; name="image"', LARGE, b"") + END, FORM, 400, "'image' the form's text has more than 65,536 bytes"),
        (make_part(b'form-data; name="image"', PNG, b"") + END, FORM, 400, "'image' is text"),
        (make_part(b'form-data; name="photo"; filename="a"') + END, FORM, 400, "no file in the field 'image'"),
        (make_part(b'form-data; name="image"; filename=""', b"") + END, FORM, 400, "has an empty name"),
        (make_part(IMAGE, PNG, b"Content-Transfer-Encoding: base64\r\n") + END, FORM, 415, "Content-Transfer-Encoding"),
    ],
)  # fmt: skip
def test_form_that_cannot_be_read_is_told_what_is_wrong_with_it(
    service: Service, body: bytes, content_type: str, status: int, words: str
) -> None:
    answer = post(service, body, content_type)
    assert (answer.status, words in answer.words) == (status, True), answer.words


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (b'name="outscale"', "no option 'outscale'; the options are format, quality"),
        (b'name="Scale"', "no option 'Scale'"),
        (b'name="image[]"', "no option 'image[]'"),
        (b'name="scale"; filename="blob"', "scale was sent as a file"),
        (b'name="thumbnail"; filename="a.png"', "no option 'thumbnail'"),
    ],
)
def test_field_that_is_no_option_is_refused(service: Service, field: bytes, words: str) -> None:
    body = FILE + make_part(b"form-data; " + field, b"2", b"") + END
    answer = post(service, body)
    assert (answer.status, words in answer.words) == (400, True), answer.words


def test_of_files_the_pictures_bytes_alone_are_kept() -> None:
    """Each waiting request keeps its form: sixty of them used up all memory."""
    other = make_part(b'form-data; name="_a"; filename="a"', b"a" * 400_000)
    body = other * 3 + make_part(IMAGE) * 2 + other + END
    _, texts, files = FormParser().parse(
        BytesIO(body), "multipart/form-data", len(body), {"boundary": "B"}
    )
    assert not texts
    assert [each.read() for each in files.getlist("image")] == [PNG, b""]
    assert [each.read() for each in files.getlist("_a")] == [b""] * 4
    for each in files.values():
        each.close()


def test_field_that_begins_with_an_underscore_passes(service: Service) -> None:
    others = make_part(b'form-data; name="_x"', b"2", b"") + make_part(
        b'form-data; name="_file"; filename="a"', b"2", b""
    )
    assert post(service, others + FILE + END, path="/api/enhance?_=1").name == "a_x3.png"


@pytest.mark.parametrize(
    "coding", ["gzip, chunked", "Deflate,chunked", "identity, chunked", "br, chunked", "br"]
)
def test_body_in_a_coding_but_chunked_is_not_implemented(service: Service, coding: str) -> None:
    answer = post(service, [PNG], "image/png", **{"Transfer-Encoding": coding})
    assert (answer.status, json.loads(answer.body)["code"]) == (501, "coding_not_implemented")
