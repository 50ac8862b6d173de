"""Every parser of strangers' bytes against a few hundred inputs; tests/fuzz/README.md says how to give it millions."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS, seeds


@pytest.mark.parametrize("target", TARGETS)
def test_sound_inputs_are_read(target: str) -> None:
    for seed in seeds(target):
        TARGETS[target](seed)


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "tokenizer"])
def test_any_bytes_are_read_or_refused(target: str) -> None:
    @settings(max_examples=30)
    @given(st.binary(max_size=300))
    def any_bytes(data: bytes) -> None:
        TARGETS[target](data)

    any_bytes()


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "tokenizer"])
def test_changed_inputs_are_read_or_refused(target: str) -> None:
    chance = random.Random(11)
    for _ in range(20 if target in ("weights", "references") else 60):
        TARGETS[target](mutated(chance.choice(seeds(target)), chance))
