"""A template, a prompt and a seed -> a file name that is safe, and bytes -> a whole file under that name.

A template names fields in braces: ``{i}`` (0-based number of the picture), ``{k}`` (number within its prompt),
``{seed}``, ``{slug}`` (the prompt as a file name), ``{id}``, ``{model}``; whole numbers take a width (``{i:05}``).
Whatever a prompt holds, the name stays inside the folder that was asked for, no part of it is longer than
255 bytes, and no file is overwritten that was not meant to be.
"""

from __future__ import annotations

import errno
import os
import re
import string
import sys
import unicodedata
from dataclasses import dataclass
from hashlib import sha256

from t2i_cli.errors import HIDDEN, OutputError, PromptError, UsageError
from t2i_cli.leftovers import hold, sweep_once
from t2i_cli.nodes import open_stream, target_of

__all__ = [
    "DEFAULT_NAME",
    "Fields",
    "Template",
    "expanded",
    "inside",
    "remove_unfinished",
    "safe_part",
    "slug",
    "write_new",
]

DEFAULT_NAME = "{slug}-{seed}"
MAX_PART = 255  # bytes of one part of a path, as Linux, macOS and Windows hold it
_SLUG_BYTES = 80
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_WIDTH = re.compile(r"0?[0-9]{0,2}d?")
_NUMBERS = ("i", "k", "seed")
_TEXTS = ("slug", "id", "model")


@dataclass(frozen=True)
class Fields:
    """What a template may name."""

    i: int
    k: int
    seed: int
    prompt: str
    id: str | None = None
    model: str = ""


@dataclass(frozen=True)
class Template:
    """A path with fields in braces, checked when it is made.

    Args:
        text: the template; ``{{`` and ``}}`` stand for braces.

    Raises:
        UsageError: an unknown field, or a brace that is not closed.
    """

    text: str

    def __post_init__(self) -> None:
        """Refuse what `expand` could not do."""
        try:
            parts = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise UsageError(f"-o {self.text}: {error}", "write {{ for a brace") from None
        for _, name, spec, conversion in parts:
            if name is None:
                continue
            if name not in _NUMBERS + _TEXTS or conversion:
                raise UsageError(
                    f"-o {self.text}: no such field {{{name}}}",
                    "fields: {i} {k} {seed} {slug} {id} {model}, as in 'out/{i:05}-{slug}-{seed}.png'",
                )
            if spec and (name in _TEXTS or not _WIDTH.fullmatch(spec)):
                raise UsageError(
                    f"-o {self.text}: {{{name}:{spec}}} has no such width", "write {i:05}"
                )

    @property
    def names(self) -> frozenset[str]:
        """The fields it names."""
        return frozenset(
            name for _, name, _, _ in string.Formatter().parse(self.text) if name is not None
        )

    @property
    def fixed_folder(self) -> str | None:
        """The folder before its first field, where a stranger's text names a folder in it; else None."""
        parts = list(string.Formatter().parse(self.text))
        strange = [index for index, (_, name, _, _) in enumerate(parts) if name in _TEXTS]
        if not strange or not any("/" in literal for literal, _, _, _ in parts[strange[0] + 1 :]):
            return None
        return os.path.dirname(parts[0][0])  # noqa: PTH120

    @property
    def varies(self) -> bool:
        """Whether it can give more than one path."""
        return bool(self.names - {"model"})

    def expand(self, fields: Fields) -> str:
        """The path for one picture. A slug gives way where a part of the path would be longer than 255 bytes.

        Raises:
            PromptError: ``{id}`` is named and the prompt has none.
        """
        names = self.names
        if "id" in names and fields.id is None:
            raise PromptError(
                "the name asks for {id}, and this prompt has none",
                'write {"prompt": ..., "id": ...}',
            )
        values: dict[str, object] = {
            "i": fields.i,
            "k": fields.k,
            "seed": fields.seed,
            "id": safe_part(fields.id or ""),
            "model": safe_part(fields.model),
        }
        limit = _SLUG_BYTES
        while True:
            values["slug"] = slug(fields.prompt, limit) if "slug" in names else ""
            path = self.text.format_map(values)
            excess = max(len(os.fsencode(part)) for part in path.split("/")) - MAX_PART
            if excess <= 0 or "slug" not in names or limit <= 12:
                return path
            limit = max(12, limit - excess)


