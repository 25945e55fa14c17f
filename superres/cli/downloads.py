"""Images at web addresses: fetched by the command line itself, as a browser on this machine would.

So proxies and private networks are allowed, which the service, asked for an address, refuses.
"""

import re
from functools import cache
from http import HTTPStatus
from io import BytesIO
from urllib.parse import unquote

import httpx

from superres import __version__
from superres.cli.service_answers import EnhanceError, explain_silence
from superres.cli.service_client import MAX_PORT, make_client
from superres.excess import show_amount

TIMEOUT = httpx.Timeout(30, connect=15)
# More than any image has that the service, or this machine, takes; an endless answer has more.
MAX_BYTES = 1024**3
HEADERS = {"Accept": "image/*, */*;q=0.5", "User-Agent": f"superres/{__version__}"}
SCHEME = re.compile(r"https?:", re.IGNORECASE)
# Characters that no file name may have.
FORBIDDEN = re.compile(r"[/\x00]")


def is_web_address(text: str) -> bool:
    """Tell whether a text is meant as a web address, not as a path."""
    return SCHEME.match(text) is not None


@cache
def shared_client() -> httpx.Client:
    """Return the client of all downloads; raise what `make_client` raises."""
    return make_client()


class Download:
    """An image at a web address.

    Attributes
    ----------
    name : of the file, as its URL has it; the host's if it has none

    Raises
    ------
    ValueError
        The text is not the address of anything.
    """

    def __init__(self, text: str) -> None:
        try:
            self._url = httpx.URL(text)
        except httpx.InvalidURL:
            raise ValueError(f"{text!r} is not a web address") from None
        if not self._url.host or (self._url.port or 0) > MAX_PORT:
            raise ValueError(f"{text!r} is not a web address")
        self._text = text
        last = unquote(self._url.raw_path.decode().partition("?")[0].rpartition("/")[2])
        name = FORBIDDEN.sub("_", last)
        self.name = self._url.host if name in {"", ".", ".."} else name

    def __str__(self) -> str:
        """Return the address as it was given."""
        return self._text

    def read_bytes(self) -> bytes:
        """Fetch the image.

        Raises
        ------
        EnhanceError
            It cannot be fetched, and why.
        Unusable
            The environment's proxy or certificates cannot be used.
        """
        content = BytesIO()
        try:
            with shared_client().stream(
                "GET", self._url, headers=HEADERS, timeout=TIMEOUT
            ) as answer:
                if not answer.is_success:
                    raise EnhanceError(explain_status(answer.status_code))
                for piece in answer.iter_bytes():
                    if content.tell() + len(piece) > MAX_BYTES:
                        most = show_amount(MAX_BYTES, "bytes")
                        raise EnhanceError(f"has more than {most}, which no image has")
                    content.write(piece)
        except httpx.InvalidURL:
            raise EnhanceError("the server redirects to an invalid address") from None
        except httpx.DecodingError:
            raise EnhanceError("the server's answer is damaged") from None
        except httpx.RequestError as error:
            raise EnhanceError(explain_silence(error)) from None
        if not content.tell():
            raise EnhanceError("the server sent an empty file")
        return content.getvalue()


def explain_status(status: int) -> str:
    """Return what a server's refusal means."""
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
        return f"there is nothing at this address ({status})"
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "an unknown status"
    return f"the server answered {status}, {phrase}"
