"""Addresses of images by GET: `/image/<signature>/<options>/<source>.<format>`.

The signature is HMAC-SHA-256 (RFC 2104) over what follows it, `<options>/<source>.<format>`, and
`<source>` is the address of the image to be enhanced; both are base64url without padding (RFC 4648,
section 5). So only who has a key chooses sources and sizes. docs/images.md has the whole form.
"""

import binascii
import hmac
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from superres.errors import AddressExpired, BadRequest, BadSignature
from superres.images.formats import AVIF, FORMATS, JPEG, PNG, WEBP, Format, find_format
from superres.images.options import OPTION_NAMES, Options, read_options
from superres.sources.source_url import parse_source

PREFIX = "/image/"
# The best that the client can show; not a format that an upload can ask for.
AUTO = "auto"
EXPIRES, FALLBACK = "expires", "fallback"
TO_SOURCE = "source"
NAMES = (*(name for name in OPTION_NAMES if name != "format"), EXPIRES, FALLBACK)
MAX_TIME_DIGITS = 10
UNIX_TIME = re.compile(rf"[0-9]{{1,{MAX_TIME_DIGITS}}}")
# Offered by clients' `Accept`, smallest file first.
OFFERED = (AVIF, WEBP)


@dataclass(frozen=True)
class ImageRequest:
    """What a signed address asks for.

    Attributes
    ----------
    source : address of the image to be enhanced
    format : a name in `FORMATS`, or `AUTO`
    texts : the other options of a result, as `read_options` reads them
    expires : Unix time from which on the address is no longer valid; None: always valid
    falls_back : whether a client is sent to the source while there is no result
    media_types : those of `OFFERED` that the client accepts, if the format is `AUTO`
    """

    source: str
    format: str
    texts: Mapping[str, str]
    expires: int | None = None
    falls_back: bool = False
    media_types: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """The source's host; raise SourceRefused if it has none."""
        return parse_source(self.source).host

    def options(self, has_alpha: bool) -> Options:
        """Return the options of the result.

        Parameters
        ----------
        has_alpha : whether the source has transparency
        """
        if self.format != AUTO:
            return read_options(self._values(self.format))
        offered = (each for each in OFFERED if each.media_type in self.media_types)
        chosen = next(offered, PNG if has_alpha else JPEG)
        return read_options(self._values(chosen.name))

    def _values(self, format_name: str) -> dict[str, Sequence[str]]:
        texts = {"format": format_name, **self.texts}
        if self.format == AUTO and FORMATS[format_name].default_quality is None:
            texts.pop("quality", None)
        return {name: [text] for name, text in texts.items()}

    def check(self) -> None:
        """Check the options.

        Raises
        ------
        BadRequest
            One is invalid; the message names it.
        """
        if self.format == AUTO and "lossless" in self.texts:
            raise BadRequest("lossless cannot be combined with auto, which may choose JPEG.")
        # Of those that `auto` may choose, one with a quality and one without.
        for name in (AVIF.name, PNG.name) if self.format == AUTO else (self.format,):
            read_options(self._values(name))


def sign_address(key: str, request: ImageRequest) -> str:
    """Return the path that asks for an image, signed.

    Raises
    ------
    BadRequest
        An option is invalid.
    """
    request.check()
    texts = dict(request.texts)
    if request.expires is not None:
        texts[EXPIRES] = str(request.expires)
    if request.falls_back:
        texts[FALLBACK] = TO_SOURCE
    # At least one, so that there is one form of address.
    options = ",".join(f"{name}:{text}" for name, text in texts.items()) or "scale:3"
    ending = find_ending(request.format)
    signed = f"{options}/{encode_base64(request.source.encode())}.{ending}"
    return f"{PREFIX}{make_signature(key, signed)}/{signed}"


def find_ending(format_name: str) -> str:
    """Return a format's extension in addresses."""
    found = find_format(format_name)
    return AUTO if found is None else found.ending


def read_address(keys: Sequence[str], signature: str, options: str, source: str) -> ImageRequest:
    """Read the parts of a path, after checking its signature.

    Parameters
    ----------
    keys : any of them may have signed it
    signature, options, source : the path's segments; the last has the format's ending

    Raises
    ------
    BadSignature
        It was not signed with any of the keys.
    AddressExpired
        It was valid until now.
    BadRequest, SourceRefused
        What was signed is malformed; the source's address is none from which images are fetched.
    """
    signed = f"{options}/{source}"
    given = signature.encode()
    if not any(hmac.compare_digest(given, make_signature(key, signed).encode()) for key in keys):
        raise BadSignature(
            "The address is not signed with this service's key; addresses are made by "
            "`superres sign`, and no part of them can be changed."
        )
    texts = read_texts(options)
    expires = texts.pop(EXPIRES, None)
    fallback = texts.pop(FALLBACK, None)
    if fallback not in {None, TO_SOURCE}:
        raise BadRequest(f"{FALLBACK} must be {TO_SOURCE}.")
    encoded, _, ending = source.rpartition(".")
    wanted = AUTO if ending == AUTO else name_format(find_format(ending))
    if expires is not None and not UNIX_TIME.fullmatch(expires):
        raise BadRequest(f"{EXPIRES} must be a Unix time in seconds.")
    until = None if expires is None else int(expires)
    address = str(parse_source(decode_base64(encoded)))
    request = ImageRequest(address, wanted, texts, until, fallback is not None)
    request.check()
    if until is not None and time.time() >= until:
        end = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(until))
        raise AddressExpired(f"The address was valid until {end} UTC; sign another one.")
    return request


def name_format(found: Format | None) -> str:
    """Return the name of a format that was found."""
    if found is None:
        endings = ", ".join(each.ending for each in FORMATS.values())
        raise BadRequest(f"The address must end in one of {endings}, {AUTO}.")
    return found.name


def read_texts(options: str) -> dict[str, str]:
    """Read `name:value,name:value`."""
    texts: dict[str, str] = {}
    for part in options.split(","):
        name, colon, text = part.partition(":")
        if not colon or not text:
            raise BadRequest(f"Options are written name:value,name:value; {part[:40]!r} is not.")
        if name not in NAMES:
            raise BadRequest(
                f"There is no option {name[:40]!r}; the options are {', '.join(NAMES)}."
            )
        if name in texts:
            raise BadRequest(f"{name} is given twice.")
        texts[name] = text
    return texts


def make_signature(key: str, signed: str) -> str:
    """Return the signature of a text."""
    return encode_base64(hmac.digest(key.encode(), signed.encode(), "sha256"))


def make_loop_id(key: str) -> str:
    """Return what identifies the services that share a key in `CDN-Loop` (RFC 8586)."""
    return f"superres-{hmac.digest(key.encode(), b'CDN-Loop', 'sha256').hex()[:16]}"


def encode_base64(content: bytes) -> str:
    """Return base64url without padding."""
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def decode_base64(text: str) -> str:
    """Return the text in base64url; padding may be missing."""
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except (binascii.Error, UnicodeError, ValueError):
        raise BadRequest("The source's address must be written in base64url.") from None