def slug(prompt: str, limit: int = _SLUG_BYTES) -> str:
    """A prompt as a part of a file name: letters and digits of any script, the rest ``-``; at most ``limit`` bytes.

    What had to be cut, or left nothing to read, ends in eight hexadecimal digits of the prompt's hash, so that
    different prompts keep different names. 12 is the least limit.

    >>> slug("A red cat, sitting!")
    'a-red-cat-sitting'
    >>> slug("../../etc/passwd")
    'etc-passwd'
    >>> slug("CON")
    'con-prompt'
    """
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", prompt).lower())
    kept = "".join(
        char if unicodedata.category(char)[0] in "LN" or _joins(char) else "-" for char in text
    )
    name = re.sub("-+", "-", kept).strip("-")
    cut = len(name.encode("utf-8", "replace")) > limit
    if cut or not name:
        digest = sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        room = max(0, limit - 9)
        name = name.encode("utf-8", "replace")[:room].decode("utf-8", "ignore").rstrip("-")
        name = f"{name}-{digest}" if name else digest
    return f"{name}-prompt" if _RESERVED.fullmatch(name) else name


def _joins(char: str) -> bool:
    return unicodedata.category(char) in (
        "Mn",
        "Mc",
    )  # vowel signs and accents that are part of a word


def safe_part(text: str) -> str:
    """A text from a stranger as one part of a path: no separator, no control character, no leading dot or dash.

    >>> safe_part("../a b")
    'a b'
    >>> safe_part("-rf")
    'rf'
    """
    kept = "".join(
        char if unicodedata.category(char)[0] in "LNPSM" or char == " " else "_"
        for char in unicodedata.normalize("NFC", text)
    )
    kept = re.sub(r'[/\\:*?"<>|]+', "_", kept)
    name = kept.lstrip(".-_~ ").rstrip(". ")
    raw = name.encode("utf-8", "replace")
    if len(raw) > 120:
        digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        name = raw[:111].decode("utf-8", "ignore") + "-" + digest
    return f"_{name}" if not name or _RESERVED.fullmatch(name) else name


def inside(folder: str, name: str) -> str:
    """``folder/name`` where that stays inside ``folder``, links followed.

    Raises:
        PromptError: absolute, with ``..``, with a NUL or a control character, or through a link that leads out.
    """
    parts = name.replace("\\", "/").split("/")
    bad = (
        "is absolute" if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name)
        else "has .." if ".." in parts
        else "holds a control character" if any(unicodedata.category(char) in HIDDEN for char in name)
        else "begins with -" if name.startswith("-")
        else "is a reserved name" if any(_RESERVED.fullmatch(part) for part in parts)
        else "is no file name" if parts[-1] in ("", ".")
        else ""
    )  # fmt: skip
    if bad:
        raise PromptError(f"out {name!r} {bad}", "give a name inside the folder of -o")
    joined = os.path.join(folder, name)  # noqa: PTH118
    if not _leads_inside(folder, joined):
        raise PromptError(
            f"out {name!r} leads out of {folder or 'this folder'}",
            "give a name inside the folder of -o",
        )
    return joined


def expanded(template: Template, fields: Fields) -> str:
    """The path of one picture; where a prompt names a folder in it, that folder is inside the one that was asked for.

    Raises:
        PromptError: ``{id}`` is named and the prompt has none, or a link of the name that the prompt gives leads out.
    """
    path = template.expand(fields)
    folder = template.fixed_folder
    if folder is None and template.names & {*_TEXTS}:  # a stranger's text names the file alone
        folder = os.path.dirname(path)  # noqa: PTH120
    if folder is not None and not _leads_inside(folder, path):
        raise PromptError(
            f"{path}: a link there leads out of {folder or 'this folder'}", "remove the link"
        )
    return path


def _leads_inside(folder: str, path: str) -> bool:
    """Whether the folder of a path is ``folder`` or inside of it, links followed; what a last link leads to as well."""
    base = os.path.realpath(folder or ".")
    if os.path.islink(path):  # noqa: PTH114
        path = os.path.realpath(path)
    real = os.path.realpath(os.path.dirname(path) or ".")  # noqa: PTH120
    return real == base or real.startswith(base.rstrip(os.sep) + os.sep)


