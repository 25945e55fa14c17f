"""Limits that requests exceed: in numbers for programs, and in figures for people."""

from dataclasses import dataclass

UNITS = {"bytes": (1024**2, "MB"), "pixels": (10**6, "megapixels")}
MAX_DECIMALS = 6


def show_amount(amount: int, unit: str) -> str:
    """Return an amount of bytes or pixels for people: "20.2 megapixels", "1,700 pixels"."""
    size, name = choose_unit(amount, unit)
    return f"{show_number(amount / size, 1)} {name}"


def compare(actual: int, limit: int, unit: str) -> tuple[str, str]:
    """Return an amount and the limit below it for people: ("20.2 megapixels", "16")."""
    size, name = choose_unit(limit, unit)
    found, allowed = actual / size, limit * 100 // size / 100
    decimals = 1
    # 4000 x 4001 pixels are not "16 megapixels; at most 16".
    while decimals < MAX_DECIMALS and round(found, decimals) <= allowed:
        decimals += 1
    return f"{show_number(found, decimals)} {name}", show_number(allowed, 2)


def choose_unit(amount: int, unit: str) -> tuple[int, str]:
    """Return a unit in which an amount is at least 1: its size and its name."""
    size, name = UNITS[unit]
    return (size, name) if amount >= size else (1, unit)


def show_number(number: float, decimals: int) -> str:
    """Return a number without zeros at its end."""
    return f"{number:,.{decimals}f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Excess:
    """A limit that a request exceeds.

    Attributes
    ----------
    name : as in `GET /api/capabilities`, if it is there
    limit, actual : allowed, and found, in bytes, pixels or seconds; an upload that is over the
        limit is not read to its end: then `actual` is None
    """

    name: str
    limit: int
    actual: int | None
