"""Small data sets in the forms in which people have them: a table of cases, each with what it must give.

``python tests/folders.py OUT [NAME...]`` writes them to a folder; docs/data.md has a row for each.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

COLOURS = ("red", "green", "blue", "yellow", "white", "black", "pink", "brown")
THINGS = ("cat", "dog", "house", "tree", "car", "boat", "cup")


@dataclass
class Case:
    """One form, and what reading it must give."""

    build: Callable[[Path], Path]  # makes it in a folder that is not there yet; what to give to t2i
    form: str  # as docs/data.md says it
    tool: str  # that writes it
    pictures: int
    captions: int = 0  # in all; 0: one a picture
    left_out: dict[str, int] = field(default_factory=dict[str, int])  # kind of problem -> how many
    options: dict[str, Any] = field(default_factory=dict[str, Any])  # of ReadOptions
    first: tuple[str, ...] = ()  # captions of the first picture by name
    splits: dict[str, int] = field(default_factory=dict[str, int])


CASES: dict[str, Case] = {}


def case(
    form: str, tool: str, pictures: int, **more: Any
) -> Callable[[Callable[[Path], Path | None]], Callable[[Path], Path | None]]:
    """Put a builder into the table under its own name."""

    def register(build: Callable[[Path], Path | None]) -> Callable[[Path], Path | None]:
        def run(folder: Path) -> Path:
            folder.mkdir(parents=True)
            return build(folder) or folder

        CASES[build.__name__] = Case(run, form, tool, pictures, **more)
        return build

    return register


def caption(number: int) -> str:
    """The caption of a picture: no two of 56 are the same."""
    return f"a {COLOURS[number % 8]} {THINGS[number % 7]}"


def drawing(number: int, width: int = 72, height: int = 64) -> Image.Image:
    """A picture; no two are the same."""
    colour = ((37 * number) % 256, (91 * number + 40) % 256, (53 * number + 90) % 256)
    image = Image.new("RGB", (width, height), colour)
    left = 6 + (11 * number) % 30
    image.paste((250 - number % 100,) * 3, (left, 8, left + 24, 40))
    return image


def encoded(number: int, format: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture."""
    out = io.BytesIO()
    drawing(number).save(out, format, **options)
    return out.getvalue()


def png(number: int) -> bytes:
    """The bytes of a PNG."""
    return encoded(number)


