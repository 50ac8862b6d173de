"""What a model's captions call things, and what else people call them: the list of `t2i_cli.words`.

Three sources, none of them downloaded: the captions themselves, a table of colour names, and, where a run has a teacher
(`t2i_cli.training.teacher`), the words that it holds for nearest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_cli.words import SHORTEST_SLIP, WORD, Words, stems

__all__ = ["COLOUR_NAMES", "counted", "nearest", "words_of"]

KNOWN = 3  # pictures whose captions have a word, from which on it is never read as another
TIMES = 10  # as many pictures must the other word have as a rarer one that it stands for
NEAR = 0.5  # cosine to a teacher, from which on a word that no caption has is read as a known one
FREQUENT = 0.02  # what a known word's being e times as frequent is worth in cosine

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
    counts: Counter[str],
    near: dict[str, str] | None = None,
    real: Iterable[str] = (),
) -> Words:
    """The list of a model.

    Args:
        counts: of `counted`.
        near: words -> the known words that they are read as, of a teacher or of the model that a run starts from.
        real: words that exist: one that is a slip away from a known word and is read as none is left as it is.
    """
    other = {word: read for word, read in (near or {}).items() if read and counts[read] >= KNOWN}
    other |= _colours(counts)
    other = {
        word: read
        for word, read in other.items()
        if counts[word] < KNOWN and counts[read] >= TIMES * counts[word]
    }
    known = sorted(
        (word for word in counts if word not in other), key=lambda word: (-counts[word], word)
    )
    list_ = Words.of(known, other)
    left = {
        word: ""
        for word in set(real) | {word for word, read in (near or {}).items() if not read}
        if word not in other
        and word not in counts
        and len(word) >= SHORTEST_SLIP
        and not any(stem in other for stem, _ in stems(word))  # "hounds" is read as "dogs"
        and list_.read(word) != word
    }
    return Words.of(known, other | left)


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
    """For each word that no caption has: the known word that a teacher holds for nearest.

    Args:
        words: n of them, those of the captions among them.
        features: fp32 (n, e), the teacher's.
        counts: of `counted`.
        rows: compared at a time.

    Returns:
        Word -> the known word of the highest cosine, frequent ones a little before rare ones, where that cosine is
        over `NEAR`; none for other forms of a known word, which the text encoder reads well. Features are centred
        first, since those of many models share one direction.
    """
    features = F.normalize(features - features.mean(0), dim=1)
    known = [row for row, word in enumerate(words) if counts[word] >= KNOWN]
    unknown = [
        row
        for row, word in enumerate(words)
        if not counts[word] and not any(counts[stem] >= KNOWN for stem, _ in stems(word))
    ]
    if not known:
        return {}
    frequent = torch.tensor([FREQUENT * math.log(counts[words[row]]) for row in known])
    found: dict[str, str] = {}
    for start in range(0, len(unknown), rows):
        some = unknown[start : start + rows]
        cosines = features[some] @ features[known].T
        best = (cosines + frequent).argmax(dim=1)
        columns: list[int] = best.tolist()
        for at, (row, column) in enumerate(zip(some, columns, strict=True)):
            if cosines[at, column] > NEAR:
                found[words[row]] = words[known[column]]
    return found
