"""Options in, one call, lines out: the command line, and one ``try`` around everything below it.

No module that is slow to import (torch above all) is imported at the top: every command imports what it needs inside
its function, so that ``--help``, ``--version``, ``check`` and ``info`` answer at once.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tomllib
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

import t2i_cli
from t2i_cli import console
from t2i_cli.errors import DeviceError, OutputError, Stopped, T2IError, UsageError, visible
from t2i_cli.signals import Interrupted, StopRequest, interruptible
from t2i_cli.wording import number_of

if TYPE_CHECKING:
    from t2i_cli.data import ReadOptions

__all__ = ["app", "ended", "run"]

# s in which torchrun passes on a signal that its processes may have had from the terminal already
SAME_SIGNAL = 5.0

app = typer.Typer(
    name="t2i",
    help="Text to image on your own machine: train on a folder of captioned pictures, draw from a prompt.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 the input is not valid, 4 partly done, 5 --fail-if tripped, "
    "130 and 143 stopped by a signal. T2I_DEBUG=1 shows a traceback.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.result(f"t2i {t2i_cli.__version__}")
        raise typer.Exit


def _set_quiet(wanted: bool) -> None:
    if wanted:
        console.set_level(quiet=True)


def _set_verbose(wanted: bool) -> None:
    if wanted:
        console.set_level(verbose=True)


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", callback=_set_quiet, help="Results and errors only.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", callback=_set_verbose, help="Details too.")
    ] = False,
) -> None:
    """What every command has: the options do their work in their callbacks."""


# --- options that several commands share

DataPath = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="A folder of captioned pictures, a tar, a zip, or metadata."
    ),
]
CaptionsFromName = Annotated[
    str | None,
    typer.Option(
        "--captions-from",
        metavar="folder|name|metadata|sidecar|shards",
        help="Where captions are; found out by itself if not given.",
    ),
]
CaptionKey = Annotated[
    str | None, typer.Option(metavar="K", help="The metadata field that holds the caption.")
]
CaptionLinesName = Annotated[
    str | None,
    typer.Option(
        "--caption-lines",
        metavar="join|alternatives|first",
        help="What several lines of a caption file are; found out by itself if not given.",
    ),
]
FitName = Annotated[
    str | None,
    typer.Option(
        "--fit",
        metavar="crop|pad|stretch",
        help="Pictures that are not square  [default: crop opaque ones, pad others]",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse data of which anything is left out.")
]
MaxBad = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE",
        help="Refuse data of which more than this is bad, such as 5%.  [default: 50%]",
    ),
]
NoFollowLinks = Annotated[
    bool, typer.Option("--no-follow-links", help="Leave symbolic links in the data out.")
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        metavar="MODEL",
        envvar="T2I_MODEL",
        help="A weights file, a run folder, or a shipped name.",
    ),
]
Device = Annotated[
    str,
    typer.Option(metavar="auto|cpu|cuda|cuda:N|mps", envvar="T2I_DEVICE", help="Where to compute."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite what is there.")]
LiteralPrompts = Annotated[
    bool, typer.Option("--literal", help="Read unknown words by their letters, not as known ones.")
]


@app.command(short_help="Say what a data set holds and what is wrong with it.")
def check(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="Folders of captioned pictures, tar or zip files, or metadata; several are one set.",
        ),
    ],
    json_rows: Json = False,
    captions_from: CaptionsFromName = None,
    caption_key: CaptionKey = None,
    caption_lines: CaptionLinesName = None,
    fit: FitName = None,
    strict: Strict = False,
    max_bad: MaxBad = None,
    no_follow_links: NoFollowLinks = False,
    preview: Annotated[
        Path | None,
        typer.Option(metavar="SHEET.png", help="Write a sheet of what the model will see."),
    ] = None,
) -> None:
    """Say which layout a data set has, what is left out and why, and how to fix it."""
    from t2i_cli.check import check as check_data
    from t2i_cli.check import refuse_existing, write_preview
    from t2i_cli.config import TrainConfig
    from t2i_cli.data import cache_folder

    options = _read_options(
        captions_from, caption_key, caption_lines, fit, strict, max_bad, no_follow_links
    )
    if preview is not None:
        refuse_existing(preview)
    with console.progress("reading", "pictures") as update:
        report = check_data(
            [Path(one) for one in data],
            options,
            cache=cache_folder(),
            progress=update,
            estimate=lambda _: f"{console.clock(TrainConfig().time)}, or as long as --time says",
        )
    if json_rows:
        console.result_json(report.to_dict())
    else:
        console.checklist((line.sign, line.message, line.mend) for line in report.lines)
    if preview is not None:
        write_preview(report, preview, options)
        console.note(f"preview: {preview}")
    raise typer.Exit(report.exit_code)


@app.command(short_help="Show what the model reads in a prompt.")
def tokenize(
    text: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT... | -", help="Prompts; - reads lines from stdin."),
    ] = None,
    model: ModelName = None,
    ids: Annotated[bool, typer.Option("--ids", help="Token numbers only.")] = False,
    pieces: Annotated[
        bool, typer.Option("--pieces", help="Pieces only; ▁ stands for a space.")
    ] = False,
    literal: LiteralPrompts = False,
    json_rows: Json = False,
    train: Annotated[
        str | None,
        typer.Option(
            "--train",
            metavar="DATA|FILE|-",
            help="Make a tokenizer from captions or lines of text.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Where the new tokenizer goes  [default: tokenizer.model]"
        ),
    ] = None,
    vocab_size: Annotated[int, typer.Option(metavar="N", help="Pieces at most.")] = 4096,
    captions_from: CaptionsFromName = None,
    caption_key: CaptionKey = None,
    force: Force = False,
) -> None:
    """Show what the model reads in a prompt, or make a tokenizer (--train)."""
    from t2i_cli import tokenize as verb

    if sum((ids, pieces, json_rows)) > 1:
        raise UsageError("--ids, --pieces and --json exclude each other", "give one of them")
    if train is None:
        if out is not None:
            raise UsageError("-o is for --train", "t2i tokenize --train DATA -o tokenizer.model")
        prompts = verb.prompts_of(text or [], piped=not sys.stdin.isatty())
        for row in verb.tokenize(prompts, model, literal=literal):
            if json_rows:
                printed = console.result_json(row)
            elif ids:
                printed = console.result(" ".join(map(str, row["ids"])))
            elif pieces:
                printed = console.result(" ".join(row["pieces"]))
            else:
                unknown = f"   ({row['unknown_tokens']} unknown)" if row["unknown_tokens"] else ""
                pairs = " ".join(
                    f"{piece}:{token}"
                    for piece, token in zip(row["pieces"], row["ids"], strict=True)
                )
                read = f"   (read as: {visible(row['read_as'], 200)})" if "read_as" in row else ""
                printed = console.result(pairs + unknown + read)
            if not printed:
                return
        return
    if text:
        raise UsageError(
            "--train takes one DATA folder or text file", f"t2i tokenize --train {train}"
        )
    row = verb.train(
        train, out or Path("tokenizer.model"),
        vocab_size=vocab_size, force=force, options=_read_options(captions_from, caption_key),
    )  # fmt: skip
    console.note(
        f"{console.count(row['vocab_size'])} pieces from {console.count(row['texts'])} texts"
    )
    if json_rows:
        console.result_json(row)
    else:
        console.result(row["path"])


@app.command()
def train(
    data: DataPath,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="RUN", help="The run folder  [default: runs/NAME-OF-DATA]"
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="tiny|small|base|large", help="How big the networks are.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(metavar="32|64|128|256", help="Side of a picture, px.")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="How long to train: 90s, 30m, 1h30m."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="How many steps to train, instead of --time.")
    ] = None,
    batch_size: Annotated[str, typer.Option(metavar="auto|N", help="Pictures a step.")] = "auto",
    lr: Annotated[
        float | None,
        typer.Option(
            metavar="F",
            help="The generator's learning rate; other networks keep their ratio to it  "
            "[default: 0.002]",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Where all randomness comes from.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL|none",
            help="Start from a model's weights  [default: the shipped model, where size and resolution fit]",
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(metavar="flow|gan", help="gan: one step against a discriminator alone."),
    ] = None,
    attributes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B|none",
            help="Columns that are conditions  [default: style, where there is one]",
        ),
    ] = None,
    default: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What is drawn where no condition is asked for."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Use this tokenizer instead of making one.")
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="builtin|lstm|PATH|hf:ID",
            help="The text encoder, or a language model to teach it.",
        ),
    ] = None,
    val: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of the pictures that is held out.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            envvar="T2I_CONFIG",
            help="Settings, as a run's config.toml has them.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="One setting of the recipe; may be repeated."
        ),
    ] = None,
    save_every: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Between two saves.")
    ] = None,
    sample_every: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Between two grids of pictures.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Prompts of the grids, one a line.")
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="auto|bf16|fp32", envvar="T2I_PRECISION", help="Number format of the trunk."
        ),
    ] = None,
    workers: Annotated[
        str, typer.Option(metavar="auto|N", help="Threads that decode pictures.")
    ] = "auto",
    captions_from: CaptionsFromName = None,
    caption_key: CaptionKey = None,
    caption_lines: CaptionLinesName = None,
    fit: FitName = None,
    strict: Strict = False,
    max_bad: MaxBad = None,
    no_follow_links: NoFollowLinks = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard events too.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on if there is something, else start.")
    ] = False,
    force: Force = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and stop.")
    ] = False,
    json_rows: Json = False,
) -> None:
    r"""Train a model on a folder of captioned pictures.

    \b
    t2i train data/                        half an hour, into runs/data
    t2i train data/ --time 8h --size small -o runs/night
    t2i train data/ -o runs/night --resume
    """
    from t2i_cli.config import TrainConfig, with_rates

    if time is not None and steps is not None:
        raise UsageError("--time and --steps exclude each other", "give one of them")
    reading = _read_options(
        captions_from, caption_key, caption_lines, fit, strict, max_bad, no_follow_links
    )
    run_folder = out if out is not None else Path("runs") / _run_name(data)
    flags: dict[str, Any] = {
        "size": size,
        "resolution": resolution,
        "objective": objective,
        "text_encoder": text_encoder,
        "time": None if time is None else parse_span(time, "--time"),
        "steps": steps,
        "batch_size": _auto_int(batch_size, "--batch-size"),
        "lr": lr,
        "seed": seed,
        "val": val,
        "save_every": None if save_every is None else parse_span(save_every, "--save-every"),
        "sample_every": None
        if sample_every is None
        else parse_span(sample_every, "--sample-every"),
        "precision": precision,
    }
    given: dict[str, Any] = {}
    goes_on = resume and (run_folder / "config.toml").is_file()
    own = any((size, resolution, objective, text_encoder, tokenizer, config))
    if init is None and not goes_on and not own:
        init = _shipped()
    init = None if init == "none" else init
    for layer in (
        {} if init is None else _begun(init, size),
        _read_toml(run_folder / "config.toml") if goes_on else {},
        _read_toml(config) if config is not None else {},
        {name: value for name, value in flags.items() if value is not None},
        dict(_parse_setting(setting) for setting in set_ or []),
    ):
        if layer.get("steps"):  # the later budget takes the place of the earlier one
            given["time"] = 0.0
        elif layer.get("time"):
            given["steps"] = 0
        given.update(with_rates(layer))
    settings_config = TrainConfig.from_dict(given)

    wish = StopRequest()
    # before torch is loaded, which takes seconds
    with nullcontext() if dry_run else _signals_to(wish):
        from t2i_cli.checkpoint import resolve_model
        from t2i_cli.prompts import read_prompts
        from t2i_cli.train import TrainSettings
        from t2i_cli.train import plan as plan_run
        from t2i_cli.train import train as train_run
        from t2i_cli.training.distributed import launched

        me = launched()
        if me.size > 1:  # torchrun started several processes, and ends them after 30 s
            wish.grace = SAME_SIGNAL
        if not me.first:
            console.set_level(quiet=True, name=f"t2i, process {me.rank}")
        settings = TrainSettings(
            data=data,
            out=run_folder,
            config=settings_config,
            device=device,
            init=None if init is None else resolve_model(init),
            tokenizer=tokenizer,
            prompts=None if prompts is None else read_prompts(str(prompts), console.warn),
            resume=resume,
            force=force,
            reading=reading,
            attributes=_columns(attributes),
            defaults=tuple(default or ()),
            tensorboard=tensorboard,
            workers=_auto_int(workers, "--workers") or 0,
            stop=wish,
        )
        if dry_run:
            _show_plan(plan_run(settings), json_rows)
            return
        with console.TrainingDisplay(json_rows=json_rows) as display:
            settings.progress = display.preparing if me.first else None
            try:
                for event in train_run(settings):
                    if me.first:
                        display.show(event)
            except Stopped as stop:
                if me.first:
                    raise
                raise typer.Exit(stop.exit_code) from None


@app.command()
def sample(
    prompt: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT... | -", help="What to draw; - reads lines from stdin."),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            "-i", "--prompts", metavar="FILE|-", help="Prompts or JSON objects, one a line."
        ),
    ] = None,
    model: ModelName = None,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help="A file, a folder/, a template such as 'out/{i:05}-{slug}.png', or - for stdout  "
            "[default: {slug}-{seed}.png]",
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", "--count", metavar="N", help="Pictures a prompt.")] = 1,
    seed: Annotated[
        str,
        typer.Option(
            metavar="N|random",
            envvar="T2I_SEED",
            help="Of a prompt's first picture; the next takes one more.",
        ),
    ] = "0",
    guidance: Annotated[
        float | None,
        typer.Option(
            metavar="F",
            help="How far to follow the prompt; 1 takes half the time  [default: 3]",
        ),
    ] = None,
    steps: Annotated[
        str, typer.Option(metavar="auto|N", help="From noise to picture  [default: auto, 8]")
    ] = "auto",
    style: Annotated[
        str | None, typer.Option(metavar="NAME", help="One of the model's styles; none for any.")
    ] = None,
    attributes: Annotated[
        str | None, typer.Option(metavar="NAME=VALUE,...", help="Other conditions of the model.")
    ] = None,
    references: Annotated[
        int | None,
        typer.Option(metavar="N", help="Training pictures to draw from  [default: 3]"),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="FILE|FOLDER", help="Draw after these pictures, captions not needed."),
    ] = None,
    truncation: Annotated[
        float, typer.Option(metavar="F", help="Scale of the noise; under 1 is plainer and safer.")
    ] = 1.0,
    negative: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the picture should not be.")
    ] = None,
    best_of: Annotated[
        int, typer.Option(metavar="K", help="Draw K, keep the one nearest to the prompt.")
    ] = 1,
    grid: Annotated[
        bool, typer.Option("--grid", help="All pictures on one captioned sheet.")
    ] = False,
    morph: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="An animation from the prompt to this one, a GIF or a WebP."
        ),
    ] = None,
    frames: Annotated[int, typer.Option(metavar="N", help="Of --morph, one way.")] = 24,
    vary: Annotated[
        str | None, typer.Option(metavar="PICTURE", help="Draw variations of a picture.")
    ] = None,
    strength: Annotated[
        float, typer.Option(metavar="F", help="Of --vary: 0 the picture itself, 1 another one.")
    ] = 0.3,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="PICTURE", help="Make a picture of t2i again, byte for byte."
        ),
    ] = None,
    scale: Annotated[int, typer.Option(metavar="N", help="Enlarge N times, crisp.")] = 1,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="COLOR|none",
            envvar="T2I_BACKGROUND",
            help="Under transparency: white, #f0f0f0.",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(metavar="png|webp|jpg", help="[default: as the name ends, else png]"),
    ] = None,
    force: Force = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave what is there and go on.")
    ] = False,
    no_metadata: Annotated[
        bool,
        typer.Option(
            "--no-metadata",
            envvar="T2I_NO_METADATA",
            help="Keep prompt and seed out of the file.",
        ),
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="K/N", help="Only every N-th prompt, from the K-th on.")
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show each picture in the terminal.")
    ] = False,
    literal: LiteralPrompts = False,
    device: Device = "auto",
    json_rows: Json = False,
) -> None:
    r"""Draw pictures of prompts.

    \b
    t2i sample "a red cat"                            a-red-cat-0.png
    t2i sample "a red cat" -n 16 --grid -o sheet.png
    cat prompts.txt | t2i sample - -o 'out/{i:05}-{slug}.png'
    t2i sample "a fox" --morph "a dog" -o morph.gif
    """
    from t2i_cli.quick import SampleSettings, perform

    perform(
        SampleSettings(
            prompt=tuple(prompt or ()), prompts=prompts, model=model, out=out, n=n, seed=seed,
            guidance=guidance, steps=steps, style=style, attributes=attributes, references=references,
            like=like, truncation=truncation, negative=negative, best_of=best_of,
            grid=grid, morph=morph, frames=frames, vary=vary, strength=strength, from_=from_,
            scale=scale, background=background, format=format, force=force,
            skip_existing=skip_existing, no_metadata=no_metadata, shard=shard, preview=preview,
            literal=literal, device=device, json_rows=json_rows,
        )
    )  # fmt: skip


@app.command(short_help="Write a model as ONNX, or without its training pictures.")
def export(
    name: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="A weights file, a run folder, or a shipped name."),
    ] = None,
    model: ModelName = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FOLDER|FILE", help="Where to  [default: NAME-onnx]"),
    ] = None,
    no_references: Annotated[
        bool,
        typer.Option(
            "--no-references", help="A weights file without the compressed training pictures."
        ),
    ] = False,
    force: Force = False,
    json_rows: Json = False,
) -> None:
    """Write a model's networks as ONNX, with tokenizer and config, for other programs.

    With --no-references: write a weights file that holds no training pictures. It still draws, less well.
    """
    from t2i_cli.checkpoint import resolve_model
    from t2i_cli.export import export_onnx, export_without_references

    path = resolve_model(name or model)
    if no_references:
        bare = out or Path(f"{_name_of(path)}-no-references.safetensors")
        files = [export_without_references(path, bare, overwrite=force)]
    else:
        files = export_onnx(path, out or _export_folder(path, force), overwrite=force)
    for file in files:
        if json_rows:
            console.result_json({"path": str(file), "bytes": file.stat().st_size})
        else:
            console.result(str(file))


@app.command("eval")
def evaluate(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL|FOLDER... DATA",
            help="Models or folders of pictures with their prompts, then captioned real pictures.",
        ),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...", help="recognised, kid, fd, prdc, text, diversity, memory, colour."
        ),
    ] = None,
    features: Annotated[
        str, typer.Option(metavar="own|lite0|PATH|hf:ID", help="What looks at the pictures.")
    ] = "own",
    count: Annotated[
        int, typer.Option("-n", "--count", metavar="N", help="Pictures of each, at most.")
    ] = 5000,
    steps: Annotated[int, typer.Option(metavar="N", help="As for sample.")] = 8,
    guidance: Annotated[float, typer.Option(metavar="F", help="As for sample.")] = 3.0,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Measure damaged real pictures too: blurred, warped, ..."),
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="First seed of the pictures.")] = 0,
    device: Device = "auto",
    captions_from: CaptionsFromName = None,
    caption_key: CaptionKey = None,
    json_rows: Json = False,
    page: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="Write a page with pictures."),
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(metavar="'kid>0.05'", help="Exit 5 if it holds; may be repeated."),
    ] = None,
    force: Force = False,
) -> None:
    r"""Measure how good pictures are, beside what real pictures reach.

    \b
    t2i eval runs/pets data/                         a model
    t2i eval old.safetensors runs/pets data/         two, side by side
    t2i eval pictures/ data/ --report how-good.html  pictures of another tool
    """
    if len(paths) < 2:
        raise UsageError("eval takes a model or a folder, then the data", "t2i eval MODEL DATA")
    if page is not None and page.exists() and not force:
        raise OutputError(f"{page}: already there", "use -f to overwrite it")
    from t2i_cli import evaluate as verb
    from t2i_cli.evaluation import report, scores

    conditions = [scores.parse_condition(text) for text in fail_if or []]
    settings = verb.EvalSettings(
        subjects=tuple(paths[:-1]),
        data=Path(paths[-1]),
        scores=scores.chosen_scores(metrics),
        features=features,
        count=count,
        steps=steps,
        guidance=guidance,
        calibrate=calibrate,
        seed=seed,
        device=device,
        reading=_read_options(captions_from, caption_key),
    )
    lacking = [one.score for one in conditions if one.score not in settings.scores]
    if lacking:
        raise UsageError(f"--fail-if {lacking[0]}: not among --metrics {metrics}")
    with console.stages() as tell:
        found = verb.evaluate(settings, tell)
    if page is not None:
        report.write_report(found, page)
        console.note(f"report: {page}")
    if json_rows:
        console.result_json(found.to_dict())
    else:
        names = [subject.name for subject in found.subjects]
        console.table(["score", *names, "what it is"], report.rows(found))
        if found.calibration:
            console.table(report.calibration_columns(found), report.calibration_rows(found))
        console.note(
            f"{number_of(found.count, 'picture')} against {found.reference}; {found.features_note}"
        )
        console.note("figures under different features or counts do not compare")
    for text in found.warnings:
        console.warn(text)
    scores.hold({subject.name: subject.scores for subject in found.measured()}, conditions)


@app.command()
def info(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="Weights, a run folder, or a picture made by t2i  [default: the shipped model]",
        ),
    ] = None,
    json_rows: Json = False,
) -> None:
    """Show what weights, a run or a picture say about themselves."""
    from t2i_cli.info import info as read_info
    from t2i_cli.info import sparkline

    report = read_info(file)
    if json_rows:
        console.result_json(report.to_dict())
        return
    console.facts([(report.kind, str(report.path)), *report.lines()])
    curves = [
        (name, values) for name, values in report.curves.items() if name not in ("lr", "memory_mb")
    ]
    if curves:
        console.facts(
            [
                (name, f"{sparkline(values)}  {console.figure(values[-1])}")
                for name, values in curves
            ],
            title="from its log",
        )
    if report.verdict:
        console.checklist(("!" if k else "", text, "") for k, text in enumerate(report.verdict))


# --- pieces of the commands


def parse_span(text: str, name: str) -> float:
    """A span of time as people write it -> seconds.

    >>> parse_span("90s", "--time"), parse_span("1h30m", "--time"), parse_span("2", "--time")
    (90.0, 5400.0, 2.0)

    Raises:
        UsageError: it is no span of time.
    """
    match = re.fullmatch(
        r"(?:([\d.]+)d)?(?:([\d.]+)h)?(?:([\d.]+)m(?:in)?)?(?:([\d.]+)s?)?",
        text.strip().lower().replace(" ", ""),
    )
    try:
        if match is None or not any(match.groups()):
            raise ValueError
        spans = [float(group or 0) for group in match.groups()]
    except ValueError:
        raise UsageError(
            f"{name} {text}: not a span of time", "write 90s, 30m, 2h or 1h30m"
        ) from None
    return sum(span * unit for span, unit in zip(spans, (86_400.0, 3600.0, 60.0, 1.0), strict=True))


def _auto_int(text: str, name: str) -> int | None:
    """A whole number, or None for ``auto``."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{name} {text}: expected a whole number or auto") from None