def fill(
    folder: Path, count: int, *, captions: bool = True, start: int = 0, suffix: str = "png"
) -> list[str]:
    """Write pictures p0, p1, ... with a text each; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    format = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
    names = [f"p{number}.{suffix}" for number in range(start, start + count)]
    for number, name in enumerate(names, start):
        (folder / name).write_bytes(encoded(number, format))
        if captions:
            (folder / f"p{number}.txt").write_text(caption(number), encoding="utf-8")
    return names


def json_lines(rows: list[dict[str, Any]]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def rows_of(names: list[str], file: str, text: str, **more: Any) -> list[dict[str, Any]]:
    """A row a picture."""
    return [{file: name, text: caption(k), **more} for k, name in enumerate(names)]


def table(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    """Rows as CSV, as Python writes it."""
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


# --- a table


@case(
    "`metadata.jsonl` with `file_name`, `text`", "Hugging Face ImageFolder", 6, first=("a red cat",)
)
def imagefolder_jsonl(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text(
        json_lines(rows_of(fill(folder, 6, captions=False), "file_name", "text"))
    )


@case("`metadata.csv` with `file_name` and more columns", "Hugging Face ImageFolder", 6)
def imagefolder_csv(folder: Path) -> None:
    rows = rows_of(fill(folder, 6, captions=False), "file_name", "text", style="flat")
    (folder / "metadata.csv").write_text(table(rows))


@case("`metadata.parquet` beside the pictures", "pandas, polars", 5)
def metadata_parquet(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    names = fill(folder, 5, captions=False)
    columns = {"file_name": names, "caption": [caption(k) for k in range(5)]}
    parquet.write_table(pyarrow.table(columns), folder / "metadata.parquet")


@case("`metadata.json`, one array", "scripts", 4)
def json_array(folder: Path) -> None:
    rows = rows_of(fill(folder, 4, captions=False), "file_name", "text")
    (folder / "metadata.json").write_text(json.dumps(rows))


@case("JSON of file names with captions", "scripts, kohya `meta_cap.json`", 5, first=("a red cat",))
def json_of_names(folder: Path) -> None:
    fill(folder, 5, captions=False)
    told = {f"p{k}": {"caption": caption(k), "tags": "a, b"} for k in range(5)}
    (folder / "meta_cap.json").write_text(json.dumps(told))


@case(
    "CSV with `sep=;` in an old code page",
    "Excel",
    4,
    left_out={"converted": 1},
    first=("roter Käfer",),
)
def excel(folder: Path) -> None:
    fill(folder, 4, captions=False)
    texts = ("roter Käfer", "grüner Baum", "weißes Haus", "schönes Auto")
    lines = ["sep=;", "file_name;text", *(f"p{k}.png;{text}" for k, text in enumerate(texts))]
    (folder / "Tabelle1.csv").write_bytes("\r\n".join(lines).encode("cp1252"))


@case("CSV in UTF-16 with tabs", 'Excel, "Unicode text"', 4, left_out={"converted": 1})
def excel_unicode(folder: Path) -> None:
    rows = rows_of(fill(folder, 4, captions=False), "File Name", "Caption")
    (folder / "metadata.csv").write_bytes(table(rows, "\t").encode("utf-16"))


@case("CSV with `|` between columns", "database exports", 4)
def piped(folder: Path) -> None:
    rows = rows_of(fill(folder, 4, captions=False), "image", "description")
    (folder / "captions.csv").write_text(table(rows, "|"))


@case("CSV without a header", "scripts", 4, first=("a red cat",))
def no_header(folder: Path) -> None:
    names = fill(folder, 4, captions=False)
    (folder / "labels.csv").write_text(
        "".join(f"{name},{caption(k)}\n" for k, name in enumerate(names))
    )


@case(
    "columns in other cases, numbers as captions",
    "Kaggle digit sets",
    10,
    first=("0",),
    splits={"train": 10},
)
def numbers(folder: Path) -> None:
    names = fill(folder, 10, captions=False)
    rows = [{"FileName": name, "Label": k} for k, name in enumerate(names)]
    (folder / "train.csv").write_text(table(rows))


@case("names without ending or in another case", "scripts on Windows", 6)
def loose_names(folder: Path) -> None:
    fill(folder / "Images", 6, captions=False)
    names = ["p0", "P1.PNG", "images/p2.png", "Images\\p3.png", "./Images/p4", "p5.jpg"]
    (folder / "metadata.csv").write_text(table(rows_of(names, "path", "prompt")))


@case("metadata above the pictures", "scripts; `t2i check set/images`", 5)
def metadata_above(folder: Path) -> Path:
    names = fill(folder / "images", 5, captions=False)
    (folder / "metadata.csv").write_text(table(rows_of(names, "file_name", "text")))
    return folder / "images"


@case("absolute paths of another machine", "trainers that save paths", 5)
def absolute_paths(folder: Path) -> None:
    names = [f"/home/someone/data/{name}" for name in fill(folder / "img", 5, captions=False)]
    (folder / "metadata.jsonl").write_text(json_lines(rows_of(names, "path", "text")))


@case("`split` column", "Hugging Face", 8, splits={"train": 5, "val": 2, "test": 1})
def split_column(folder: Path) -> None:
    rows = rows_of(fill(folder, 8, captions=False), "file_name", "text")
    for row, split in zip(rows, ["train"] * 5 + ["validation"] * 2 + ["test"], strict=True):
        row["split"] = split
    (folder / "metadata.jsonl").write_text(json_lines(rows))


@case(
    "`train/`, `validation/`, `test/` with metadata each",
    "Hugging Face ImageFolder",
    8,
    splits={"train": 4, "val": 2, "test": 2},
)
def imagefolder_splits(folder: Path) -> None:
    for split, count, start in (("train", 4, 0), ("validation", 2, 4), ("test", 2, 6)):
        names = fill(folder / split, count, captions=False, start=start)
        (folder / split / "metadata.csv").write_text(table(rows_of(names, "file_name", "text")))


@case(
    "Karpathy split: `images` with `sentences`",
    "dataset_flickr8k.json",
    6,
    captions=12,
    splits={"train": 4, "val": 1, "test": 1},
)
def karpathy(folder: Path) -> None:
    names = fill(folder / "imgs", 6, captions=False, suffix="jpg")
    splits = ["train"] * 4 + ["val", "test"]
    images = [
        {
            "filename": name,
            "split": split,
            "sentences": [{"raw": caption(k)}, {"raw": f"{COLOURS[k]} thing"}],
        }
        for k, (name, split) in enumerate(zip(names, splits, strict=True))
    ]
    (folder / "dataset_flickr8k.json").write_text(
        json.dumps({"images": images, "dataset": "flickr8k"})
    )


# --- sets of the field


@case("`captions.txt`: `image,caption`", "Flickr8k (Kaggle)", 6, captions=12)
def flickr8k(folder: Path) -> None:
    names = fill(folder / "Images", 6, captions=False, suffix="jpg")
    lines = [
        f"{name},{text} {k} ."
        for k, name in enumerate(names)
        for text in ("A thing numbered", '"Number, as it is')
    ]
    lines = [line + '"' if '"' in line else line for line in lines]
    (folder / "captions.txt").write_text("image,caption\n" + "\n".join(lines) + "\n")


@case(
    "`Flickr8k.token.txt`: `image#0<TAB>caption`, and lists of splits",
    "Flickr8k",
    6,
    captions=12,
    splits={"train": 3, "val": 1, "test": 2},
)
def flickr8k_token(folder: Path) -> None:
    names = fill(folder / "Flicker8k_Dataset", 6, captions=False, suffix="jpg")
    text = folder / "Flickr8k_text"
    text.mkdir()
    lines = [
        f"{name}#{i}\t{caption(k)} seen {i} ." for k, name in enumerate(names) for i in range(2)
    ]
    (text / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    for part, some in (
        ("trainImages", names[:3]),
        ("devImages", names[3:4]),
        ("testImages", names[4:]),
    ):
        (text / f"Flickr_8k.{part}.txt").write_text("\n".join(some) + "\n")


@case("`results.csv`: `image_name| comment_number| comment`", "Flickr30k", 5, captions=10)
def flickr30k(folder: Path) -> None:
    names = fill(folder / "flickr30k_images", 5, captions=False, suffix="jpg")
    lines = [
        f"{name}| {i}| {caption(k)}, view {i} ." for k, name in enumerate(names) for i in range(2)
    ]
    (folder / "results.csv").write_text(
        "image_name| comment_number| comment\n" + "\n".join(lines) + "\n"
    )


@case(
    "any list of `name.jpg<TAB>caption` or `name.jpg|caption`", "scripts", 5, first=("a red cat",)
)
def line_list(folder: Path) -> None:
    names = fill(folder / "pics", 5, captions=False, suffix="jpg")
    lines = [f"{name}|{caption(k)}\n" for k, name in enumerate(names)]
    (folder / "list.txt").write_text("".join(lines))
    (folder / "README.txt").write_text("Pictures of things.\n")


@case("lists of captions as pandas writes them", "pandas `to_csv`", 4, captions=8)
def pandas_lists(folder: Path) -> None:
    rows = [
        {"": k, "file_name": name, "captions": str([caption(k), f"{COLOURS[k]} thing"])}
        for k, name in enumerate(fill(folder, 4, captions=False))
    ]
    (folder / "metadata.csv").write_text(table(rows))


@case("names with `%20` for blanks", "crawlers", 4)
def quoted_names(folder: Path) -> None:
    (folder / "img").mkdir()
    for k in range(4):
        (folder / "img" / f"my picture {k}.png").write_bytes(png(k))
    rows = [{"file_name": f"img/my%20picture%20{k}.png", "text": caption(k)} for k in range(4)]
    (folder / "metadata.jsonl").write_text(json_lines(rows))


@case(
    "COCO captions JSON", "COCO, CVAT, Label Studio", 8, captions=16, splits={"train": 6, "val": 2}
)
def coco(folder: Path) -> None:
    (folder / "annotations").mkdir()
    for split, count, start in (("train2017", 6, 0), ("val2017", 2, 6)):
        names = fill(folder / split, count, captions=False, start=start, suffix="jpg")
        images = [{"id": k, "file_name": name} for k, name in enumerate(names, start)]
        notes = [
            {"id": 2 * k + i, "image_id": k, "caption": f"{caption(k)}, view {i}"}
            for k in range(start, start + count)
            for i in range(2)
        ]
        document = json.dumps({"images": images, "annotations": notes})
        (folder / "annotations" / f"captions_{split}.json").write_text(document)
        boxes = json.dumps(
            {"images": images, "annotations": [{"image_id": start, "bbox": [0, 0, 1, 1]}]}
        )
        (folder / "annotations" / f"instances_{split}.json").write_text(boxes)


@case(
    "Parquet with pictures, classes as numbers",
    "Hugging Face `datasets`, `push_to_hub`",
    8,
    splits={"train": 6, "test": 2},
    first=("tabby cat",),
)
def hub_parquet(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    (folder / "data").mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    features = {
        "image": {"_type": "Image"},
        "label": {"names": ["tabby_cat", "dog"], "_type": "ClassLabel"},
    }
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    for name, start, count in (
        ("train-00000-of-00002", 0, 3),
        ("train-00001-of-00002", 3, 3),
        ("test-00000-of-00001", 6, 2),
    ):
        numbers = range(start, start + count)
        columns = {
            "image": [{"bytes": png(k), "path": f"{k}.png"} for k in numbers],
            "label": [k % 2 for k in numbers],
        }
        made = pyarrow.table(columns)
        parquet.write_table(
            made.replace_schema_metadata(told),
            folder / "data" / f"{name}.parquet",
            row_group_size=2,
        )


@case("one Parquet file with pictures and captions", "Hugging Face `to_parquet`", 6)
def one_parquet(folder: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    columns = {
        "image": [{"bytes": png(k), "path": None} for k in range(6)],
        "text": [caption(k) for k in range(6)],
    }
    parquet.write_table(pyarrow.table(columns), folder / "pictures.parquet")
    return folder / "pictures.parquet"


# --- a file beside each picture


@case(
    "`x.png` with `x.txt`",
    "kohya, BLIP, JoyCaption, most trainers",
    60,
    left_out={"no-caption": 20},
    first=("a red cat",),
)
def sidecar(folder: Path) -> None:
    fill(folder, 60)
    fill(folder, 20, captions=False, start=60)


@case("`x.png` with `x.caption`", "kohya `--caption_extension`", 4)
def caption_files(folder: Path) -> None:
    for name in fill(folder, 4):
        (folder / name).with_suffix(".txt").rename((folder / name).with_suffix(".caption"))


@case("tags, one a line", "WD14 tagger", 6, first=("a red thing, 0 legs, on a table",))
def tags(folder: Path) -> None:
    for k, name in enumerate(fill(folder, 6)):
        (folder / name).with_suffix(".txt").write_text(
            f"a {COLOURS[k]} thing\n{k} legs\non a table\n"
        )


@case("a paragraph over several lines", "vision language models", 4)
def paragraphs(folder: Path) -> None:
    for k, name in enumerate(fill(folder, 4)):
        text = f"The picture shows a {COLOURS[k]} rectangle that stands\nupright before a plain wall.\n"
        (folder / name).with_suffix(".txt").write_text(text + "\nNothing else can be seen.\n")


@case("several captions, one a line", "CUB-200, Oxford flowers texts", 5, captions=15)
def alternatives(folder: Path) -> None:
    for k, name in enumerate(fill(folder, 5)):
        text = f"a {COLOURS[k]} bird\nthis bird is {COLOURS[k]}\na small bird with {COLOURS[k]} wings\n"
        (folder / name).with_suffix(".txt").write_text(text)


@case("`x.png` with `x.json`", "gallery-dl, kohya", 6, first=("a red cat",))
def json_beside(folder: Path) -> None:
    for k, name in enumerate(fill(folder, 6, captions=False)):
        told = (
            {"caption": caption(k), "tags": ["a", "b"]} if k % 2 == 0 else {"tags": ["red", "cat"]}
        )
        (folder / name).with_suffix(".json").write_text(json.dumps(told))


@case("`x.png` with `x.png.txt`", "gallery-dl", 4)
def full_name_beside(folder: Path) -> None:
    for name in fill(folder, 4):
        (folder / name).with_suffix(".txt").rename(folder / f"{name}.txt")


@case("`images/` and `captions/`", "scripts", 6, first=("a red cat",))
def parallel(folder: Path) -> None:
    fill(folder / "images", 6, captions=False)
    (folder / "captions").mkdir()
    for k in range(6):
        (folder / "captions" / f"p{k}.txt").write_text(caption(k))


@case("`train/images/` and `train/texts/`", "scripts after YOLO", 6, splits={"train": 4, "val": 2})
def parallel_splits(folder: Path) -> None:
    for split, count, start in (("train", 4, 0), ("valid", 2, 4)):
        fill(folder / split / "images", count, captions=False, start=start)
        (folder / split / "texts").mkdir()
        for k in range(start, start + count):
            (folder / split / "texts" / f"p{k}.txt").write_text(caption(k))


@case("texts in UTF-16 and old code pages", "Notepad", 6, left_out={"converted": 6})
def encodings(folder: Path) -> None:
    for k, name in enumerate(fill(folder, 6)):
        page = "utf-16" if k % 2 else "cp1252"
        (folder / name).with_suffix(".txt").write_bytes(f"schöner {COLOURS[k]} Käfer".encode(page))


@case("links to files elsewhere", "dataset managers, `ln -s`", 6)
def linked_files(folder: Path) -> Path:
    fill(folder / "store", 6)
    (folder / "set").mkdir()
    for file in (folder / "store").iterdir():
        (folder / "set" / file.name).symlink_to(file.resolve())
    return folder / "set"


# --- names


@case(
    "`red cat/001.jpg`, with `--captions-from folder`",
    "torchvision ImageFolder",
    8,
    options={"captions_from": "folder"},
    splits={"train": 6, "test": 2},
    first=("dog",),
)
def class_folders(folder: Path) -> None:
    for start, inside in ((0, "train/red_cat"), (3, "train/dog"), (6, "test/dog")):
        fill(folder / inside, 2 if inside.startswith("test") else 3, captions=False, start=start)


@case(
    "`red_cat-03.png`, with `--captions-from name`",
    "downloads, icon sets",
    6,
    options={"captions_from": "name"},
    first=("black boat",),
)
def file_names(folder: Path) -> None:
    for k in range(6):
        name = f"{COLOURS[k]}_{THINGS[k]}-{k:02}.png" if k else "black_cup.png"
        (folder / name).write_bytes(png(k))


@case(
    "`train_001.png`, `val_001.png`, `test_001.png` with texts",
    "scripts",
    8,
    splits={"train": 5, "val": 2, "test": 1},
)
def split_prefixes(folder: Path) -> None:
    for k, split in enumerate(["train"] * 5 + ["val"] * 2 + ["test"]):
        (folder / f"{split}_{k:03}.png").write_bytes(png(k))
        (folder / f"{split}_{k:03}.txt").write_text(caption(k))


# --- archives


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Put a file into a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@case("tar shards: `key.jpg`, `key.txt`, `key.json`", "img2dataset, webdataset", 8)
def webdataset(folder: Path) -> None:
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for k in range(4 * shard, 4 * shard + 4):
                add(tar, f"{k:09}.jpg", encoded(k, "JPEG"))
                add(tar, f"{k:09}.txt", caption(k).encode())
                add(
                    tar,
                    f"{k:09}.json",
                    json.dumps({"caption": caption(k), "url": "x", "key": f"{k:09}"}).encode(),
                )
        (folder / f"{shard:05}_stats.json").write_text('{"count": 4}')


@case("compressed tar shards", "webdataset", 4, splits={"train": 4})
def webdataset_gz(folder: Path) -> None:
    with tarfile.open(folder / "train.tar.gz", "w:gz") as tar:
        for k in range(4):
            add(tar, f"{k:04}.png", png(k))
            add(tar, f"{k:04}.cls", b"0")
            add(tar, f"{k:04}.json", json.dumps({"text": caption(k)}).encode())


@case("tar keys with dots", "`tar` of any folder", 5)
def dotted_keys(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w") as tar:
        for k in range(5):
            add(tar, f"./logo v1.{k}.png", png(k))
            add(tar, f"./logo v1.{k}.txt", caption(k).encode())


def zipped(path: Path, folder: Path) -> Path:
    """Pack a folder as people do, with the folder's own name in front."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{folder.name}/{file.relative_to(folder)}")
    return path


