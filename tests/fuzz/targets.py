"""A function for each parser of strangers' bytes: any bytes in, nothing out; it raises where a promise is broken."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from t2i_cli import headers, images, metadata, prompts
from t2i_cli.checkpoint import load_model, read_info
from t2i_cli.checkpoint.safetensors_file import HEADER_HASH, data_digest, header_bytes
from t2i_cli.data import encodings, scan, zips
from t2i_cli.data.tar import Ending, Member, members
from t2i_cli.errors import InputError, visible
from t2i_cli.tokenizer import Tokenizer

__all__ = ["TARGETS", "seeds"]


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """A refusal is one line without a control character, exit code 3; whatever else comes out is a failure."""
    try:
        yield
    except InputError as error:
        assert error.exit_code == 3, error
        for said in (str(error), error.hint):
            assert visible(said, 10**6) == said, repr(said)


@cache
def place() -> Path:
    """A folder of this process, in memory where there is such a place."""
    where = "/dev/shm" if Path("/dev/shm").is_dir() else None
    return Path(tempfile.mkdtemp(prefix=f"t2i-fuzz-{os.getpid()}-", dir=where))


def weights(data: bytes) -> None:
    """A weights file's header, as it is and then with its digests made to hold; the tensors behind it are sound."""
    whole, start = sound_weights()
    path = place() / "fuzzed.safetensors"
    for content in (data, signed(data) + whole[start:]):
        path.write_bytes(content)
        with refused():
            read_info(path)
            load_model(path)


def references(data: bytes) -> None:
    """The bytes of a weights file's references, in a file whose digests hold: refused, or searched and read."""
    whole, start = sound_weights()
    info = read_info(place() / "sound.safetensors")
    body = bytearray(whole[start:])
    names = [name for name in info.tensors if name.startswith("references.")]
    for name in sorted(names):
        at = info.tensors[name]
        part, data = data[: at.end - at.start], data[at.end - at.start :]
        body[at.start : at.start + len(part)] = part
    path = place() / "references.safetensors"
    kinds = {name: (at.dtype, at.shape) for name, at in info.tensors.items()}
    path.write_bytes(header_bytes(kinds, info.metadata, data_digest([bytes(body)]))[0] + body)
    with refused():
        store = load_model(path).references
        query = np.ones(info.config.text.dim, np.float32)
        rows = store.choose(query, np.array([0]), 7)
        assert np.isfinite(store.read(rows)).all()
        assert store.attributes[rows].max() <= 2


def tokenizer(data: bytes) -> None:
    """A tokenizer file, then a few texts through it."""
    with refused():
        made = Tokenizer(data)
        for text in ("a red cat", "", "\0\u202e\U0001f600 ﬁ Ⅷ"):
            made.encode(text), made.pieces(text), made.unknown(text)


def rows(data: bytes) -> None:
    """metadata.jsonl and metadata.csv beside two pictures, and a caption file."""
    folder = place() / "rows"
    folder.mkdir(exist_ok=True)
    for name in ("metadata.jsonl", "metadata.csv", "a.txt"):
        for other in ("metadata.jsonl", "metadata.csv", "a.txt"):
            (folder / other).unlink(missing_ok=True)
        (folder / name).write_bytes(data)
        for picture in ("a.png", "b.png"):
            if not (folder / picture).exists():
                (folder / picture).write_bytes(images.encode(np.zeros((3, 3, 4), np.uint8)))
        with refused():
            json.dumps(scan(folder).to_dict()).encode("ascii")


def tar(data: bytes) -> None:
    """A tar stream: every member lies inside it, the walk ends, and how it ended is the last thing told."""
    for length in (len(data), -1):
        found = list(members(io.BytesIO(data), 1 << 20, length))
        assert isinstance(found[-1], Ending)
        assert not any(isinstance(one, Ending) for one in found[:-1])
        for one in found:
            if isinstance(one, Member):
                assert one.offset + one.size <= len(data), one


