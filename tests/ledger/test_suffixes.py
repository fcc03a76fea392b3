"""A suffix array finds what a plain search finds."""

import numpy as np
import pytest

from fugaku_jax.ledger.suffixes import Suffixes, big_endian, suffix_array


@pytest.fixture(params=[(2, 3, 400), (2, 65_536, 400), (4, 70_000, 300), (2, 2, 50)])
def tokens(request):
    """A text of tokens, and bytes a token."""
    width, vocab_size, size = request.param
    drawn = np.random.default_rng(7).integers(0, vocab_size, size)
    return np.concatenate([drawn, drawn[size // 3 : size // 2], [vocab_size - 1] * 9]), width


@pytest.fixture
def suffixes(tokens):
    """It, with its suffix array."""
    text, width = big_endian(*tokens), tokens[1]
    return Suffixes(text, suffix_array(text, width), width)


def places(tokens, wanted):
    return [i for i in range(len(tokens)) if tokens[i : i + len(wanted)] == wanted]


def test_places_are_in_the_order_of_what_follows(tokens, suffixes):
    tokens = tokens[0].tolist()
    assert suffixes.places.tolist() == sorted(range(len(tokens)), key=lambda i: tokens[i:])


def test_what_is_found_is_what_a_plain_search_finds(tokens, suffixes):
    (tokens, width), random = tokens, np.random.default_rng(8)
    for _ in range(200):
        first, length = random.integers(0, len(tokens)), random.integers(1, 30)
        wanted = tokens[first : first + length].copy()
        if random.random() < 0.5:  # part of it stands nowhere, or elsewhere
            wanted[random.integers(0, len(wanted))] = random.choice(tokens)
        listed = wanted.tolist()
        longest = max(n for n in range(len(listed) + 1) if places(tokens.tolist(), listed[:n]))
        assert suffixes.longest(big_endian(wanted, width)) == longest
        found = suffixes.find(big_endian(wanted, width))
        assert sorted(found.tolist()) == places(tokens.tolist(), listed)


def test_an_empty_text_has_nothing():
    empty = Suffixes(b"", suffix_array(b"", 2), 2)
    assert empty.longest(b"\0\1") == 0
    assert len(empty.find(b"\0\1")) == 0


def test_files_of_another_size_are_refused(tmp_path):
    text = big_endian(np.arange(9), 2)
    (tmp_path / "text").write_bytes(text)
    (tmp_path / "places").write_bytes(suffix_array(text, 2).tobytes())
    assert Suffixes.open(tmp_path / "text", tmp_path / "places", 9, 2).longest(text[4:]) == 7
    with pytest.raises(ValueError, match="text has 18 bytes where 20 belong"):
        Suffixes.open(tmp_path / "text", tmp_path / "places", 10, 2)
    with pytest.raises(ValueError, match="nothing has None bytes where 36 belong"):
        Suffixes.open(tmp_path / "text", tmp_path / "nothing", 9, 2)
