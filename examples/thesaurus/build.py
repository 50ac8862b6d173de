"""Words and what else they may be called, out of WordNet: `python build.py WORDNET OUT.txt.gz`.

WORDNET is a folder with the database files of WordNet 3.0 (`data.noun`, `index.noun`, ..., `cntlist.rev`), as
Debian's `wordnet-base` has them. OUT is what `t2i_cli.training.vocabulary` reads: a line a word,
``settee=sofa couch;bench;seat``, with other words, the nearest first; each semicolon is another half of a step away.
A step is about one up or down in WordNet's tree of meanings, the next rarer sense of either word, or from an adjective
to one like it.
"""

from __future__ import annotations

import argparse
import gzip
import re
from collections import defaultdict
from pathlib import Path

SENSES = 4  # of a word, the most frequent
STEPS = 2.5  # away, at most
VERB = 1.0  # steps: pictures are of things and what they are like
KINDS = {"noun": "n", "adj": "a", "verb": "v"}
WORD = re.compile(r"[a-z]{3,}")
PHRASE = re.compile(r"[a-z_]{3,}")  # no names: these have capitals
LIKE = {"n": "@~", "v": "@~", "a": "&^"}  # pointers to what is wider, narrower, similar
MOST = 10  # words of a line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("wordnet", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    synsets = {(pos, at): rest for pos, at, rest in read_synsets(asked.wordnet)}
    seen = counts_of(asked.wordnet)
    senses: dict[str, list[tuple[int, int, int, str, str]]] = defaultdict(list)
    for order, (kind, pos) in enumerate(KINDS.items()):
        for line in lines_of(asked.wordnet / f"index.{kind}"):
            parts = line.split()
            word, count = parts[0], int(parts[2])
            if PHRASE.fullmatch(word):
                for number, at in enumerate(parts[-count:], 1):
                    senses[word].append((-seen[word, pos, number], number, order, pos, at))
    rank_of = {
        (word, pos, at): rank
        for word, found in senses.items()
        for rank, (*_, pos, at) in enumerate(sorted(found))
    }
    met = {word for (word, _, _), count in seen.items() if count}
    lines: list[str] = []
    for word, found in sorted(senses.items()):
        if not WORD.fullmatch(word):
            continue
        costs: dict[str, float] = {}

        def note(synset: tuple[str, str], cost: float) -> None:
            for phrase in synsets[synset][0]:
                if not PHRASE.fullmatch(phrase):
                    continue
                noun = synset[0] == "n"
                other = phrase.rsplit("_", 1)[-1] if noun else phrase  # a hunting dog is a dog
                away = cost + (rank_of.get((phrase, *synset), 0) if other == phrase else 0.5)
                if other in met and WORD.fullmatch(other) and away <= STEPS:
                    costs[other] = min(away, costs.get(other, away))  # noqa: B023

        for rank, (*_, pos, at) in enumerate(sorted(found)[:SENSES]):
            words, pointers = synsets[pos, at]
            far = rank + VERB * (pos == "v")
            if word not in words:  # "Turkey" and the like: a name
                continue
            note((pos, at), far)
            for symbol, there in pointers:
                if symbol[0] not in LIKE[pos]:
                    continue
                # what is narrower is always right (a hat is headgear), what is wider is not (clothing may be socks)
                note(there, far + (1.5 if symbol[0] == "@" else 1))
                if symbol[0] == "@":  # two steps up: a beanie is a skullcap, which is a cap
                    for further, upper in synsets[there][1]:
                        if further[0] == "@":
                            note(upper, far + 2.5)
        costs.pop(word, None)
        nearest = sorted(costs, key=lambda other: (costs[other], other))[:MOST]
        if nearest:
            groups = [
                " ".join(o for o in nearest if int(2 * costs[o]) == half)
                for half in range(int(2 * STEPS) + 1)
            ]
            lines.append(f"{word}={';'.join(groups).rstrip(';')}")
    asked.out.write_bytes(gzip.compress("\n".join(lines).encode() + b"\n", 9, mtime=0))
    print(f"{len(lines):,} words")


def lines_of(path: Path) -> list[str]:
    return [line for line in path.read_text("utf-8").splitlines() if not line.startswith("  ")]


def counts_of(wordnet: Path) -> dict[tuple[str, str, int], int]:
    """How often a sense was met in the texts that WordNet counted."""
    counts: dict[tuple[str, str, int], int] = defaultdict(int)
    for line in (wordnet / "cntlist.rev").read_text("utf-8").splitlines():
        key, number, count = line.split()
        word, rest = key.split("%")
        counts[word, {"1": "n", "2": "v", "3": "a", "5": "a"}.get(rest[0], ""), int(number)] = int(
            count
        )
    return counts


def read_synsets(wordnet: Path):
    """(part of speech, offset, (words, pointers)), a pointer being its symbol and (part of speech, offset)."""
    for kind, pos in (*KINDS.items(), ("adv", "r")):
        for line in lines_of(wordnet / f"data.{kind}"):
            parts = line.split(" | ")[0].split()
            count = int(parts[3], 16)
            words = [re.sub(r"\(.*\)", "", word) for word in parts[4 : 4 + 2 * count : 2]]
            at = 5 + 2 * count
            pointers = [
                (parts[k], (parts[k + 2].replace("s", "a"), parts[k + 1]))
                for k in range(at, at + 4 * int(parts[at - 1]), 4)
            ]
            yield pos, parts[0], (words, pointers)


if __name__ == "__main__":
    main()
