"""`t2i sample`: settings in, pictures and lines out; and a reader of plain command lines that does without typer.

`sample` is what shell scripts call in a loop, and importing typer takes longer than drawing a picture. So `settings_of`
reads the command lines that need no help or explanation, and leaves every other one to `cli`, which knows
the same options (a test compares the two). Either way `perform` does the work.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from t2i_cli import console
from t2i_cli.errors import OutputError, PromptError, UsageError, visible
from t2i_cli.signals import interruptible
from t2i_cli.wording import number_of

if TYPE_CHECKING:
    from t2i_cli.prompts import LineReader, Request
    from t2i_cli.sample import Failed, Made, Model, Options, Wish

__all__ = ["SampleSettings", "perform", "quick", "settings_of"]


@dataclass(frozen=True)
class SampleSettings:
    """The options of `t2i sample`, as they were given."""

    prompt: tuple[str, ...] = ()
    prompts: str | None = None
    model: str | None = None
    out: str | None = None
    n: int = 1
    seed: str = "0"
    guidance: float | None = None
    steps: str = "auto"
    style: str | None = None
    attributes: str | None = None
    references: int | None = None
    like: str | None = None
    truncation: float = 1.0
    negative: str | None = None
    best_of: int = 1
    grid: bool = False
    morph: str | None = None
    frames: int = 24
    vary: str | None = None
    strength: float = 0.3
    from_: str | None = None
    scale: int = 1
    background: str | None = None
    format: str | None = None
    force: bool = False
    skip_existing: bool = False
    no_metadata: bool = False
    shard: str | None = None
    preview: bool = False
    device: str = "auto"
    literal: bool = False
    json_rows: bool = False
    quiet: bool = False
    verbose: bool = False


FLAGS = {
    "-i": "prompts", "--prompts": "prompts", "-m": "model", "--model": "model", "-o": "out", "--out": "out",
    "-n": "n", "--count": "n", "--seed": "seed", "--guidance": "guidance", "--steps": "steps", "--style": "style",
    "--attributes": "attributes", "--references": "references", "--like": "like", "--truncation": "truncation",
    "--negative": "negative", "--best-of": "best_of", "--grid": "grid", "--morph": "morph", "--frames": "frames",
    "--vary": "vary", "--strength": "strength", "--from": "from_", "--scale": "scale", "--background": "background",
    "--format": "format", "-f": "force", "--force": "force", "--skip-existing": "skip_existing",
    "--no-metadata": "no_metadata", "--shard": "shard", "--preview": "preview", "--device": "device",
    "--literal": "literal", "--json": "json_rows",
}  # fmt: skip  # as cli.sample declares them
_EVERYWHERE = {"-q": "quiet", "--quiet": "quiet", "-v": "verbose", "--verbose": "verbose"}
_ENVIRONMENT = {"T2I_DEVICE": "device", "T2I_SEED": "seed", "T2I_BACKGROUND": "background"}
_SWITCH = {
    word: on
    for on, words in ((True, "1 true yes on"), (False, "0 false no off"))
    for word in words.split()
}


def quick(arguments: Sequence[str]) -> int | None:
    """Run ``t2i sample`` where its command line is plain.

    Args:
        arguments: what comes after ``t2i sample``.

    Returns:
        The exit code 0, or None where nothing was done and typer has to read the line.

    Raises:
        T2IError: what the command ends with; any other error may leave too.
    """
    settings = settings_of(arguments)
    if settings is None:
        return None
    if settings.quiet or settings.verbose:
        console.set_level(quiet=settings.quiet, verbose=settings.verbose)
    console.open_streams()
    perform(settings)
    sys.stdout.flush()
    return 0


def settings_of(arguments: Sequence[str]) -> SampleSettings | None:
    """The settings of a plain command line; None for one that asks for help, is wrong, or has forms not read here.

    >>> settings_of(["a cat", "-n", "4", "--json"]) == SampleSettings(prompt=("a cat",), n=4, json_rows=True)
    True
    >>> settings_of(["a cat", "--help"]) is None
    True
    """
    bare = os.environ.get("T2I_NO_METADATA") or "0"
    if bare not in _SWITCH:
        return None
    kinds = {
        item.name: str(item.type).removesuffix(" | None")
        for item in dataclasses.fields(SampleSettings)
    }
    values: dict[str, Any] = {"no_metadata": _SWITCH[bare]}
    values |= {name: told for key, name in _ENVIRONMENT.items() if (told := os.environ.get(key))}
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        flag, equals, attached = word.partition("=")
        name = FLAGS.get(flag) or _EVERYWHERE.get(flag)
        if name is None or (equals and not flag.startswith("--")):
            return None
        if kinds[name] == "bool":
            if equals:
                return None
            values[name] = True
            continue
        if not equals and not rest:
            return None
        text = attached if equals else rest.pop(0)
        try:
            values[name] = {"int": int, "float": float, "str": str}[kinds[name]](text)
        except ValueError:
            return None
    return SampleSettings(prompt=tuple(words), **values)


def perform(settings: SampleSettings) -> None:
    """Do what `t2i sample` was asked for, and print each result as it is made.

    Raises:
        T2IError: what the command ends with.
    """
    with interruptible():
        try:
            _perform(settings)
        finally:
            naming = sys.modules.get("t2i_cli.naming")
            if naming is not None:
                naming.remove_unfinished()


def _perform(given: SampleSettings) -> None:
    from t2i_cli import sample

    options = _options(given)
    modes = [
        flag
        for flag, on in (
            ("--grid", given.grid),
            ("--morph", given.morph),
            ("--vary", given.vary),
            ("--from", given.from_),
            ("-o -", given.out == "-" and not given.morph and not given.grid),
        )
        if on
    ]
    if len(modes) > 1 and not ("--from" in modes and {*modes} <= {"--from", "--vary", "-o -"}):
        raise UsageError(f"{' and '.join(modes)} exclude each other", "give one of them")
    if given.out == "-":
        if given.json_rows:
            raise UsageError(
                "-o - and --json both write to stdout", "write the picture to a file: -o out.png"
            )
        if sys.stdout.isatty():
            raise UsageError(
                "-o - writes a picture to a pipe, never to a terminal",
                "t2i sample ... -o - > out.png",
            )
    if given.seed == "random":
        console.note(f"seed {options.seed}")

    def load() -> Model:
        model = sample.load(given.model, given.device, announce=console.note)
        if given.like is not None:
            from t2i_cli import like

            like.use(model, given.like, given.references)
        gc.freeze()
        gc.enable()  # `__main__` has turned it off for the time of importing
        return model

    if given.from_ is not None:
        if given.prompt or given.prompts:
            raise UsageError("--from takes its prompt from the picture", "leave the prompt out")
        _again(load, given.from_, options, given)
        return
    source = _source(given)
    if given.grid:
        _grid(load(), source, options, given)
    elif given.morph is not None:
        _morph(load(), source, options, given)
    elif given.vary is not None:
        _vary(load, source, options, given)
    else:
        _stream(load, source, options, given)


def _options(given: SampleSettings) -> Options:
    from t2i_cli.sample import Options, random_seed

    if given.seed == "random":
        seed = random_seed()
    else:
        try:
            seed = int(given.seed)
        except ValueError:
            raise UsageError(f"--seed {given.seed}: expected a whole number or random") from None
    shard = None
    if given.shard is not None:
        k, slash, n = given.shard.partition("/")
        if not slash or not k.isdigit() or not n.isdigit() or len(k) > 9 or len(n) > 9:
            raise UsageError(f"--shard {given.shard}: expected K/N", "for example --shard 3/16")
        shard = (int(k), int(n))
    again = given.from_ is not None  # what is written is as the picture says
    special = given.morph is not None or again or (given.grid and given.out is None)
    return Options(
        out=given.out,
        n=given.n,
        seed=seed,
        guidance=given.guidance,
        steps=_steps(given.steps),
        style=given.style,
        attributes=given.attributes,
        references=given.references,
        truncation=given.truncation,
        negative=given.negative,
        best_of=given.best_of,
        scale=given.scale,
        background=given.background,
        format=given.format if not special else None,
        overwrite=given.force,
        skip_existing=given.skip_existing,
        metadata=not given.no_metadata,
        shard=shard,
        animation=given.morph is not None or again,
        literal=given.literal,
    )


def _steps(told: str) -> int | None:
    if told == "auto":
        return None
    try:
        return int(told)
    except ValueError:
        raise UsageError(f"--steps {told}: expected auto or a whole number") from None


def _again(load: Callable[[], Model], path: str, options: Options, given: SampleSettings) -> None:
    """--from: what is in a picture, a sheet, an animation or a relative, once more."""
    import hashlib

    from t2i_cli import sample
    from t2i_cli.errors import InputError

    recipe = sample.recipe_of(path)
    if recipe.kind == "vary" and given.vary is None:
        raise UsageError(
            f"{path}: a relative of another picture, which is not in its metadata",
            f"give that one too: t2i sample --from {path} --vary SOURCE",
        )
    if recipe.kind != "vary" and given.vary is not None:
        raise UsageError(f"{path}: no relative of another picture", "leave --vary out")
    if {"grid": not recipe.sheet, "morph": not recipe.to, "vary": not recipe.source}.get(
        recipe.kind
    ):
        raise InputError(f"{path}: its metadata does not hold all that made it")
    request, options = sample.following(recipe, options)
    if given.vary is not None:
        found = hashlib.sha256(sample.picture_bytes(given.vary)).hexdigest()
        if found != recipe.source:
            raise InputError(f"{given.vary}: not the picture that {path} is a relative of")
    if recipe.like and given.like is None:
        raise UsageError(
            f"{path}: was drawn after other pictures, which are not in its metadata",
            f"give them too: t2i sample --from {path} --like FILE|FOLDER",
        )
    model = load()
    sample.same_model(model, recipe, path)
    if model.like_hashes != recipe.like:
        raise UsageError(f"--like {given.like}: not the pictures that {path} was drawn after")
    if recipe.runtime and recipe.runtime != model.runtime.name:
        console.warn(
            f"{path} was made with {recipe.runtime}, this is {model.runtime.name}: a pixel may differ by 1"
        )
    if recipe.kind == "grid":
        _sheet(model, sample.wishes_of(recipe, options), recipe.sheet, options, given)
    elif recipe.kind == "morph":
        wish = options.wish(request, recipe.seed)
        name = sample.default_out(request, options, f".{recipe.format}")
        _animate(model, wish, recipe.to, recipe.frames or 2, name, recipe.format, options, given)
    elif recipe.kind == "vary":
        seeds = list(dict.fromkeys((recipe.first or 0, recipe.seed)))
        wishes = [options.wish(request, seed) for seed in seeds]
        _relatives(model, wishes, recipe.strength or 0.0, seeds.index(recipe.seed), options, given)
    else:
        _stream(model, [request], options, given)


def _source(given: SampleSettings) -> list[Request] | LineReader:
    from t2i_cli import prompts
    from t2i_cli.sample import stdin_is_pipe

    words = given.prompt
    if words == ("-",) or given.prompts is not None:
        if given.prompts is not None and words:
            raise UsageError("prompts both as arguments and with -i", "give one of them")
        return prompts.open_prompts(given.prompts or "-")
    if "-" in words:
        raise UsageError("- reads every prompt from stdin", "give - alone, or prompts")
    if not words:
        if given.vary is not None:
            return []
        if not stdin_is_pipe():
            raise UsageError("no prompt", 't2i sample "a red cat"')
        return prompts.open_prompts("-")
    for word in words:
        if word.endswith((".txt", ".jsonl")) and os.path.isfile(word):  # noqa: PTH113
            console.warn(
                f"{visible(word, 80)} is drawn as a prompt; for the prompts in that file: -i {visible(word, 80)}"
            )
    return [prompts.argument(word) for word in words]


def _stream(
    model: Any, source: list[Request] | LineReader, options: Options, given: SampleSettings
) -> None:
    from t2i_cli.sample import Failed, Made, Skipped, draw, outcome

    made, skipped, failures = 0, 0, list[Failed]()
    for event in draw(model, source, options, console.warn):
        if len(failures) == 1 and not made + skipped:
            _say_failed(failures[0])  # it is not the only thing to be told, as it seemed
        if isinstance(event, Made):
            made += 1
            _warn_of(event)
            if event.path == "-":
                console.result_bytes(event.data)
            elif given.json_rows:
                console.result_json(event.row())
            else:
                console.result(event.path)
            if given.preview and console.is_terminal():
                from t2i_cli.relatives import preview

                sys.stderr.write(preview(event.picture.pixels) + "\n")
        elif isinstance(event, Skipped):
            skipped += 1
        else:
            failures.append(event)
            if made + skipped + len(failures) > 1 and not event.again:
                _say_failed(event)
        if console.reader_is_gone() and not isinstance(source, list) and source.still_written():
            source.end()  # `yes a cat | t2i sample - | head`: nobody waits for more
    if skipped:
        console.note(f"{number_of(skipped, 'picture was', 'pictures were')} there already")
    if not made and not skipped and not failures and options.shard is None:
        raise PromptError("no prompt came in", "write one a line")
    outcome(made + skipped, failures)


def _warn_of(event: Made) -> None:
    if event.picture.cut:
        console.warn(
            f"{visible(event.path, 80)}: the prompt is longer than the model reads; its end was cut"
        )
    if event.picture.strange:
        prompt = visible(event.picture.recipe.prompt, 60)
        console.warn(f"{visible(event.path, 80)}: the model knows no word of this prompt: {prompt}")
    if event.picture.read_as:  # a person is told, a script asks with --json or -v
        tell = console.note if console.is_terminal() else console.detail
        tell(f"read as: {visible(event.picture.read_as, 200)}")


def _say_failed(event: Failed) -> None:
    where = f"{visible(event.prompt, 60)!s}: " if event.prompt and not event.line else ""
    text = str(event.error)
    line = f"line {event.line}: " if event.line and not text.startswith("line ") else ""
    console.warn(f"{line}{where}{text}" + (f"; {event.error.hint}" if event.error.hint else ""))


def _requests(source: list[Request] | LineReader) -> Generator[Request]:
    from t2i_cli import prompts

    for item in (
        source if isinstance(source, list) else prompts.requests(iter(source), console.warn)
    ):
        if isinstance(item, prompts.BadLine):
            raise item.error
        if item is not None:
            yield item


def _grid(
    model: Model, source: list[Request] | LineReader, options: Options, given: SampleSettings
) -> None:
    from t2i_cli import sample

    wishes: list[sample.Wish] = []
    rows: list[tuple[str, int, int, str, float, str]] = []
    for request in _requests(source):
        count = request.n or options.n
        for k in range(count):
            wishes.append(
                options.wish(
                    request,
                    (options.seed if request.seed is None else request.seed) + k * options.best_of,
                )
            )
            if not k:
                wish = wishes[-1]
                asked = (wish.prompt, wish.seed, count, wish.negative or "", wish.guidance)
                rows.append((*asked, wish.asked))
            if len(wishes) > sample.MAX_GRID:
                raise UsageError(
                    f"a sheet holds at most {sample.MAX_GRID} pictures",
                    "make several, or single files",
                )
    if not wishes:
        raise PromptError("no prompt came in", "write one a line")
    _sheet(model, wishes, tuple(rows), options, given)


def _sheet(
    model: Model,
    wishes: list[Wish],
    rows: tuple[tuple[str, int, int, str, float, str], ...],
    options: Options,
    given: SampleSettings,
) -> None:
    from t2i_cli import metadata, prompts, relatives, sample

    pictures = model.pictures(wishes)
    pixels = relatives.contact_sheet(pictures)
    read = sorted({number for picture in pictures for number in picture.recipe.read})
    kept = dataclasses.replace(
        pictures[0].recipe,
        kind="grid",
        sheet=rows,
        read=tuple(read) if len(read) <= metadata.MAX_LISTED else (),
        picked=None,
        format=options.format_of(options.out),
    )
    sheet = sample.Picture(pixels, kept, sum(picture.unknown_tokens for picture in pictures), False)
    name = sample.default_out(prompts.Request(wishes[0].prompt), options, "-grid.png")
    _place(sample.encoded(sheet, keep=options.metadata), name, sheet, options, given)


def _morph(
    model: Model, source: list[Request] | LineReader, options: Options, given: SampleSettings
) -> None:
    from t2i_cli import prompts, sample

    requests = list(islice(_requests(source), 2))
    if len(requests) != 1:
        raise UsageError(
            "--morph goes from one prompt to another",
            't2i sample "a cat" --morph "a dog" -o morph.gif',
        )
    if not 2 <= given.frames <= 1000:
        raise UsageError(f"--frames {given.frames}: out of range", "use 2 to 1000")
    target = prompts.argument(cast("str", given.morph)).prompt
    path = sample.default_out(requests[0], options, f".{given.format or 'webp'}")
    kind = given.format or "webp"
    if options.out not in (None, "-"):
        kind = os.path.splitext(path)[1][1:].lower()  # noqa: PTH122
    if kind not in ("gif", "webp"):
        raise UsageError(
            f"{path}: an animation is a GIF or a WebP", "write -o morph.gif, or --format webp"
        )
    wish = options.wish(requests[0], options.seed if requests[0].seed is None else requests[0].seed)
    _animate(model, wish, target, given.frames, path, kind, options, given)


def _animate(
    model: Model,
    wish: Wish,
    target: str,
    count: int,
    path: str,
    kind: str,
    options: Options,
    given: SampleSettings,
) -> None:
    from t2i_cli import images, metadata, relatives, sample

    frames = relatives.morph(model, wish, target, count)
    there_and_back = frames + frames[-2:0:-1]
    recipe = dataclasses.replace(
        model.recipe(wish),
        kind="morph",
        to=target,
        frames=count,
        format=kind,
        best_of=1,
        picked=None,
    )
    height, width = frames[0].shape[:2]
    data = images.encode_animation(
        there_and_back,
        cast("Any", kind),
        milliseconds=60,
        text=metadata.to_text(recipe, width, height) if options.metadata else None,
        xmp=metadata.xmp(recipe if options.metadata else None),
    )
    _place(data, path, sample.Picture(frames[0], recipe, 0, False), options, given)


def _vary(
    load: Any, source: list[Request] | LineReader, options: Options, given: SampleSettings
) -> None:
    from t2i_cli import prompts, sample
    from t2i_cli.errors import InputError

    path = cast("str", given.vary)
    requests = list(islice(_requests(source), 2))
    if not requests:
        try:
            requests = [prompts.argument(sample.recipe_of(path).prompt)]
        except InputError:
            raise UsageError(
                f"--vary {path}: say what it shows", f't2i sample "a red cat" --vary {path}'
            ) from None
    if len(requests) != 1:
        raise UsageError("--vary takes one prompt", f't2i sample "a red cat" --vary {path}')
    if not 0 <= given.strength <= 1:
        raise UsageError(f"--strength {given.strength}: out of range", "use 0 to 1")
    wishes = [options.wish(requests[0], options.seed + k) for k in range(options.n)]
    _relatives(load(), wishes, given.strength, 0, options, given)


def _relatives(
    model: Model,
    wishes: list[Wish],
    strength: float,
    start: int,
    options: Options,
    given: SampleSettings,
) -> None:
    """The relatives of --vary from the ``start``-th wish on; the first wish is where the inversion begins."""
    import hashlib

    from t2i_cli import images, relatives, sample

    path = cast("str", given.vary)
    data = sample.picture_bytes(path)
    pixels = images.decode(data, name=path)
    pictures = relatives.vary(model, pixels, wishes, strength=strength)[start:]
    if options.one_path() and len(pictures) > 1:
        raise UsageError(
            f"-o {options.out} is one file, and several pictures were asked for",
            "write {seed} into it",
        )
    from t2i_cli.naming import Fields

    made_of = {
        "strength": float(strength),
        "source": hashlib.sha256(data).hexdigest(),
        "first": wishes[0].seed,
    }
    for k, found in enumerate(pictures):
        recipe = dataclasses.replace(found.recipe, **made_of)
        picture = dataclasses.replace(found, recipe=recipe)
        name = (
            "-"
            if options.out == "-"
            else options.template.expand(Fields(k, k, recipe.seed, recipe.prompt))
        )
        _place(sample.encoded(picture, keep=options.metadata), name, picture, options, given)


def _place(data: bytes, path: str, picture: Any, options: Options, given: SampleSettings) -> None:
    from t2i_cli.naming import write_new
    from t2i_cli.sample import Made

    if options.out == "-":
        console.result_bytes(data)
        return
    if not write_new(path, data, overwrite=options.overwrite):
        if options.skip_existing:
            console.note(f"{visible(path, 200)} was there already")
            return
        raise OutputError(f"{path}: exists", "use -f to overwrite, or another -o")
    if given.json_rows:
        console.result_json(Made(path, picture, 0.0).row())
    else:
        console.result(path)
