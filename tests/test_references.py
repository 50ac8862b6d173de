"""The store of references: what is found, what a seed chooses, and how exact eight bits are."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from t2i_cli.references import (
    CANDIDATES,
    COUNT,
    STYLE_BONUS,
    ReferenceStore,
    quantised_keys,
    quantised_latents,
)

C, N, D = 16, 4, 24


def units(rows: int, dim: int = D, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def cells(rows: int, seed: int = 0) -> np.ndarray:
    """Latents of unit variance in every cell, as the encoder makes them."""
    values = np.random.default_rng(seed).normal(size=(rows, C, N, N)).astype(np.float32)
    values -= values.mean(1, keepdims=True)
    return values / values.std(1, keepdims=True)


def store(
    keys: np.ndarray, attributes: np.ndarray | None = None, sources: np.ndarray | None = None
) -> ReferenceStore:
    rows = len(keys)
    return ReferenceStore.from_arrays(
        {
            **ReferenceStore.empty((C, N, N), D, 0).arrays(),
            "latents": quantised_latents(cells(rows)),
            "keys": quantised_keys(keys),
            "attributes": np.zeros((rows, 0), np.int16)
            if attributes is None
            else attributes.astype(np.int16),
            "sources": np.arange(rows, dtype=np.int32) if sources is None else sources,
        }
    )


def near(query: np.ndarray, cosines: list[float]) -> np.ndarray:
    """Keys of unit norm at given cosines from a query."""
    others = units(len(cosines), seed=5)
    others -= (others @ query)[:, None] * query
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    cos = np.array(cosines, np.float32)[:, None]
    return cos * query + np.sqrt(1 - cos**2) * others


# -- eight bits -------------------------------------------------------------------------------


def test_latents_of_eight_bits_are_off_by_half_a_step_at_most() -> None:
    exact = cells(50)
    read = dataclasses.replace(store(units(50)), latents=quantised_latents(exact)).read(range(50))
    assert read.dtype == np.float32
    step = C**0.5 / 127
    assert np.abs(read - exact).max() <= 0.501 * step
    assert np.abs(exact).max() > 2


def test_the_largest_latent_that_there_is_still_fits() -> None:
    """A cell of variance one whose channels are all zero but one, and beyond it nothing wraps around."""
    one = np.zeros((1, C, 1, 1), np.float32)
    one[0, 3] = C**0.5
    assert quantised_latents(one)[0, 3, 0, 0] == 127
    assert quantised_latents(-one)[0, 3, 0, 0] == -127
    assert quantised_latents(5 * one)[0, 3, 0, 0] == 127
    assert quantised_latents(-5 * one)[0, 3, 0, 0] == -127
    assert quantised_latents(one.astype(np.float16)).dtype == np.int8


def test_similarity_is_the_cosine_to_a_hundredth() -> None:
    keys, query = units(200), units(1, seed=9)[0]
    found = store(keys).similarity(query)
    assert found.dtype == np.float32
    assert np.abs(found - keys @ query).max() < 0.01
    alone = store(keys).similarity(keys[17])
    assert alone.argmax() == 17
    assert alone[17] == pytest.approx(1, abs=0.002)


def test_a_key_without_a_direction_is_near_to_nothing() -> None:
    keys = units(3)
    keys[1] = 0
    found = store(keys).similarity(keys[0])
    assert np.isfinite(found).all()
    assert found[1] == 0


# -- search -----------------------------------------------------------------------------------


def test_the_nearest_are_those_of_a_plain_sort() -> None:
    keys = units(500)
    one = store(keys)
    for seed in range(5):
        query = units(1, seed=100 + seed)[0]
        expected = np.argsort(-one.similarity(query), kind="stable")[:CANDIDATES]
        found = one.nearest(query, None)
        assert found.dtype == np.int64
        assert found.tolist() == expected.tolist()
        assert one.nearest(query, None, 20)[:CANDIDATES].tolist() == expected.tolist()


def test_more_rows_than_are_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one, query = store(units(100)), units(1, seed=3)[0]
    whole = one.similarity(query)
    monkeypatch.setattr("t2i_cli.references._BLOCK", 7)
    assert np.allclose(one.similarity(query), whole, atol=1e-6)


def test_one_drawing_counts_once() -> None:
    """Rows 0 to 4 are one drawing, told by its source; of it the nearest row is taken."""
    query = units(1)[0]
    keys = near(query, [0.90, 0.95, 0.92, 0.91, 0.93, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    sources = np.array([7, 7, 7, 7, 7, 1, 2, 3, 4, 5, 6], np.int32)
    assert store(keys, sources=sources).nearest(query, None).tolist() == [1, 5, 6, 7, 8, 9]
    assert store(keys).nearest(query, None).tolist() == [1, 4, 2, 3, 0, 5]
    for seed in range(50):
        chosen = store(keys, sources=sources).choose(query, None, seed)
        assert len(set(sources[chosen])) == COUNT


def test_the_attributes_asked_for_bring_a_picture_nearer() -> None:
    query = units(1)[0]
    keys = near(query, [0.60, 0.60 - 0.5 * STYLE_BONUS, 0.60 - 1.5 * STYLE_BONUS])
    one = store(keys, attributes=np.array([[0, 0], [1, 0], [1, 1]]))
    plain = one.similarity(query)
    for asked in ([0, 2], [1, 2], [1, 1], [2, 2]):
        same = (one.attributes == np.array(asked)).sum(1)
        expected = plain + STYLE_BONUS * same
        assert np.allclose(one.similarity(query, np.array(asked)), expected, atol=1e-6)
    assert one.nearest(query, None).tolist() == [0, 1, 2]
    assert one.nearest(query, np.array([1, 2])).tolist() == [1, 0, 2]
    assert one.nearest(query, np.array([1, 1])).tolist() == [1, 2, 0]


# -- what a seed chooses ----------------------------------------------------------------------


def test_the_same_seed_chooses_the_same_and_others_choose_others() -> None:
    one, query = store(units(300)), units(1, seed=4)[0]
    chosen = [one.choose(query, None, seed).tolist() for seed in range(60)]
    assert chosen == [one.choose(query, None, seed).tolist() for seed in range(60)]
    assert all(len(set(rows)) == COUNT for rows in chosen)
    candidates = set(one.nearest(query, None).tolist())
    assert {row for rows in chosen for row in rows} == candidates  # each comes, and no other
    assert len({frozenset(rows) for rows in chosen}) > 15  # of the 20 sets of 3 of 6
    first = np.bincount(
        [sorted(candidates).index(rows[0]) for rows in chosen], minlength=CANDIDATES
    )
    assert first.max() < 30  # the nearest has no better chance


CHOSEN = {
    0: [5, 3, 2],
    1: [0, 5, 3],
    2: [2, 0, 1],
    3: [3, 5, 4],
    12345: [5, 3, 2],
    2**63 - 1: [0, 3, 5],
}


def test_the_choice_is_a_promise_that_no_release_breaks() -> None:
    """The same seed draws the same picture, so what a seed chooses is written down here."""
    query = units(1)[0]
    one = store(near(query, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]))
    assert [one.choose(query, None, seed).tolist() for seed in CHOSEN] == list(CHOSEN.values())


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32, 2**62, 2**63 - 1])
def test_every_seed_chooses(seed: int) -> None:
    one, query = store(units(30)), units(1, seed=4)[0]
    assert len(one.choose(query, None, seed)) == COUNT


def test_large_seeds_are_told_apart() -> None:
    one, query = store(units(300)), units(1, seed=4)[0]
    sets = {tuple(one.choose(query, None, 2**63 - 1 - seed)) for seed in range(20)}
    assert len(sets) > 10


@pytest.mark.parametrize("count", [1, 2, 5, 8, 50])
def test_as_many_as_are_asked_for_where_there_are_as_many(count: int) -> None:
    one, query = store(units(20)), units(1, seed=4)[0]
    chosen = one.choose(query, None, 3, count)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, 20)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_store_of_hardly_any_picture(rows: int) -> None:
    one, query = store(units(rows)), units(1, seed=4)[0]
    assert len(one) == rows
    assert one.similarity(query).shape == (rows,)
    assert sorted(one.nearest(query, None).tolist()) == list(range(rows))
    chosen = one.choose(query, None, 0)
    assert sorted(chosen.tolist()) == list(range(rows))
    assert one.read(chosen).shape == (rows, C, N, N)


# -- the file ---------------------------------------------------------------------------------


def test_an_empty_store_has_the_shapes_of_its_model() -> None:
    empty = ReferenceStore.empty((C, N, N), D, 2)
    assert len(empty) == 0
    shapes = {name: (str(array.dtype), array.shape) for name, array in empty.arrays().items()}
    assert shapes["latents"] == ("int8", (0, C, N, N))
    assert shapes["keys"] == ("int8", (0, D))
    assert shapes["attributes"] == ("int16", (0, 2))
    assert shapes["sources"] == ("int32", (0,))
    full = store(units(4), attributes=np.zeros((4, 2))).arrays()
    assert {name: str(array.dtype) for name, array in full.items()} == {
        name: dtype for name, (dtype, _) in shapes.items()
    }


def test_arrays_are_the_whole_store() -> None:
    one = store(units(10), attributes=np.arange(20).reshape(10, 2))
    again = ReferenceStore.from_arrays({**one.arrays(), "more": np.zeros(3)})
    query = units(1, seed=4)[0]
    assert again.choose(query, None, 5).tolist() == one.choose(query, None, 5).tolist()
    assert all(np.array_equal(again.arrays()[name], array) for name, array in one.arrays().items())


def test_reading_keeps_the_order_asked_for() -> None:
    one = store(units(10))
    rows = one.read([7, 2, 7])
    assert np.array_equal(rows[0], rows[2])
    assert np.array_equal(rows[1], one.read(np.array([2]))[0])
    assert not np.array_equal(rows[0], rows[1])
    assert one.read([]).shape == (0, C, N, N)


def test_search_needs_no_torch() -> None:
    code = "import sys; from t2i_cli import references; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
