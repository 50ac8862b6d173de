"""A sound input -> the same with something changed, at random: flips, cuts, repeats, numbers that matter to parsers."""

from __future__ import annotations

import random

__all__ = ["mutated"]

WORDS = (
    b"", b"\0", b"\xff", b"\x1b[31m", b"\xc2\x9b", b"\xe2\x80\xae", b"-1", b"0", b"1e999", b"NaN", b"9" * 20,
    b"null", b"[]", b"{}", b"[[[[", b'"', b",", b"..", b"../", b"\r", b"\n", b"\xef\xbb\xbf", b"\\u0000", b"\\ud800",
    b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"true",
)  # fmt: skip


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The bytes after one to six changes."""
    found = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
        if not found:
            return bytes(found)
        at = int(len(found) * chance.random() ** chance.choice([1, 1, 3]))
        deed = chance.randrange(8)
        if deed <= 1:
            found[at] ^= 1 << chance.randrange(8)
        elif deed == 2:
            found[at] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        elif deed == 3:
            del found[at : at + chance.choice([1, 4, 32, len(found)])]
        elif deed == 4:
            found[at:at] = found[at : at + chance.choice([1, 8, 200])]
        elif deed == 5:
            word = chance.choice(WORDS)
            found[at : at + len(word)] = word
        elif deed == 6:
            found[at:at] = chance.choice(WORDS)
        else:
            other = chance.randrange(len(found))
            size = chance.choice([2, 8, 64])
            found[at : at + size] = found[other : other + size]
    return bytes(found)
