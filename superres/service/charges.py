"""What clients are charged for images that are computed for them."""


class Reservation:
    """Pixels charged to a client until they are given back; these are charged to nobody."""

    def give_back(self) -> None:
        """Refund the pixels: nothing was computed for them. Safe to call again."""


class Charge:
    """Charges somebody for an image that is computed, in pixels; here nobody."""

    def reserve(self, pixels: int) -> Reservation:
        """Charge an image before it is computed.

        Raises
        ------
        RateLimited
            It would exceed the limit; nothing was charged.
        """
        return Reservation()


FREE = Charge()
