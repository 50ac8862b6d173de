"""What a model's captions call things, and what else people call them: the list of `t2i_cli.words`.

Four sources, none of them downloaded: the captions themselves, a table of colour names, a thesaurus
(`thesaurus.txt.gz`, made out of WordNet by `examples/thesaurus`), and, where a run has a teacher
(`t2i_cli.training.teacher`), the words that it holds for nearest.
"""

from __future__ import annotations

import functools
import gzip
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_cli.words import SHORTEST_SLIP, WORD, Words, stems

__all__ = ["COLOUR_NAMES", "counted", "nearest", "synonyms", "words_of"]

KNOWN = 3  # pictures whose captions have a word, from which on a model has an idea of it
RARE = 10  # pictures, from which on it is never read as another
TIMES = 10  # as many pictures must the other word have as a rarer one that it stands for
NEAR = 0.5  # cosine to a teacher, from which on a word that no caption has is read as a known one
SAME = 0.75  # the same for a word that captions have, if rarely
FREQUENT = 0.02  # what a known word's being e times as frequent is worth in cosine
FREQUENT_STEPS = 0.2  # the same in steps of the thesaurus
CLOSE = 1.0  # step of the thesaurus, under which two words are all but the same
# what it is worth in cosine that the thesaurus names the word too: a close one, another
AGREED = (0.2, 0.1)
THESAURUS = Path(__file__).with_name("thesaurus.txt.gz")

# a colour's spellings, as captions may have it -> other names for it, and things that lend it theirs: "lemon-coloured"
COLOUR_NAMES: dict[tuple[str, ...], tuple[str, str]] = {
    ("red",): (
        "burgundy cardinal carmine claret crimson garnet maroon ruby scarlet vermilion vermillion",
        "blood brick cherry oxblood poppy strawberry tomato wine",
    ),
    ("orange",): ("amber apricot saffron tangerine", "cantaloupe carrot ginger mandarin persimmon pumpkin"),
    ("yellow",): (
        "blond blonde citrine flaxen gold golden ochre",
        "banana buttercup canary daffodil dandelion lemon maize mustard primrose straw sulphur sunflower",
    ),
    ("green",): (
        "celadon chartreuse emerald jade khaki lime malachite olive verdant viridian",
        "avocado bottle fern forest grass kelly mint moss pea pistachio sage spinach",
    ),
    ("teal", "turquoise", "cyan", "blue"): ("aqua aquamarine cyan teal turquoise verdigris", "petrol"),
    ("blue",): (
        "azure cerulean cobalt navy periwinkle sapphire ultramarine",
        "cornflower denim electric ice lapis midnight ocean prussian royal sky steel",
    ),
    ("purple",): (
        "amethyst indigo lavender lilac mauve violet", "aubergine eggplant grape heliotrope mulberry orchid plum",
    ),
    ("pink",): ("blush cerise coral fuchsia magenta rosy", "bubblegum carnation flamingo hot peach rose salmon"),
    ("brown",): (
        "auburn bronze chestnut hazel mahogany russet sepia sienna tan tawny umber",
        "caramel chocolate cinnamon cocoa coffee copper mocha nut rust toffee walnut",
    ),
    ("black",): ("ebony inky onyx", "charcoal coal ink jet midnight obsidian pitch raven sable soot"),
    ("white",): ("alabaster chalky ivory milky pearly snowy", "chalk cream frost lily milk pearl porcelain snow"),
    ("gray", "grey"): (
        "ashen ashy gray grey leaden pewter silver silvery slate smoky",
        "ash charcoal graphite gunmetal lead smoke steel stone",
    ),
    ("colorful", "colourful", "rainbow"): (
        "colorful colourful motley multicolor multicolored multicolour multicoloured multihued polychrome technicolor "
        "varicolored varicoloured",
        "",
    ),
}  # fmt: skip

_COLOURS = frozenset(spelling for spellings in COLOUR_NAMES for spelling in spellings)


def counted(captions: Iterable[Sequence[str]]) -> Counter[str]:
    """Words of captions -> in how many pictures' they are.

    Args:
        captions: the alternatives of each picture.
    """
    counts: Counter[str] = Counter()
    for alternatives in captions:
        counts.update(
            {word.replace("’", "'") for text in alternatives for word in WORD.findall(text.lower())}
        )
    return counts


def words_of(
    captions: Iterable[Sequence[str]], near: dict[str, str] | None = None, real: Iterable[str] = ()
) -> Words:
    """The list of a model.

    Args:
        captions: the alternatives of each picture.
        near: words -> the known words that they are read as, of a teacher or of the model that a run starts from.
        real: words that exist: one that is a slip away from a known word and is read as none is left as it is.
    """
    captions = list(captions)
    counts = counted(captions)
    colours = _colours(counts)
    # a tangerine is a fruit, a tangerine cat an orange one
    before = {word: read for word, read in colours.items() if KNOWN <= counts[word] < RARE}
    other = synonyms(counts)
    other |= {word: read for word, read in (near or {}).items() if read and counts[read] >= KNOWN}
    other |= {word: read for word, read in colours.items() if counts[word] < KNOWN}
    other = {
        word: read
        for word, read in other.items()
        if word not in before and counts[word] < RARE and counts[read] >= TIMES * counts[word]
    }
    # what a rare word is read as may be rare itself, and is then read as a frequent one
    other = {word: other.get(read, read) for word, read in other.items()}
    known = sorted(
        (word for word in counts if word not in other), key=lambda word: (-counts[word], word)
    )
    list_ = Words.of(known, other)
    exist = {*real, *_thesaurus(), *(word for word, read in (near or {}).items() if not read)}
    # two words one slip apart have one of these in common
    slips = {part for word in known for part in _shortened(word)}
    left = {
        word: ""
        for word in exist
        if word not in other
        and word not in counts
        and len(word) >= SHORTEST_SLIP
        and not slips.isdisjoint(_shortened(word))
        and not any(stem in other for stem, _ in stems(word))  # "hounds" is read as "dogs"
        and list_.read(word) != word
    }
    return Words.of(known, other | left, before, _pairs(captions, before))