def _shipped() -> str | None:
    """The shipped model's name, where there is one."""
    from t2i_cli.folders import DEFAULT_MODEL, plain_model

    return DEFAULT_MODEL if plain_model(None) is not None else None


def _columns(told: str | None) -> tuple[str, ...] | None:
    """Names of columns; None where nothing is said, and none for "none"."""
    if told is None:
        return None
    return () if told == "none" else tuple(filter(None, map(str.strip, told.split(","))))


def _begun(model: str, size: str | None) -> dict[str, Any]:
    """The settings that weights to start from bring along; their encoders and autoencoder stay, unless asked for.

    Raises:
        UsageError: another size is asked for.
    """
    from t2i_cli.checkpoint import read_info, resolve_model

    config = read_info(resolve_model(model)).config
    if size not in (None, config.size):
        raise UsageError(
            f"--init {model}: its size is {config.size}, this run asks for {size}",
            "leave --size out, or train from nothing with --init none",
        )
    kept = {"contrastive": 0.0, "autoencoder": 0.0}
    return {"size": config.size, "resolution": config.resolution, **kept}


def _read_options(
    captions_from: str | None = None,
    caption_key: str | None = None,
    caption_lines: str | None = None,
    fit: str | None = None,
    strict: bool = False,
    max_bad: str | None = None,
    no_follow_links: bool = False,
) -> ReadOptions:
    """How data is read, from the options of the command line, checked."""
    from t2i_cli.data import ReadOptions, share_of

    if strict and max_bad is not None:
        raise UsageError("--strict and --max-bad exclude each other", "give one of them")
    most = 0.0 if strict else None if max_bad is None else share_of(max_bad)
    given: dict[str, Any] = {
        "captions_from": captions_from,
        "caption_lines": caption_lines,
        "fit": fit,
    } | ({} if most is None else {"max_bad": most})
    return ReadOptions(caption_key=caption_key, follow_links=not no_follow_links, **given)