@case("zip of pictures with texts", "Civitai, Replicate, Windows", 6)
def zip_sidecar(folder: Path) -> Path:
    fill(folder / "my pictures", 6)
    return zipped(folder / "pictures.zip", folder / "my pictures")


@case("zip with metadata in it", "fal.ai, Hugging Face", 6)
def zip_metadata(folder: Path) -> Path:
    names = fill(folder / "set", 6, captions=False)
    (folder / "set" / "metadata.jsonl").write_text(json_lines(rows_of(names, "file_name", "text")))
    return zipped(folder / "set.zip", folder / "set")


@case("zip of COCO captions", "CVAT", 4)
def zip_coco(folder: Path) -> Path:
    names = fill(folder / "export" / "images", 4, captions=False, suffix="jpg")
    images = [{"id": k, "file_name": name} for k, name in enumerate(names)]
    notes = [{"id": k, "image_id": k, "caption": caption(k)} for k in range(4)]
    (folder / "export" / "captions.json").write_text(
        json.dumps({"images": images, "annotations": notes})
    )
    return zipped(folder / "export.zip", folder / "export")


# --- pictures


@case("TIFF", "scanners, microscopes", 6)
def tiff(folder: Path) -> None:
    fill(folder, 6, suffix="tif")


@case("PNGs that carry a workflow of megabytes", "ComfyUI", 5)
def workflows(folder: Path) -> None:
    fill(folder, 4)
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", json.dumps({"nodes": ["x" * 50] * 40_000}), zip=True)
    drawing(4).save(folder / "w.png", pnginfo=info)
    (folder / "w.txt").write_text("made by a workflow")


@case(
    "broken, empty and foreign files among good ones",
    "downloads",
    6,
    left_out={"unreadable": 1, "other-format": 1, "no-caption": 1},
)
def odd_files(folder: Path) -> None:
    fill(folder, 5)
    (folder / "again.png").write_bytes(encoded(5))
    (folder / "again.txt").write_text("again")
    (folder / "cut.png").write_bytes(png(6)[:90])
    (folder / "cut.txt").write_text("cut")
    (folder / "scan.psd").write_bytes(b"8BPS")
    (folder / "scan.txt").write_text("scan")
    (folder / "bare.png").write_bytes(png(7))
    (folder / "Thumbs.db").write_bytes(b"\0")


if __name__ == "__main__":
    out = Path(sys.argv[1])
    for name in sys.argv[2:] or CASES:
        print(CASES[name].build(out / name))
