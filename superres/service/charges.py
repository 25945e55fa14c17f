"""What clients pay for images that have to be computed for them."""


class Reservation:
    """Pixels that count for a client until they are given back; these count for nobody."""

    def give_back(self) -> None:
        """Let them count no more: nothing was computed for them. Again, nothing happens."""


class Charge:
    """Who pays for an image that has to be computed, in pixels; here nobody."""

    def reserve(self, pixels: int) -> Reservation:
        """Count an image before it is computed.

        Raises
        ------
        RateLimited
            It would be too much; nothing was counted.
        """
        return Reservation()


FREE = Charge()
