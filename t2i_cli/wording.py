"""Numbers and things as a message says them."""

from __future__ import annotations

__all__ = ["number_of", "plain"]


def number_of(number: int, thing: str, several: str = "") -> str:
    """A number of things.

    >>> number_of(1, "picture"), number_of(1200, "picture"), number_of(2, "is", "are")
    ('1 picture', '1,200 pictures', '2 are')
    """
    return f"{number:,} {thing if number == 1 else several or thing + 's'}"


def plain(value: float) -> str:
    """A number as one would type it: all its digits, no exponent.

    >>> plain(1e6), plain(2**63 - 1), plain(0.05), plain(1e-9)
    ('1000000', '9223372036854775807', '0.05', '0.000000001')
    """
    if isinstance(value, int) or value.is_integer():
        return str(int(value))
    return f"{value:.12f}".rstrip("0")