_counter = 0
_unfinished: set[str] = set()  # temporary files that are being written


def write_new(path: str, data: bytes, *, overwrite: bool = False) -> bool:
    """Write a whole file under ``path``, or none: first without a name, then a link that never overwrites.

    Where the system has no nameless files, and to overwrite, it has a temporary name beside ``path``. What a kill left
    under such a name is removed by the next one who writes there so. Folders are made. Where the file system has no
    links, the name is first taken by an empty file and then replaced.

    Args:
        path: where to write.
        data: the file.
        overwrite: replace what is there, by the rule of `t2i_cli.nodes`: a link is followed, a pipe or a device is
            written into.

    Returns:
        False where ``path`` exists and ``overwrite`` is false: it is left as it was.

    Raises:
        OutputError: it could not be written; nothing is left behind.
    """
    global _counter
    _counter += 1
    asked = path
    if overwrite:
        try:
            path, stream = target_of(path)
            if stream:
                fd = open_stream(path)
                try:
                    _write(fd, data)
                finally:
                    os.close(fd)
                return True
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise OutputError(f"{asked}: cannot be written: {reason}", _advice(error)) from error
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".t2i-{os.getpid()}-{_counter}-{os.urandom(4).hex()}.tmp")  # noqa: PTH118
    _unfinished.add(temporary)
    try:
        if "\0" in path or not name or len(os.fsencode(name)) > MAX_PART:
            raise OSError(
                errno.ENAMETOOLONG if name else errno.EISDIR, "not a name that a file can have"
            )
        if folder and not os.path.isdir(folder):  # noqa: PTH112
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        if not overwrite and (placed := _write_nameless(folder, path, data)) is not None:
            return placed
        sweep_once(folder, _is_unfinished)
        fd = _create(temporary)
        while not hold(fd, temporary):
            os.close(fd)
            fd = _create(temporary)
        try:
            _write(fd, data)
            if overwrite:
                os.replace(temporary, path)  # noqa: PTH105
                return True
            return _place(temporary, path)
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"{asked}: cannot be written: {reason}", _advice(error)) from error
    finally:
        _remove(temporary)
        _unfinished.discard(temporary)


def remove_unfinished() -> None:
    """Remove what a signal kept `write_new` from removing; for the end of a process that a signal stopped."""
    for temporary in sorted(_unfinished):
        _remove(temporary)
    _unfinished.clear()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _write_nameless(folder: str, path: str, data: bytes) -> bool | None:
    """Write a file that has no name until it is whole, so that no kill leaves any of it.

    Returns:
        Whether it has got its name, or None where the system cannot do that.
    """
    flag = getattr(os, "O_TMPFILE", 0)
    if not flag:
        return None
    try:
        fd = os.open(folder or ".", flag | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    except OSError:
        return None
    try:
        _write(fd, data)
        try:
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)
        except FileExistsError:
            return False
        except OSError:
            return None
        return True
    finally:
        os.close(fd)


def _is_unfinished(name: str) -> bool:
    return name.startswith(".t2i-") and name.endswith(".tmp")


def _create(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    return os.open(path, flags, 0o666)


def _place(temporary: str, path: str) -> bool:
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    except (OSError, NotImplementedError, AttributeError) as error:
        code = getattr(error, "errno", errno.ENOSYS)
        unsupported = (
            errno.EPERM,
            errno.ENOSYS,
            errno.EOPNOTSUPP,
            errno.EMLINK,
            errno.EXDEV,
            errno.EINVAL,
            errno.EACCES,
        )
        if code not in unsupported and sys.platform != "win32":
            raise
    try:  # no links here: take the name, then put the whole file in its place
        os.close(_create(path))
    except FileExistsError:
        return False
    try:
        os.replace(temporary, path)  # noqa: PTH105
    except OSError:
        _remove(path)
        raise
    return True


def _remove(path: str) -> None:
    try:  # noqa: SIM105 - importing contextlib costs a cold start
        os.unlink(path)  # noqa: PTH108
    except OSError:
        pass


def _advice(error: BaseException) -> str:
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT if hasattr(errno, "EDQUOT") else None):
        return "the disk is full: free some space and run again with --skip-existing"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no right to write there: choose another folder with -o"
    return ""
