"""Other wordings of captions that mean the same: synonyms, plurals, slips of the pen, another word order.

A fixed list, made by hand before anything was measured; `benchmarks.text_encoder` and the tests use it.
"""

from __future__ import annotations

import re
import zlib

# a word of everyday captions -> another for the same thing
SYNONYMS: dict[str, str] = {
    # colours
    "red": "crimson", "orange": "tangerine", "yellow": "lemon-coloured", "green": "emerald", "blue": "azure",
    "purple": "violet", "pink": "rosy", "brown": "chestnut", "black": "jet-black", "white": "snowy",
    "gray": "ash-coloured",
    "teal": "turquoise", "colorful": "multicoloured",
    # animals
    "cat": "kitty", "dog": "hound", "horse": "stallion", "rabbit": "bunny", "pig": "hog",
    "monkey": "ape", "chicken": "hen",
    "mouse": "rodent", "bird": "fowl", "snake": "serpent", "frog": "froggy", "cow": "cattle", "bug": "insect",
    # people
    "man": "guy", "woman": "lady", "boy": "lad", "girl": "lass", "baby": "infant",
    "doctor": "physician", "person": "human",
    "child": "kid", "king": "monarch", "farmer": "peasant", "teacher": "instructor", "judge": "magistrate",
    "family": "household", "police officer": "policeman",
    # things
    "car": "automobile", "truck": "lorry", "bicycle": "bike", "airplane": "aeroplane", "boat": "vessel",
    "train": "railway",
    "house": "home", "shop": "store", "hospital": "clinic", "clock": "timepiece", "phone": "telephone",
    "television": "TV set",
    "computer": "PC", "lamp": "light fixture", "bag": "sack", "shoe": "footwear", "hat": "headgear",
    "glasses": "spectacles",
    "trousers": "pants", "money": "cash", "gift": "present", "picture": "image", "sword": "blade",
    "trash": "garbage",
    "candy": "sweets", "cookie": "biscuit", "bread": "loaf", "drink": "beverage",
    "eggplant": "aubergine", "corn": "maize",
    "mountain": "peak", "ocean": "sea", "rock": "stone", "road": "street", "flower": "blossom",
    "arrow": "pointer", "sign": "symbol", "button": "knob", "face": "visage", "stop": "halt",
    # how things are
    "happy": "joyful", "sad": "unhappy", "angry": "furious", "big": "large", "small": "little",
    "old": "aged", "smiling": "grinning",
    "crying": "weeping", "running": "jogging", "open": "opened", "broken": "shattered",
    "tired": "weary", "sick": "ill",
}  # fmt: skip

_SYNONYM = re.compile(r"\b(" + "|".join(sorted(SYNONYMS, key=len, reverse=True)) + r")\b")
_LAST_WORD = re.compile(r"^([^,]*?)([A-Za-z]{3,})(,|$)")
_JOINED = re.compile(r"\b(with|of|and|in|on|the|showing)\b")  # more than adjectives and a noun


def synonym(caption: str) -> str | None:
    """The caption with every word of the list replaced, or None where it holds none.

    >>> synonym("a red cat")
    'a crimson kitty'
    """
    text = _SYNONYM.sub(lambda found: SYNONYMS[found.group()], caption)
    return _articles(text) if text != caption else None


def plural(caption: str) -> str | None:
    """The caption's last word before a comma as a plural, without an article: "a red cat" -> "red cats"."""
    found = None if _JOINED.search(caption) else _LAST_WORD.match(caption)
    if found is None or found.group(2).endswith("s"):
        return None
    word = found.group(2)
    if re.search("[^aeiou]y$", word):
        word = word[:-1] + "ie"
    ending = word + ("es" if re.search("(x|ch|sh)$", word) else "s")
    return re.sub(r"^(a|an) ", "", caption[: found.start(2)] + ending + caption[found.end(2) :])


def typo(caption: str) -> str | None:
    """The caption with two letters of its longest word exchanged: "a red banana" -> "a red baanna"."""
    word = max(re.findall("[A-Za-z]+", caption), key=len, default="")
    at = next((at for at in _inner(word) if word[at] != word[at + 1]), None)
    if at is None:
        return None
    return caption.replace(word, word[:at] + word[at + 1] + word[at] + word[at + 2 :], 1)


def reordered(caption: str) -> str | None:
    """The caption's words in another order, its adjectives behind: "a red cat" -> "cat, a red one"."""
    found = (
        None if _JOINED.search(caption) else re.match(r"^(an?) (.+) ([A-Za-z]+)(,.*)?$", caption)
    )
    return f"{found[3]}, {found[1]} {found[2]} one{found[4] or ''}" if found else None


REWRITES = {"synonyms": synonym, "plural": plural, "typo": typo, "word order": reordered}


def _inner(word: str) -> list[int]:
    """Places inside a word of five letters or more, in an order that the word itself fixes."""
    places = list(range(1, len(word) - 2)) if len(word) >= 5 else []
    start = zlib.crc32(word.encode()) % max(len(places), 1)
    return places[start:] + places[:start]


def _articles(text: str) -> str:
    text = re.sub(r"\b([Aa])n (?=[^aeiou\W])", r"\1 ", text)
    return re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text)