def _shortened(word: str) -> set[str]:
    """A word, and what is left of it without one of its letters."""
    return {word, *(word[:at] + word[at + 1 :] for at in range(len(word)))}


def _pairs(captions: Iterable[Sequence[str]], words: Iterable[str]) -> set[str]:
    """Which of some words stand before which others in captions: "snowy mountain"."""
    if not (some := "|".join(map(re.escape, sorted(words)))):
        return set()
    pair = re.compile(rf"\b({some})[ -]([^\W\d_]+)")
    return {
        f"{word} {after}"
        for alternatives in captions
        for text in alternatives
        for word, after in pair.findall(text.lower())
    }


@functools.cache
def _thesaurus() -> dict[str, str]:
    """Words -> their line of the thesaurus, behind the equals sign."""
    lines = gzip.decompress(THESAURUS.read_bytes()).decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


def synonyms(counts: Counter[str]) -> dict[str, str]:
    """For each word of the thesaurus that no caption has, or that few have: the known word that may stand for it.

    Args:
        counts: of `counted`.

    Returns:
        Word -> the known word. The nearest one, frequent ones before rare ones; no colour (a cherry is not a red); none
        for other forms of a known word, and for a word with `KNOWN` pictures none but a word for the same.
    """
    found: dict[str, str] = {}
    for word, line in _thesaurus().items():
        if counts[word] >= RARE or any(counts[stem] >= KNOWN for stem, _ in stems(word)):
            continue
        far = {
            other: steps - FREQUENT_STEPS * math.log(counts[other])
            for other, steps in _said(line)
            if counts[other] >= KNOWN and other not in _COLOURS
            if not steps or counts[word] < KNOWN
        }
        if far:
            found[word] = min(far, key=far.__getitem__)
    return found


def _said(line: str) -> list[tuple[str, float]]:
    """The words of a line of the thesaurus, and how many steps away they are."""
    groups = enumerate(line.split(";"))
    return [(other, half / 2) for half, group in groups for other in group.split()]


def _colours(counts: Counter[str]) -> dict[str, str]:
    """Names of colours -> the colours' names in these captions, for those that have them."""
    found: dict[str, str] = {}
    for spellings, (names, things) in COLOUR_NAMES.items():
        colour = next((word for word in spellings if counts[word] >= KNOWN), "")
        if not colour:
            continue
        endings = ("colored", "coloured", colour)
        for name in f"{names} {things}".split():
            found |= {f"{name}-{ending}": colour for ending in endings}
        for name in names.split():
            if name != colour:
                found.setdefault(name, colour)
    return found


def nearest(
    words: Sequence[str], features: Tensor, counts: Counter[str], rows: int = 256
) -> dict[str, str]:
    """For each word that no caption has, or that few have: the known word that a teacher holds for nearest.

    Args:
        words: n of them, those of the captions among them.
        features: fp32 (n, e), the teacher's.
        counts: of `counted`.
        rows: compared at a time.

    Returns:
        Word -> the known word of the highest cosine, frequent ones and those that the thesaurus names a little before
        others, where that is over `NEAR`, or over `SAME` for a word with `KNOWN` pictures; none for other forms of a
        known word, which the text encoder reads well. Features are centred first, since those of many models share one
        direction.
    """
    features = F.normalize(features - features.mean(0), dim=1)
    known = [row for row, word in enumerate(words) if counts[word] >= KNOWN]
    unknown = [
        row
        for row, word in enumerate(words)
        if counts[word] < RARE and not any(counts[stem] >= KNOWN for stem, _ in stems(word))
    ]
    if not known:
        return {}
    count = torch.tensor([float(counts[words[row]]) for row in known])
    column_of = {words[row]: column for column, row in enumerate(known)}
    found: dict[str, str] = {}
    for start in range(0, len(unknown), rows):
        some = unknown[start : start + rows]
        cosines = features[some] @ features[known].T
        own = torch.tensor([counts[words[row]] for row in some])[:, None]
        for at, row in enumerate(some):
            for other, steps in _said(_thesaurus().get(words[row], "")):
                if other in column_of:
                    cosines[at, column_of[other]] += AGREED[steps >= CLOSE]
        cosines = cosines.masked_fill(count < TIMES * own, -1.0)
        best = (cosines + FREQUENT * count.log()).argmax(dim=1)
        columns: list[int] = best.tolist()
        for at, (row, column) in enumerate(zip(some, columns, strict=True)):
            if cosines[at, column] > (SAME if own[at] >= KNOWN else NEAR):
                found[words[row]] = words[known[column]]
    return found
