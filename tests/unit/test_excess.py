import pytest
from hypothesis import given
from hypothesis import strategies as st

from superres.excess import compare, show_amount

MIB = 1024**2


@pytest.mark.parametrize(
    ("actual", "limit", "unit", "words"),
    [
        (5472 * 3648, 16_000_000, "pixels", ("20 megapixels", "16")),
        (6000 * 4000, 16_500_000, "pixels", ("24 megapixels", "16.5")),
        (4000 * 4001, 16_000_000, "pixels", ("16.004 megapixels", "16")),
        (1_210, 1_200, "pixels", ("1,210 pixels", "1,200")),
        (1_500_000, 900_000, "pixels", ("1,500,000 pixels", "900,000")),
        (20 * MIB, 16 * MIB, "bytes", ("20 MB", "16")),
        (16 * MIB + 1, 16 * MIB, "bytes", ("16.000001 MB", "16")),
        (3000 * MIB, 1371 * MIB, "bytes", ("3,000 MB", "1,371")),
    ],
)
def test_figures_are_short_and_tell_which_is_more(
    actual: int, limit: int, unit: str, words: tuple[str, str]
) -> None:
    assert compare(actual, limit, unit) == words


def to_number(text: str) -> float:
    return float(text.split()[0].replace(",", ""))


@given(
    limit=st.integers(1, 10**9),
    excess=st.integers(1, 10**9),
    unit=st.sampled_from(["bytes", "pixels"]),
)
def test_what_was_found_always_reads_as_more_than_the_limit(
    limit: int, excess: int, unit: str
) -> None:
    found, allowed = compare(limit + excess, limit, unit)
    assert to_number(found) > to_number(allowed)


@pytest.mark.parametrize(
    ("amount", "unit", "words"),
    [
        (20_155_392, "pixels", "20.2 megapixels"),
        (200, "pixels", "200 pixels"),
        (MIB, "bytes", "1 MB"),
    ],
)
def test_amount_has_the_unit_that_people_use(amount: int, unit: str, words: str) -> None:
    assert show_amount(amount, unit) == words
