"""What can go wrong, told to a person: an error tree whose every leaf knows its exit code.

```
T2IError                1  failed
├── UsageError          2  the command line asks for something that cannot be
├── InputError          3  what was given is not valid
│   ├── DataError            a folder of captioned pictures
│   ├── WeightsError         a weights file or a run's state
│   ├── TokenizerError       a tokenizer file
│   └── PromptError          a prompt, or a file of prompts
├── OutputError         1  a result could not be written
├── DeviceError         1  out of memory, or a device that fails
├── TrainingError       1  a run that could not go on
├── PartialError        4  some of what was asked for failed, the rest is written
├── ThresholdError      5  a --fail-if condition holds
└── Stopped       130/143  a signal asked for the end
```

A message says what was expected, what came, and what to do. Text from strangers goes through `visible` first;
`T2IError` does that for its own message, so no error can print a control byte.
"""

from __future__ import annotations

import unicodedata

__all__ = [
    "HIDDEN",
    "DataError",
    "DeviceError",
    "InputError",
    "OutputError",
    "PartialError",
    "PromptError",
    "Stopped",
    "T2IError",
    "ThresholdError",
    "TokenizerError",
    "TrainingError",
    "UsageError",
    "WeightsError",
    "visible",
]

HIDDEN = {
    "Cc",
    "Cf",
    "Cs",
    "Co",
    "Cn",
    "Zl",
    "Zp",
}  # control, format (bidi), surrogate, private, unassigned


def visible(text: object, limit: int = 500) -> str:
    r"""Text from a stranger with every character that could steer a terminal written out as an escape.

    >>> visible("a\x1b[31mred\u202e cat")
    'a\\x1b[31mred\\u202e cat'
    """
    out: list[str] = []
    for char in str(text)[:limit]:
        if unicodedata.category(char) not in HIDDEN or char == "\u200d":
            out.append(char)
        else:
            point = ord(char)
            out.append(
                {9: "\\t", 10: "\\n", 13: "\\r"}.get(point)
                or (
                    f"\\x{point:02x}"
                    if point < 256
                    else f"\\u{point:04x}"
                    if point < 65536
                    else f"\\U{point:08x}"
                )
            )
    return "".join(out) + ("…" if len(str(text)) > limit else "")


class T2IError(Exception):
    """Base of every error that is told to a user in one line.

    Args:
        message: what was expected and what came; control characters are made visible.
        hint: what to do about it, shown after the message.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(visible(message, 2000))
        self.hint = visible(hint, 2000)


class UsageError(T2IError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class InputError(T2IError):
    """What was given (data, weights, tokenizer, prompts) is not valid."""

    exit_code = 3


class DataError(InputError):
    """A folder of captioned pictures is not valid."""


class WeightsError(InputError):
    """A weights file or a run's state is not valid."""


class TokenizerError(InputError):
    """A tokenizer file is not valid."""


class PromptError(InputError):
    """A prompt, or a file of prompts, is not valid."""


class OutputError(T2IError):
    """A result could not be written."""


class DeviceError(T2IError):
    """The device ran out of memory or failed."""


class TrainingError(T2IError):
    """A training run could not go on."""


class PartialError(T2IError):
    """Some of what was asked for failed; the rest is written."""

    exit_code = 4


class ThresholdError(T2IError):
    """A ``--fail-if`` condition holds."""

    exit_code = 5


class Stopped(T2IError):  # noqa: N818 - a stop is no error
    """A signal asked for the end; the work done so far is saved.

    Args:
        signal_number: 2 for SIGINT, 15 for SIGTERM; the exit code is 128 more.
    """

    def __init__(self, signal_number: int, message: str = "stopped") -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
