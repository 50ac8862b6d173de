"""Bytes of a picture file <-> pixels, uint8 (h, w, 3 or 4), straight alpha. The only file that imports PIL.

What enters may come from a stranger: the format is one of a short list, the size is read from the
header before anything is decoded, and whatever a decoder raises leaves here as one `DataError` that
names the file.
"""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageFont, PngImagePlugin

from t2i_cli.errors import DataError, visible

__all__ = [
    "FORMATS",
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "ImageText",
    "Picture",
    "decode",
    "encode",
    "encode_animation",
    "fit",
    "flatten",
    "from_pil",
    "grid",
    "quiet",
    "read_picture",
    "read_text",
    "to_pil",
]

MAX_PIXELS = 50_000_000  # width times height; a larger picture is refused before it is decoded
MAX_FILE_BYTES = 256 * 2**20  # a larger file is refused before it is read
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "AVIF")  # Pillow's names
# lower case
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".avif"})

_MAX_COLOURS_OF_PIXEL_ART = 64
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_USER_COMMENT = 0x9286
_JPEG_ROOM = 65_000  # bytes of EXIF that a JPEG is given; a segment holds 65,533
_IMAGE_DESCRIPTION = 0x010E


@dataclass(frozen=True)
class Picture:
    """A picture made square, and what it was before."""

    pixels: np.ndarray  # uint8 (r, r, 4), straight alpha
    has_alpha: bool  # whether any pixel of the file was not opaque
    width: int  # px, of the file, upright
    height: int  # px


@dataclass(frozen=True)
class ImageText:
    """What a picture file says about itself."""

    format: str  # png, webp, jpg, ...
    width: int  # px
    height: int  # px
    text: dict[str, str] = field(default_factory=dict[str, str])  # e.g. parameters, t2i
    xmp: str = ""


def decode(data: bytes, *, name: str, at_least: int = 0) -> np.ndarray:
    """The pixels of a picture file, upright, in 8 bits.

    Args:
        data: PNG, JPEG, WebP, BMP, GIF (first frame) or AVIF where Pillow has it.
        name: what an error calls the file.
        at_least: px; where positive, a JPEG may be decoded at 1/2, 1/4 or 1/8 size, its short side
            not under this.

    Returns:
        uint8 (h, w, 4) where the picture has transparency, else (h, w, 3).

    Raises:
        DataError: not such a file, larger than `MAX_PIXELS`, cut off or broken.
    """
    with _reading(name):
        image, _, _ = _open(data, name, at_least)
        return np.array(image)


def read_picture(data: bytes, *, name: str, resolution: int) -> Picture:
    """Decode and `fit` in one go: what goes into the training cache.

    Raises:
        DataError: as `decode`.
    """
    with _reading(name):
        image, width, height = _open(data, name, resolution)
        has_alpha = image.mode == "RGBA" and np.asarray(image.getchannel("A")).min() < 255
        return Picture(_fit(image, resolution), bool(has_alpha), width, height)


def fit(pixels: np.ndarray, resolution: int) -> np.ndarray:
    """Pixels, uint8 (h, w, 3 or 4) -> uint8 (resolution, resolution, 4), the whole picture centred on transparency.

    The aspect ratio is kept and the rest is padded, not cropped: a caption speaks of the whole
    picture, and a crop may cut away the very thing it names. The padding is transparent, so it is
    plain background where alpha is kept and white where the set is flattened. Colours are weighted
    by alpha while resampling (no dark or coloured fringe), reduction is antialiased (Lanczos),
    enlargement is bicubic; but a small picture of few colours that fits a whole number of times is
    pixel art and is enlarged by repeating its pixels.
    """
    return _fit(to_pil(pixels), resolution)