def _name_of(model: Path) -> str:
    """A model's name: its file's, of a run its folder's."""
    if model.stem not in ("model", "best"):
        return model.stem
    return model.resolve().parent.name + ("-best" if model.stem == "best" else "")


def _export_folder(model: Path, force: bool) -> Path:
    """Where an export goes that was given no place: NAME-onnx, the name of a run being its folder's.

    What is there already stays; the next free number is taken.
    """
    name = _name_of(model)
    folder = Path(f"{name}-onnx")
    number = 2
    while folder.exists() and not force:
        folder = Path(f"{name}-onnx-{number}")
        number += 1
    return folder


def _run_name(data: Path) -> str:
    """A run's name from its data's: ``data/pets/`` -> pets, ``icons-000.tar`` -> icons-000."""
    stem = re.sub(r"\.(tar|tar\.gz|tgz|zip|csv|jsonl|json|parquet)$", "", data.resolve().name)
    name = re.sub(r"[^\w.-]+", "-", stem).strip("-.")
    return name or "run"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from None


def _parse_setting(text: str) -> tuple[str, Any]:
    """``name=value`` of --set; the value is read as TOML, else as a plain string."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"--set {text}: expected NAME=VALUE", "for example --set flow=0.6")
    try:
        return name.strip(), tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


def _show_plan(plan: dict[str, Any], json_rows: bool) -> None:
    """What --dry-run prints: a line a fact, a line a stage."""
    if json_rows:
        console.result_json(plan)
        return
    for name, value in plan.items():
        if not isinstance(value, dict):
            shown = console.clock(value) if name == "seconds" else console.figure(value)
            console.result(f"{name.replace('_', ' ')}: {shown}")
            continue
        for part, facts in cast("dict[str, dict[str, float] | float]", value).items():
            if isinstance(facts, dict):
                shown = ", ".join(
                    f"{console.figure(fact)} {key.replace('_', ' ')}" for key, fact in facts.items()
                )
            else:
                shown = console.figure(facts)
            console.result(f"  {part}: {shown}")


@contextmanager
def _signals_to(wish: StopRequest) -> Generator[None]:
    """SIGINT, SIGTERM and SIGUSR1 become wishes while a run trains (also where the shell has SIGINT ignored)."""
    numbers = [
        signal.SIGINT,
        signal.SIGTERM,
        *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []),
    ]

    def receive(signum: int, frame: FrameType | None) -> None:
        first = not wish
        wish.receive(signum, frame)
        if first and wish:
            console.note("finishing the step and saving; a second signal leaves at once")

    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- running: the one try around everything

_CLICK_USAGE: Any = typer.BadParameter.__mro__[
    1
]  # typer's UsageError and ClickException, wherever this typer keeps them
_CLICK_ERROR: Any = _CLICK_USAGE.__mro__[1]


def run(arguments: Sequence[str]) -> int:
    """Run a command line and say its exit code; every error is told in one line, and stdout is flushed.

    Args:
        arguments: what comes after ``t2i``.
    """
    console.open_streams()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = _invoke(arguments)
        sys.stdout.flush()
    except BaseException as error:
        code = ended(error)
    return code


def ended(error: BaseException) -> int:
    """The exit code of an error, after it was told and stdout was flushed."""
    code = _told(error)
    try:
        sys.stdout.flush()
    except OSError:
        console.silence_stdout()
    return code


def _invoke(arguments: Sequence[str]) -> int:
    with interruptible():
        code = _command().main(args=list(arguments), prog_name="t2i", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """A library's warning is a detail: it says nothing that a user could act on."""
    console.detail(f"{category.__name__}: {message}")