def zipped(data: bytes) -> None:
    """A zip: its members are told, and no more bytes of one come out than its directory says."""
    path = place() / "x.zip"
    path.write_bytes(data)
    found = list(zips.members(path, 1 << 20))
    assert isinstance(found[-1], Ending)
    with path.open("rb") as file:
        for one in found:
            if isinstance(one, Member):
                with contextlib.suppress(ValueError):
                    content = zips.read(file, one.offset, one.size, one.packed)
                    assert len(content) == one.size <= 1 << 20
    with refused():
        json.dumps(scan(path).to_dict()).encode("ascii")


def texts(data: bytes) -> None:
    """A caption file in any encoding: a text that can be written again, or a ValueError."""
    with contextlib.suppress(ValueError):
        text, encoding = encodings.decode(data)
        text.encode()
        assert encoding


def prompt_file(data: bytes) -> None:
    """A file of prompts in any form."""
    for name in ("list.txt", "list.csv"):
        path = place() / name
        path.write_bytes(data)
        with refused():
            assert prompts.read_prompts(str(path))


def lines(data: bytes) -> None:
    """A stream of prompts, as lines and as JSON."""
    for request in prompts.requests(iter(data.split(b"\n"))):
        if isinstance(request, prompts.BadLine):
            assert visible(request.error, 10**6) == str(request.error)
        elif request is not None:
            assert request.prompt.strip()
            request.prompt.encode()


def picture(data: bytes) -> None:
    """A picture file: its pixels, and what it says about itself."""
    with refused():
        found = images.read_picture(data, name="x.png", resolution=32)
        assert found.pixels.shape[:2] == (32, 32)
    with refused():
        images.read_text(data, name="x.png")
    assert min(headers.jxl_size(data)) >= 0
    headers.cleaned_png(data)


def recipe(data: bytes) -> None:
    """The metadata of a picture that `t2i sample --from` replays."""
    text = data.decode("utf-8", "surrogateescape")
    with refused():
        metadata.from_text({"t2i": text}, "x.png")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "weights": weights,
    "references": references,
    "tokenizer": tokenizer,
    "metadata": rows,
    "tar": tar,
    "zip": zipped,
    "texts": texts,
    "prompts": lines,
    "prompt file": prompt_file,
    "picture": picture,
    "recipe": recipe,
}


# -- sound inputs, to begin from ------------------------------------------------------------------


@cache
def sound_weights() -> tuple[bytes, int]:
    """A weights file and where its tensors begin."""
    import faults

    path = place() / "sound.safetensors"
    faults.save_tiny(path, title="seed")
    return path.read_bytes(), read_info(path).header.data_start