def flatten(pixels: np.ndarray, background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """Pixels, uint8 (..., 4), over a plain background -> uint8 (..., 3). Pixels without alpha come back as they are.

    >>> flatten(np.array([[255, 0, 0, 0], [10, 20, 30, 255]], np.uint8)).tolist()
    [[255, 255, 255], [10, 20, 30]]
    """
    if pixels.shape[-1] == 3:
        return pixels
    alpha = pixels[..., 3:].astype(np.uint32)
    under = np.array(background, np.uint32)
    mixed = pixels[..., :3].astype(np.uint32) * alpha + under * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def to_pil(pixels: np.ndarray) -> Image.Image:
    """Pixels, uint8 (h, w, 3 or 4) -> a PIL image, RGB or RGBA."""
    assert pixels.dtype == np.uint8, pixels.dtype
    assert pixels.ndim == 3, pixels.shape
    assert pixels.shape[2] in (3, 4), pixels.shape
    return Image.fromarray(np.ascontiguousarray(pixels))


def from_pil(image: Image.Image) -> np.ndarray:
    """A PIL image of any mode -> pixels, uint8 (h, w, 4) where it has transparency, else (h, w, 3)."""
    return np.array(_eight_bit(image))


def encode(
    pixels: np.ndarray,
    format: Literal["png", "webp", "jpg"] = "png",  # the word of the command line's --format
    *,
    text: Mapping[str, str] | None = None,
    xmp: str = "",
    quality: int = 92,
    background: tuple[int, int, int] = (255, 255, 255),
) -> bytes:
    """Pixels, uint8 (h, w, 3 or 4) -> the bytes of a picture file; the same pixels and text give the same bytes.

    Args:
        pixels: straight alpha.
        format: png and webp keep every pixel; jpg is flattened on the background.
        text: keyword -> text. In PNG each is a text chunk (tEXt where Latin-1 holds it, else iTXt);
            in WebP and JPEG ``parameters`` is EXIF's UserComment and ``t2i`` its ImageDescription,
            and other keywords are dropped; a JPEG leaves out what passes its 64 KB.
        xmp: an XMP packet.
        quality: of jpg, 1 to 100.
        background: what jpg is flattened on.
    """
    text = text or {}
    out = io.BytesIO()
    if format == "png":
        info = PngImagePlugin.PngInfo()
        for keyword, value in text.items():
            try:
                value.encode("latin-1")
            except UnicodeEncodeError:
                info.add_itxt(keyword, _encodable(value))
            else:
                info.add_text(keyword, value)
        if xmp:
            info.add_itxt("XML:com.adobe.xmp", _encodable(xmp))
        to_pil(pixels).save(out, "PNG", pnginfo=info, compress_level=6)
        return out.getvalue()
    extra: dict[str, bytes] = {}
    exif = _exif(text)
    if format == "jpg" and len(exif) > _JPEG_ROOM:  # the recipe first, then nothing
        exif = _exif({key: value for key, value in text.items() if key == "t2i"})
    if exif and (format != "jpg" or len(exif) <= _JPEG_ROOM):
        extra["exif"] = exif
    if xmp:
        extra["xmp"] = _encodable(xmp).encode()
    if format == "webp":
        to_pil(pixels).save(out, "WEBP", lossless=True, quality=80, method=4, exact=False, **extra)
    elif format == "jpg":
        to_pil(flatten(pixels, background)).save(
            out, "JPEG", quality=quality, subsampling=0, **extra
        )
    else:
        raise ValueError(f"format {format!r}: expected png, webp or jpg")
    return out.getvalue()


def encode_animation(
    frames: Sequence[np.ndarray],
    format: Literal["gif", "webp"],
    *,
    milliseconds: int = 60,
    text: Mapping[str, str] | None = None,
    xmp: str = "",
) -> bytes:
    """Frames, uint8 (h, w, 3 or 4) each, all of one shape -> the bytes of an animation that repeats for ever.

    Args:
        frames: straight alpha. A GIF has no half transparency: a pixel under half opacity is clear.
        format: gif (256 colours) or webp (lossless).
        milliseconds: of each frame.
        text: as for `encode`; in a GIF its comment is ``t2i``, and other keywords are dropped.
        xmp: an XMP packet; webp only.
    """
    first, *rest = [to_pil(_half_clear(frame) if format == "gif" else frame) for frame in frames]
    out = io.BytesIO()
    if format == "webp":
        extra: dict[str, Any] = {"xmp": _encodable(xmp).encode()} if xmp else {}
        if exif := _exif(text or {}):
            extra["exif"] = exif
        first.save(
            out,
            "WEBP",
            save_all=True,
            append_images=rest,
            duration=milliseconds,
            loop=0,
            lossless=True,
            **extra,
        )
    else:
        comment = _encodable((text or {}).get("t2i", "")).encode()
        first.save(
            out, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0, disposal=2,
            **({"comment": comment} if comment else {}),
        )  # fmt: skip
    return out.getvalue()


def _half_clear(pixels: np.ndarray) -> np.ndarray:
    """Alpha of 0 or 255 only, clear pixels all the same."""
    if pixels.shape[-1] == 3:
        return pixels
    solid = pixels[..., 3:] >= 128
    return np.where(
        solid, np.concatenate([pixels[..., :3], np.full_like(pixels[..., 3:], 255)], -1), 0
    ).astype(np.uint8)


def read_text(data: bytes, *, name: str) -> ImageText:
    """What a picture file says about itself, whether made by `encode` or by another tool. Decodes no pixel.

    Raises:
        DataError: as `decode`.
    """
    with _reading(name):
        image = _header(data, name)
        text: dict[str, str] = {}
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
        if isinstance(image, PngImagePlugin.PngImageFile):
            text = {
                str(key): str(value)
                for key, value in image.text.items()
                if key != "XML:com.adobe.xmp"
            }
        elif image.format == "GIF" and bytes(image.info.get("comment", b"")).startswith(b"{"):
            text["t2i"] = image.info["comment"].decode("utf-8", "replace")
        elif image.info.get("exif"):
            exif = image.getexif()
            if described := exif.get(_IMAGE_DESCRIPTION):
                text["t2i"] = str(described)
            comment = exif.get_ifd(ExifTags.IFD.Exif).get(_USER_COMMENT, b"")
            if isinstance(comment, bytes) and comment:
                coding = "utf-16-be" if comment.startswith(b"UNICODE") else "utf-8"
                text["parameters"] = comment[8:].decode(coding, "replace").strip("\0")
        kind = {"JPEG": "jpg", "MPO": "jpg"}.get(str(image.format), str(image.format).lower())
        return ImageText(
            kind,
            image.width,
            image.height,
            text,
            xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else str(xmp),
        )


def grid(pixels: np.ndarray, captions: Sequence[str] | None = None, columns: int = 8) -> np.ndarray:
    """A contact sheet on white, with up to two lines of caption under each picture -> uint8 (H, W, 3).

    Pictures are uint8 (n, h, w, 3 or 4).

    Small pictures are enlarged by a whole number to at least 96 px. Captions are drawn with
    Pillow's own font; control characters are made visible.
    """
    count, height, width = pixels.shape[:3]
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    factor = max(1, -(-96 // max(height, width)))
    cell_w, cell_h, gap = width * factor, height * factor, 8
    font = ImageFont.load_default(11)
    line = 14  # px
    label = 2 * line + 4 if captions is not None else 0
    sheet = Image.new(
        "RGB", (gap + columns * (cell_w + gap), gap + rows * (cell_h + label + gap)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for index in range(count):
        left = gap + index % columns * (cell_w + gap)
        top = gap + index // columns * (cell_h + label + gap)
        picture = np.repeat(np.repeat(flatten(pixels[index]), factor, 0), factor, 1)
        sheet.paste(to_pil(picture), (left, top))
        if captions is not None and index < len(captions):
            for number, words in enumerate(_lines(visible(captions[index], 200), cell_w, font)):
                draw.text(
                    (left, top + cell_h + 2 + number * line), words, fill=(40, 40, 40), font=font
                )
    return np.array(sheet)


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters: warnings.catch_warnings[None] | None = None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it, decoders warn of nothing: what is wrong with a file is either mended or raised.

    Counted, so that threads may enter and leave in any order; wrap a pool of them in one to save
    the switching.
    """
    global _quiet_depth, _quiet_filters
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.simplefilter("ignore")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0 and _quiet_filters is not None:
                _quiet_filters.__exit__(None, None, None)
                _quiet_filters = None


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Every way in which a decoder can fail -> one DataError that names the file."""
    try:
        with quiet():
            yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{name}: needs more memory than there is") from error
    # ValueError, SyntaxError, struct.error, EOFError, DecompressionBombError, ... all escape
    # OSError
    except Exception as error:
        raise DataError(f"{name}: {_plain_reason(error)}") from error


def _plain_reason(error: Exception) -> str:
    said = str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"more than the {MAX_PIXELS // 10**6} megapixels that are read"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a PNG, JPEG, WebP, BMP, GIF or AVIF picture"
    if "truncated" in said.lower() or isinstance(error, EOFError):
        return "truncated"
    return f"broken ({said or type(error).__name__})"


def _header(data: bytes, name: str) -> Image.Image:
    """The picture opened, its size checked, nothing decoded."""
    if len(data) > MAX_FILE_BYTES:
        raise DataError(
            f"{name}: {len(data) >> 20} MB is more than the {MAX_FILE_BYTES >> 20} MB that are read"
        )
    if not data:
        raise DataError(f"{name}: an empty file")
    # Pillow makes room for a WebP's whole canvas when it opens it
    _check_size(*_webp_size(data), name)
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_size(image.width, image.height, name)
    return image


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{name}: {width} x {height} px is more than the {MAX_PIXELS // 10**6} megapixels that are read"
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height as a WebP file's header says them; (0, 0) for any other file."""
    head = data[:30]
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return 0, 0
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        (bits,) = struct.unpack("<I", head[21:25])
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _open(data: bytes, name: str, at_least: int) -> tuple[Image.Image, int, int]:
    """The picture upright in mode RGB or RGBA, and the file's width and height (px, upright)."""
    image = _header(data, name)
    width, height = image.size
    if at_least and image.format == "JPEG":
        # draft() takes the largest of 1, 1/2, 1/4, 1/8 that stays at or above what is asked for;
        # twice that keeps Lanczos honest
        scale = 2 * at_least / min(width, height)
        if scale < 1:
            image.draft(None, (max(1, int(width * scale)), max(1, int(height * scale))))
    image.load()
    orientation = _orientation(image)
    image = _eight_bit(image)
    if orientation in _TRANSPOSE:
        image = image.transpose(_TRANSPOSE[orientation])
        if orientation >= 5:
            width, height = height, width
    return image, width, height


def _orientation(image: Image.Image) -> int:
    if not image.info.get("exif"):
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1
    return value if isinstance(value, int) else 1


def _eight_bit(image: Image.Image) -> Image.Image:
    """Any mode -> RGB, or RGBA where the picture has transparency."""
    mode = image.mode
    if mode in ("RGB", "RGBA") and "transparency" not in image.info:
        return image
    if mode.startswith("I") or mode == "F":  # 16 bits a grey pixel
        grey = np.asarray(image).astype(np.float64)
        image = Image.fromarray(
            np.clip(grey / (257 if mode != "F" else 1), 0, 255).round().astype(np.uint8)
        )
        return image.convert("RGB")
    has_alpha = "transparency" in image.info or mode in ("RGBA", "LA", "PA", "La", "RGBa")
    return image.convert("RGBA" if has_alpha else "RGB")


def _fit(image: Image.Image, resolution: int) -> np.ndarray:
    width, height = image.size
    longest = max(width, height)
    if longest != resolution:
        size = (
            max(1, round(width * resolution / longest)),
            max(1, round(height * resolution / longest)),
        )
        if longest > resolution:
            # Pillow weights RGBA by alpha
            image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        elif resolution % longest == 0 and image.getcolors(_MAX_COLOURS_OF_PIXEL_ART) is not None:
            image = image.resize(size, Image.Resampling.NEAREST)
        else:
            image = image.resize(size, Image.Resampling.BICUBIC)
    out = np.zeros((resolution, resolution, 4), np.uint8)
    left, top = (resolution - image.width) // 2, (resolution - image.height) // 2
    body = out[top : top + image.height, left : left + image.width]
    if image.mode == "RGBA":
        body[...] = np.asarray(image)
        body[body[..., 3] == 0] = 0  # what nobody can see is always the same
    else:
        body[..., :3] = np.asarray(image)
        body[..., 3] = 255
    return out


def _encodable(text: str) -> str:
    """Lone surrogates cannot be written as UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _exif(text: Mapping[str, str]) -> bytes:
    if not text.keys() & {"parameters", "t2i"}:
        return b""
    exif = Image.Exif()
    if "t2i" in text:
        exif[_IMAGE_DESCRIPTION] = _encodable(text["t2i"])
    if "parameters" in text:
        comment = b"UNICODE\0" + _encodable(text["parameters"]).encode("utf-16-be")
        exif.get_ifd(ExifTags.IFD.Exif)[_USER_COMMENT] = comment
    return exif.tobytes()


def _lines(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """At most two lines of text, each no wider than ``width`` px; what is cut ends in three dots."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < 2:
        line = words.pop(0)
        while words and font.getlength(f"{line} {words[0]}") <= width:
            line += " " + words.pop(0)
        if font.getlength(line) > width or (len(lines) == 1 and words):
            while line and font.getlength(line + "...") > width:
                line = line[:-1]
            line += "..."
        lines.append(line)
    return lines
