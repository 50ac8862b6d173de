"""Bytes of a picture file <-> pixels, uint8 (h, w, 3 or 4), straight alpha. The only file that imports PIL.

What enters may come from a stranger: the format is one of a short list, the size is read from the
header before anything is decoded, and whatever a decoder raises leaves here as one `DataError` that
names the file.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageDraw, ImageFont, PngImagePlugin

from t2i_cli.errors import DataError, visible
from t2i_cli.headers import cleaned_png, extra_format, jxl_size, webp_size

__all__ = [
    "EXTRA_SUFFIXES",
    "FORMATS",
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "Fit",
    "ImageText",
    "Picture",
    "decode",
    "encode",
    "encode_animation",
    "fit",
    "fitted",
    "flatten",
    "grid",
    "quiet",
    "read_picture",
    "read_text",
    "to_pil",
]

Fit = Literal["crop", "pad", "stretch"]  # how a picture that is not square is made so

MAX_PIXELS = 50_000_000  # width times height; a larger picture is refused before it is decoded
MAX_FILE_BYTES = 256 * 2**20  # a larger file is refused before it is read
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")  # Pillow's names
# lower case
SUFFIXES = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        ".avif",
    )
)
EXTRA_SUFFIXES = frozenset({".heic", ".heif", ".hif", ".jxl"})  # read with a package more
# format -> the extra that reads it, the package's module, and Pillow's name for it
_EXTRAS = {"HEIC": ("heif", "pillow_heif", "HEIF"), "JPEG XL": ("jxl", "pillow_jxl", "JXL")}

_CONTENT = 96  # px of the long side at which a picture is looked at to centre a crop
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

    pixels: np.ndarray  # uint8 (r, r, 4), straight alpha; 255 everywhere where the file is opaque
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
        data: PNG, JPEG, WebP, BMP, GIF (first frame), TIFF (first page), AVIF where Pillow has it, and
            HEIC or JPEG XL where the package for it is installed. Colours are converted to sRGB.
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


def read_picture(data: bytes, *, name: str, resolution: int, how: Fit | None = None) -> Picture:
    """Decode and `fit` in one go: what goes into the training cache.

    Raises:
        DataError: as `decode`.
    """
    with _reading(name):
        image, width, height = _open(data, name, resolution)
        clear = not _is_opaque(image)
        return Picture(_fit(image, resolution, how), clear, width, height)


def fit(pixels: np.ndarray, resolution: int, how: Fit | None = None) -> np.ndarray:
    """Pixels, uint8 (h, w, 3 or 4) -> uint8 (resolution, resolution, 4); an opaque picture stays opaque.

    Colours are weighted by alpha while resampling (no dark or coloured fringe), reduction is
    antialiased (Lanczos), enlargement is bicubic; but a small picture of few colours that fits a
    whole number of times is pixel art and is enlarged by repeating its pixels.

    Args:
        pixels: straight alpha.
        resolution: px, the side.
        how: for a picture that is not square. ``crop`` cuts the long side, centred on what the
            picture shows; ``pad`` adds to the short one, transparent, or white where the picture is
            opaque; ``stretch`` changes the shape. None crops opaque pictures and pads others.
    """
    return _fit(to_pil(pixels), resolution, how)


def fitted(width: int, height: int, opaque: bool, how: Fit | None) -> Fit | None:
    """What `fit` does to a picture of this size (px); None where it is square already."""
    if width == height:
        return None
    return how or ("crop" if opaque else "pad")


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
        return "not a PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF picture"
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
    # Pillow makes room for a WebP's whole canvas when it opens it; the JPEG XL plugin decodes
    _check_size(*webp_size(data), name)
    formats = FORMATS
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        _quiet_libtiff()
    if extra := extra_format(data):
        _check_size(*jxl_size(data), name)
        formats = (_with_extra(extra, name),)
    image = Image.open(io.BytesIO(data), formats=formats)
    _check_size(image.width, image.height, name)
    return image


@functools.cache
def _quiet_libtiff() -> None:
    """Keep libtiff from writing what is wrong with a picture to stderr by itself; the error comes without that too."""
    libraries = Path(PIL.__file__).parent.parent / "pillow.libs"
    for library in sorted(libraries.glob("libtiff*.so*")):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)


def _with_extra(extra: str, name: str) -> str:
    """Pillow's name for a format that another package reads, once that is imported.

    Raises:
        DataError: the package is not installed.
    """
    option, module, format = _EXTRAS[extra]
    try:
        imported = __import__(module)
    except ImportError:
        raise DataError(
            f"{name}: {extra} needs a package: pip install 't2i-cli[{option}]'"
        ) from None
    if option == "heif":
        imported.register_heif_opener()
    return format


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{name}: {width} x {height} px is more than the {MAX_PIXELS // 10**6} megapixels that are read"
        )


def _open(data: bytes, name: str, at_least: int) -> tuple[Image.Image, int, int]:
    """The picture upright in mode RGB or RGBA, and the file's width and height (px, upright)."""
    cleaned = cleaned_png(data)
    image = _header(cleaned.data, name)
    width, height = image.size
    if at_least and image.format == "JPEG":
        # draft() takes the largest of 1, 1/2, 1/4, 1/8 that stays at or above what is asked for;
        # twice that keeps Lanczos honest
        scale = 2 * at_least / min(width, height)
        if scale < 1:
            image.draft(None, (max(1, int(width * scale)), max(1, int(height * scale))))
    image.load()
    orientation = _orientation(image)
    image = _in_srgb(image, cleaned.profile or image.info.get("icc_profile") or b"")
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


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An image of any mode -> RGB or RGBA in sRGB. A profile that does not fit or cannot be read says nothing."""
    if not profile:
        return _eight_bit(image)
    mode = "CMYK" if image.mode == "CMYK" else "L" if image.mode in ("L", "LA") else "RGB"
    flat = image if image.mode == mode else None
    alpha = None
    if flat is None:
        whole = image if image.mode == "LA" else _eight_bit(image)
        alpha = whole.getchannel("A") if whole.mode in ("LA", "RGBA") else None
        flat = whole.convert(mode)
    try:
        transform = _transform(profile, mode)
        if transform is None:
            return _eight_bit(image)
        from PIL import ImageCms

        converted = ImageCms.applyTransform(flat, transform)
    except Exception:  # lcms raises whatever it likes
        return _eight_bit(image)
    if converted is None:
        return _eight_bit(image)
    if alpha is not None:
        converted = converted.convert("RGBA")
        converted.putalpha(alpha)
    elif "transparency" in image.info:
        converted = converted.convert("RGBA")
        converted.putalpha(_eight_bit(image).getchannel("A"))
    return converted


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> Any:
    """What converts a profile's colours to sRGB; None where they are, or where it is of another mode."""
    from PIL import ImageCms

    given: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = given.profile.xcolor_space.strip()
    told = (given.profile.profile_description or "").strip()
    if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space) != mode or told.startswith("sRGB"):
        return None
    # threads share it, so it must keep nothing of the last pixel
    flags = ImageCms.Flags.NOCACHE | ImageCms.Flags.BLACKPOINTCOMPENSATION
    return ImageCms.buildTransform(
        given,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags,
    )