def _told(error: BaseException) -> int:
    """The exit code of an error, after it was told on stderr in one line (or with its traceback, T2I_DEBUG=1)."""
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        error = error.__context__  # typer ends with 1 where the reader of a help text has left
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt | Interrupted):
        error = Stopped(error.signum if isinstance(error, Interrupted) else signal.SIGINT)
    if isinstance(error, BrokenPipeError):
        console.silence_stdout()
        return 0
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(str(cast("Any", error).format_message()) + "\n")
        return 2
    if os.environ.get("T2I_DEBUG", "0") not in ("", "0"):
        import traceback

        for line in "".join(traceback.format_exception(error)).splitlines():
            sys.stderr.write(visible(line, 4000) + "\n")
    known = _translate(error)
    console.fail(known)
    return known.exit_code


def _translate(error: BaseException) -> T2IError:
    """Any error as one that can be told in a line."""
    if isinstance(error, T2IError):
        return error
    if isinstance(error, _CLICK_ERROR):
        return _usage_error(error)
    text = str(error)
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in text
    ):
        return DeviceError(
            "out of memory", "use a smaller --batch-size, --size or --resolution, or --device cpu"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return OutputError(f"{error.filename}: {error.strerror or error}")
    if isinstance(error, OSError):
        return OutputError(error.strerror or text)
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        return T2IError(
            f"the package {error.name} is not installed",
            _EXTRAS.get(error.name.partition(".")[0], "reinstall t2i-cli"),
        )
    return T2IError(
        f"internal error: {type(error).__name__}: {text.splitlines()[0] if text else ''}",
        "set T2I_DEBUG=1 for a traceback, and please report it",
    )


_EXTRAS = {
    "transformers": "pip install 't2i-cli[hf]'",
    "pyarrow": "pip install 't2i-cli[parquet]'",
    "tensorboard": "pip install 't2i-cli[tensorboard]'",
}


def _usage_error(error: Any) -> UsageError:
    """One of typer's own errors in one line, with the nearest name where a name is not known."""
    message = " ".join(str(error.format_message()).split()).rstrip(".")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "t2i"
    hint = f"see {path} -h"
    wrong = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and wrong is not None and context is not None:
        message = f"no such option: {wrong}"
        if said := _meant(wrong, context):
            hint = f"{said} {hint}"
    return UsageError(message[:1].lower() + message[1:], hint)


# what other tools call options of these
_OTHER_NAMES = {
    "--epochs": "--time or --steps", "--num-epochs": "--time or --steps", "--max-steps": "--steps",
    "--max-train-steps": "--steps", "--learning-rate": "--lr", "--output": "--out", "--output-dir": "--out",
    "--num-images": "--count", "--number": "--count", "--cfg": "--guidance", "--cfg-scale": "--guidance",
    "--guidance-scale": "--guidance", "--negative-prompt": "--negative", "--overwrite": "--force",
    "--ckpt": "--model", "--checkpoint": "--model", "--width": "--scale", "--height": "--scale",
}  # fmt: skip
_LIKE = 0.75  # how much of two names has to be the same, 0 to 1, for one to be taken for the other


def _meant(wrong: str, context: Any) -> str:
    """What an unknown option probably means, as a sentence with a question mark or a full stop; or nothing."""
    known = _options_of(context.command)
    other = _OTHER_NAMES.get(wrong, "")
    if other and other.split()[0] in known:
        return f"did you mean {other}?"
    near = get_close_matches(wrong.lstrip("-"), [name[2:] for name in known], 1, _LIKE)
    if near:
        return f"did you mean --{near[0]}?"
    group = context.parent.command if context.parent is not None else context.command
    elsewhere = [
        name
        for name, command in getattr(group, "commands", {}).items()
        if wrong in _options_of(command)
    ]
    if elsewhere:
        return f"{wrong} is an option of t2i {' and '.join(elsewhere)}."
    if context.command.name in ("sample", "tokenize") and not wrong.startswith("--"):
        return f'for a prompt that starts with -, write -- before it: {context.command_path} -- "-...".'
    return ""


def _options_of(command: Any) -> list[str]:
    return [
        name
        for param in command.params
        for name in (*param.opts, *param.secondary_opts)
        if name.startswith("--")
    ]


def _command() -> Any:
    """The tree of commands, with -q and -v understood after a command's name too."""
    from typer.main import get_command

    group: Any = get_command(app)
    everywhere = [param for param in group.params if param.name in ("quiet", "verbose")]
    for param in everywhere:
        param.expose_value = False
    for command in group.commands.values():
        command.params.extend(everywhere)
        command.help = (command.help or "").replace("\\b\n", "\b\n")  # click's mark: do not rewrap
    for command in (group, *group.commands.values()):
        command.get_params = _light_params(command.get_params)
    return group


def _light_params(get_params: Any) -> Any:
    """Let plain types be read without pydantic, which costs 70 ms a command where typer imports it."""

    def light(context: Any) -> Any:
        params = get_params(context)
        for param in params:
            descriptor = getattr(param, "type_descriptor", None)
            reader = _READERS.get(getattr(descriptor, "annotation", None))
            if reader is not None and hasattr(param, "get_runtime_param"):
                param.get_runtime_param = partial(_same, reader)
        return params

    return light


def _same(value: Any) -> Any:
    return value


class _Reader:
    """Reads an option's value; what typer calls a runtime parameter."""

    def __init__(self, kind: Any, expected: str, many: bool = False) -> None:
        self.kind, self.expected, self.many = kind, expected, many

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as its type, or typer's BadParameter."""
        if self.many:
            return list(value or ())
        if value is None or isinstance(value, self.kind):
            return value
        try:
            return _TRUTH[value.strip().lower()] if self.kind is bool else self.kind(value)
        except (ValueError, KeyError, OverflowError):
            raise typer.BadParameter(
                f"expected {self.expected}, got '{visible(value, 80)}'", ctx=ctx, param=param
            ) from None


_TRUTH = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
    "": False,
}
_READERS: dict[Any, _Reader] = {
    str: _Reader(str, "text"),
    int: _Reader(int, "a whole number"),
    float: _Reader(float, "a number"),
    bool: _Reader(bool, "1 or 0"),
    Path: _Reader(Path, "a path"),
    list[str]: _Reader(str, "text", many=True),
}