def signed(header: bytes) -> bytes:
    """A file's start whose own digest holds, where the header has room for one."""
    import faults

    text = header[8:] if len(header) > 8 else header
    with contextlib.suppress(ValueError, RecursionError, TypeError, AttributeError, KeyError):
        table = json.loads(text)
        table["__metadata__"][HEADER_HASH] = "0" * 64
        text = json.dumps(table, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
    return faults.sealed(text)


@cache
def seeds(target: str) -> list[bytes]:
    """Sound inputs of a target."""
    if target == "weights":
        whole, start = sound_weights()
        return [whole, whole[:start]]
    if target == "references":
        import faults

        arrays = faults.tiny_store().arrays()
        return [b"".join(arrays[name].tobytes() for name in sorted(arrays))]
    if target == "tokenizer":
        import faults

        return [faults.TOKENIZER]
    if target == "tar":
        made: list[bytes] = []
        for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w", format=kind) as file:
                for name in ("a.png", "a.txt", ("d" * 60 + "/") * 2 + "n.json", "é.png"):
                    info = tarfile.TarInfo(name)
                    info.size = 700
                    file.addfile(info, io.BytesIO(bytes(700)))
                info = tarfile.TarInfo("link")
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                file.addfile(info)
            made.append(out.getvalue())
        return made
    if target == "zip":
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            for name, kind in (("a.png", 0), ("a.txt", 8), ("d/n.json", 8), ("é.png", 0)):
                file.writestr(name, bytes(300) + b"cat", kind)
        return [out.getvalue()]
    if target == "picture":
        return list(sound_pictures().values())
    return {
        "metadata": [
            b'{"file_name": "a.png", "text": "a cat"}\n{"file_name": "b.png", "captions": ["x", "y"]}\n',
            b"file_name,text\na.png,a cat\nb.png,\"x, y\"\n",
            "\ufeffa cat\r\nein Hund\n".encode(),
        ],
        "texts": [b"a cat", "ein grüner Hund".encode("cp1252"), "a cat".encode("utf-16")],
        "prompt file": [
            b'[{"prompt": "a cat", "seed": "7"}, "a dog"]',
            b'prompt,seed\na cat,7\n"a, dog",\n',
            "# note\na cat\n".encode("utf-16"),
        ],
        "prompts": [b'{"prompt": "a cat", "seed": 7, "n": 2, "out": "x.png", "id": 3}\na dog\n\n'],
        "recipe": [metadata.to_text(one, 64, 64)["t2i"].encode() for one in sound_recipes()],
    }[target]  # fmt: skip


def sound_recipes() -> list[metadata.Recipe]:
    """A picture's recipe, one with all that came of references and attributes, and a sheet's."""
    return [
        metadata.Recipe("a cat", 3, best_of=2, picked=4),
        metadata.Recipe(
            "a cat", 3, steps=8, attributes="style=bold", references=3, read=(1, 2, 3), like=("ab" * 32,)
        ),
        metadata.Recipe("a cat", 3, kind="grid", sheet=(("a cat", 3, 2, "", 1.5, "style=bold"),)),
    ]  # fmt: skip


@cache
def sound_pictures() -> dict[str, bytes]:
    """A small picture in each format that is read, some in several kinds."""
    from PIL import Image

    chance = np.random.RandomState(0)
    pixels = chance.randint(0, 255, (24, 31, 4)).astype(np.uint8)
    pixels[8:16] = 90
    rgba = Image.fromarray(pixels)
    made: dict[str, bytes] = {}
    for name, mode, format, more in (
        ("png", "RGBA", "PNG", {}),
        ("grey.png", "L", "PNG", {}),
        ("palette.png", "P", "PNG", {"transparency": 3}),
        ("16.png", "I;16", "PNG", {}),
        ("webp", "RGBA", "WEBP", {"quality": 60}),
        ("lossless.webp", "RGBA", "WEBP", {"lossless": True}),
        ("jpg", "RGB", "JPEG", {"exif": exif()}),
        ("progressive.jpg", "RGB", "JPEG", {"progressive": True}),
        ("cmyk.jpg", "CMYK", "JPEG", {}),
        ("gif", "P", "GIF", {"transparency": 0}),
        ("bmp", "RGB", "BMP", {}),
        ("tif", "RGBA", "TIFF", {"compression": "tiff_lzw"}),
        ("profile.png", "RGB", "PNG", {"icc_profile": bytes(200)}),
        ("palette.bmp", "P", "BMP", {}),
    ):
        out = io.BytesIO()
        image = (
            rgba.convert("L") if mode == "I;16" else rgba if mode != "CMYK" else rgba.convert("RGB")
        )
        image.convert(mode).save(out, format, **more)
        made[name] = out.getvalue()
    made["text.png"] = images.encode(pixels, text={"parameters": "a cat", "t2i": "{}"}, xmp="<x/>")
    frames = [np.roll(pixels, k, 0) for k in range(3)]
    made["animation.gif"] = images.encode_animation(frames, "gif")
    made["animation.webp"] = images.encode_animation(frames, "webp")
    return made


def exif() -> bytes:
    from PIL import Image

    made = Image.Exif()
    made[0x0112] = 6  # turned
    return made.tobytes()