def _eight_bit(image: Image.Image) -> Image.Image:
    """Any mode -> RGB, or RGBA where the picture has transparency."""
    mode = image.mode
    if mode in ("RGB", "RGBA") and "transparency" not in image.info:
        return image
    if mode.startswith("I") or mode == "F":  # 16 bits a grey pixel
        grey = np.asarray(image).astype(np.float64)
        if mode == "F" and grey.size and np.nanmax(grey) <= 1.0:  # as programs of science write it
            grey = np.nan_to_num(grey) * 255
        image = Image.fromarray(
            np.clip(grey / (257 if mode != "F" else 1), 0, 255).round().astype(np.uint8)
        )
        return image.convert("RGB")
    has_alpha = "transparency" in image.info or mode in ("RGBA", "LA", "PA", "La", "RGBa")
    return image.convert("RGBA" if has_alpha else "RGB")


def _is_opaque(image: Image.Image) -> bool:
    if image.mode != "RGBA":
        return True
    lowest, _ = image.getchannel("A").getextrema()
    return lowest == 255


def _fit(image: Image.Image, resolution: int, how: Fit | None) -> np.ndarray:
    width, height = image.size
    opaque = _is_opaque(image)
    how = fitted(width, height, opaque, how)
    if opaque and image.mode == "RGBA":
        image = image.convert("RGB")
    box = (0, 0, width, height)
    size = (resolution, resolution)
    if how == "crop":
        box = _crop(image)
    elif how == "pad":
        longest = max(width, height)
        size = (
            max(1, round(width * resolution / longest)),
            max(1, round(height * resolution / longest)),
        )
    image = _resized(image, size, box)
    out = np.zeros((resolution, resolution, 4), np.uint8)
    if opaque:
        out[...] = 255
    left, top = (resolution - image.width) // 2, (resolution - image.height) // 2
    body = out[top : top + image.height, left : left + image.width]
    if image.mode == "RGBA":
        body[...] = np.asarray(image)
        body[body[..., 3] == 0] = 0  # what nobody can see is always the same
    else:
        body[..., :3] = np.asarray(image)
        body[..., 3] = 255
    return out


def _resized(
    image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]
) -> Image.Image:
    width, height = box[2] - box[0], box[3] - box[1]
    if size == (width, height):
        return image if image.size == size else image.crop(box)
    if max(width, height) > max(size) or min(width, height) > min(size):
        # Pillow weights RGBA by alpha
        return image.resize(size, Image.Resampling.LANCZOS, box, reducing_gap=3.0)
    whole = size[0] % width == 0 and size[1] % height == 0
    if whole and image.getcolors(_MAX_COLOURS_OF_PIXEL_ART) is not None:
        return image.resize(size, Image.Resampling.NEAREST, box)
    return image.resize(size, Image.Resampling.BICUBIC, box)


def _crop(image: Image.Image) -> tuple[int, int, int, int]:
    """The largest square of an image, centred on what it shows: on what is not clear, else on its edges."""
    width, height = image.size
    side = min(width, height)
    factor = max(1, max(width, height) // _CONTENT)
    small = np.asarray(image.convert("RGBA").reduce(factor)).astype(np.float32)
    weight = small[..., 3]
    if weight.min() == 255:
        grey = small[..., :3].mean(-1)
        weight = np.zeros_like(grey)
        weight[:, 1:] += abs(np.diff(grey, axis=1))
        weight[1:] += abs(np.diff(grey, axis=0))
    along = weight.sum(0 if width > height else 1)
    total = float(along.sum())
    middle = max(width, height) / 2
    if total > 0:
        middle = float((along * (np.arange(len(along)) + 0.5)).sum()) / total
        middle *= max(width, height) / len(along)
    start = round(min(max(middle - side / 2, 0), max(width, height) - side))
    return (start, 0, start + side, side) if width > height else (0, start, side, start + side)


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
