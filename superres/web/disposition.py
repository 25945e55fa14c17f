"""Whether a browser shows a result or saves it, and under which name (RFC 6266)."""

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from superres.errors import BadRequest

DOWNLOAD = "download"


def read_download(values: Mapping[str, Sequence[str]]) -> bool:
    """Read the parameter `download`: whether the result is to be saved.

    Parameters
    ----------
    values : texts of form fields and query parameters by name

    Raises
    ------
    BadRequest
        It is neither 0 nor 1, or given twice.
    """
    given = [text for text in values.get(DOWNLOAD, ()) if text]
    if len(given) > 1 or not {"0", "1"}.issuperset(given):
        raise BadRequest(f"{DOWNLOAD} must be 0 or 1, given once.")
    return given == ["1"]


def make_disposition(stem: str, suffix: str, is_download: bool) -> str:
    """Return the header Content-Disposition.

    Parameters
    ----------
    stem, suffix : of the file name; without characters that a quoted string excludes
    is_download : whether browsers save the image instead of showing it
    """
    kind = "attachment" if is_download else "inline"
    # Some browsers decode percent sequences in a plain file name (RFC 6266, appendix D).
    if stem.isascii() and "%" not in stem:
        return f'{kind}; filename="{stem}{suffix}"'
    encoded = quote(stem + suffix, safe="")
    return f"{kind}; filename=\"image{suffix}\"; filename*=UTF-8''{encoded}"
