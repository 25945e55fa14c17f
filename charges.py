"""What clients pay for pictures that have to be computed for them."""

from collections.abc import Callable
from dataclasses import dataclass


def ignore(_pixels: int) -> None:
    """Let any number of pixels be computed."""


@dataclass(frozen=True)
class Charge:
    """What a client has to pay, in pixels, for a picture that has to be computed for it.

    Attributes
    ----------
    check : raises RateLimited where it would be too much
    spend : counts it, and may raise likewise
    """

    check: Callable[[int], None] = ignore
    spend: Callable[[int], None] = ignore


FREE = Charge()
