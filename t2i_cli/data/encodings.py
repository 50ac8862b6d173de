"""Bytes of a text file -> text: UTF-8, UTF-16 and the code pages that older programs write."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable

__all__ = ["UTF8", "decode", "detect", "legacy"]

UTF8 = "UTF-8"
_MARKS = (  # the longer ones first: UTF-32's begins as UTF-16's does
    (codecs.BOM_UTF8, "utf-8-sig", UTF8),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
# code page -> the characters beyond ASCII that texts of its languages are made of
_SINGLE = {
    "windows-1252": "äöüßéèêëàâáãåæçîíìïñôóòõøœùûúÿÄÖÜÉÈÀÁÅÆÇÑÓØÚ“”‘’–—…«»°€£",
    "windows-1250": "ąćęłńóśźżáčďéěíňřšťúůýžőűăâîșțşţäöüßĄĆĘŁŃÓŚŹŻČĎĚŇŘŠŤŮŽ„”“’–—…",
    "windows-1251": "абвгдежзийклмнопрстуфхцчшщъыьэюяёіїєґАБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЭЮЯ«»–—…№",
    "koi8-r": "абвгдежзийклмнопрстуфхцчшщъыьэюяёАБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЭЮЯ",
    "windows-1253": "αβγδεζηθικλμνξοπρστυφχψωςάέήίόύώΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ«»–—…",
    "mac-roman": "äöüßéèêëàâáãåçîíìïñôóòõøœùûúÄÖÜÉ“”‘’–—…",
    "cp850": "äöüßéèêëàâáãåæçîíìïñôóòõøùûúÄÖÜÉ",
}
# code page -> the blocks of characters that plain texts in it are made of
_DOUBLE = {
    "shift-jis": "[\u3040-\u30ff\u4e00-\u9fff\u3000-\u303f\uff01-\uff5e]",
    "euc-jp": "[\u3040-\u30ff\u4e00-\u9fff\u3000-\u303f\uff01-\uff5e]",
    "euc-kr": "[\uac00-\ud7a3\u3000-\u303f\uff01-\uff5e]",
    "gb18030": "[\u4e00-\u9fff\u3000-\u303f\uff01-\uff5e]",
    "big5": "[\u4e00-\u9fff\u3000-\u303f\uff01-\uff5e]",
}
_CODECS = {"shift-jis": "cp932", "euc-kr": "cp949", "windows-1252": "cp1252", "koi8-r": "koi8_r"}
_KANA = re.compile("[\u3040-\u30ff]")
_SAMPLE = 1 << 18  # bytes that are looked at


def decode(data: bytes, fallback: str | None = None) -> tuple[str, str]:
    r"""The text of a file, its byte order mark dropped, and the encoding it was in.

    Args:
        data: the file.
        fallback: the code page to try before looking, where neighbours of the file have one.

    >>> decode("grün".encode("cp1252")), decode("\ufeffa cat".encode("utf-16-le"))
    (('grün', 'windows-1252'), ('a cat', 'UTF-16'))

    Raises:
        ValueError: it is no text.
    """
    name = detect(data)
    if name:
        codec = next((codec for mark, codec, _ in _MARKS if data.startswith(mark)), name)
        return data.decode(codec), name.removesuffix("-LE").removesuffix("-BE")
    for page in filter(None, (fallback, legacy([data]))):
        try:
            return data.decode(_CODECS.get(page, page)), page
        except UnicodeDecodeError:
            continue
    raise ValueError("not text")


def detect(data: bytes) -> str:
    """UTF-8, UTF-16 or UTF-32 where a text is in it; empty for a code page, which only `legacy` can tell.

    Raises:
        ValueError: it is no text.
    """
    for mark, codec, name in _MARKS:
        if data.startswith(mark):
            data.decode(codec)
            return name
    if b"\0" in data:  # no code page has it
        even, odd = data[::2].count(0), data[1::2].count(0)
        name = "UTF-16-LE" if odd > even else "UTF-16-BE"
        if len(data) % 2 or max(even, odd) < len(data) // 8:
            raise ValueError("not text")
        if "\0" in data.decode(name):
            raise ValueError("not text")
        return name
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return UTF8


def legacy(texts: Iterable[bytes]) -> str:
    """The code page that texts without a mark are most likely in; empty where none fits.

    Each page's reading is scored by how many of its characters beyond ASCII belong to the languages
    that use it, and how many stand where none of them would, such as a sign in a word. Short
    texts of one set are told together, since one word alone tells little.
    """
    data = b"\n".join(texts)[:_SAMPLE]
    if any(byte < 32 and byte not in (9, 10, 12, 13, 26) for byte in set(data)):
        return ""  # a binary file
    best, page = 0.35, ""
    for name, wanted in {**_DOUBLE, **_SINGLE}.items():
        score = _score(data, name, wanted)
        if score > best + 1e-9:
            best, page = score, name
    return page


def _score(data: bytes, page: str, wanted: str) -> float:
    """How well a code page reads these bytes, up to 1."""
    try:
        text = data.decode(_CODECS.get(page, page))
    except UnicodeDecodeError:
        return 0.0
    beyond = [char for char in text if ord(char) > 127]
    if not beyond:
        return 0.0
    if page in _DOUBLE:
        good = len(re.findall(wanted, text)) / len(beyond)
        kana = len(_KANA.findall(text)) / len(beyond)
        if page in ("shift-jis", "euc-jp"):  # Japanese is never without kana
            good *= 1.0 if kana > 0.1 else 0.5
        else:
            good *= 1.0 - kana
        if page in ("gb18030", "big5", "euc-kr"):  # the common ones lie in the first half
            good *= 0.5 + 0.5 * _common(data, page)
        if re.search("[A-Za-z][\u3040-\ud7a3]+[a-z]", text):
            good *= 0.3  # a letter of Latin amid letters of Latin was meant
        return good
    good = sum(char in wanted for char in beyond) / len(beyond)
    odd = len(re.findall(r"[a-zà-ÿа-я][^\W\d_a-zà-öø-ÿа-яα-ώ](?=[a-zа-я])", text))
    odd += len(re.findall(r"(?<=\w)[^\w\s'’\-–.,;:!?()/&+*\"“”„](?=[a-z])", text))
    odd += sum(0x80 <= ord(char) < 0xA0 for char in beyond)
    if page in ("windows-1251", "koi8-r", "windows-1253"):
        # a word is all of these letters; one of them alone in a Latin word was another page's
        odd += 2 * len(re.findall("[A-Za-z][\u0370-\u04ff]|[\u0370-\u04ff][A-Za-z]", text))
        upper = sum(char.isupper() for char in beyond)
        good *= 1.0 if 2 * upper < len(beyond) else 0.4
    else:  # languages of Latin letters have few beyond ASCII, and hardly ever four in a row
        odd += sum(len(run) for run in re.findall(r"[^\W\d_a-zA-Z]{4,}", text))
    # between equals the most usual page wins
    rank = 0.999 if page == "windows-1252" else 0.99 if page.startswith("w") else 0.97
    return good * rank - odd / len(beyond)


def _common(data: bytes, page: str) -> float:
    """The share of two-byte characters that lie in the rows of the common ones."""
    low, high = {"gb18030": (0xB0, 0xD7), "big5": (0xA4, 0xC6), "euc-kr": (0xB0, 0xC8)}[page]
    leads: list[int] = []
    position = 0
    while position < len(data):
        if data[position] > 0x80:
            leads.append(data[position])
            position += 2
        else:
            position += 1
    return sum(low <= lead <= high for lead in leads) / max(1, len(leads))
