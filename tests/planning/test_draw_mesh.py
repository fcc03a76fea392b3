"""The picture of a mesh shows every device once, where it lies and in the colour of its work."""

import itertools
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fugaku_jax.errors import InputError
from fugaku_jax.layout.assignment import degrees
from fugaku_jax.layout.search import assign
from fugaku_jax.planning.draw_mesh import draw_mesh
from fugaku_jax.planning.unfold import DOTS_PER_INCH, unfold

SMALL = (2, 1, 2, 1, 3, 2)
FUGAKU = (24, 2, 24, 2, 3, 2)


def picture(path, shape, **wanted):
    """The drawn file: its bytes, its words, and the fill of every device in row-major order."""
    assignment = assign(shape, degrees(math.prod(shape), **wanted))
    assert draw_mesh(shape, assignment, path) == path
    data = path.read_bytes()
    tree = ElementTree.fromstring(data)
    words = ["".join(text.itertext()) for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    shapes = next((each for each in tree.iter() if each.get("id") == "PolyCollection_1"), ())
    fills = [re.search(r"fill: (#\w+)", part.get("style", "")) for part in shapes]
    return data, words, [found[1] for found in fills if found]


def test_all_four_kinds_of_24_devices_can_be_read(tmp_path):
    _, words, _ = picture(tmp_path / "mesh.svg", SMALL, tensor=3, pipeline=2, context=2)
    assert "24 devices, 2x1x2x1x3x2" in words
    for heading in ("pipeline 2 on x=2", "data 2 on z=2", "context 2 on c=2", "tensor 3 on b=3"):
        assert heading in words
    roles = [
        f"s{x} r{z} c{c} t{b}"
        for x, _, z, _, b, c in itertools.product(*(range(size) for size in SMALL))
    ]
    shown = [word for word in words if re.fullmatch(r"s\d r\d c\d t\d", word)]
    assert shown == roles  # rank by rank
    assert set(map(str, range(24))) <= set(words)


def test_devices_of_one_stage_replica_and_tensor_group_alone_share_a_colour(tmp_path):
    _, _, fills = picture(tmp_path / "mesh.svg", SMALL, tensor=3, pipeline=2, context=2)
    # Context shards, along c, are groups of their own; so each group has three devices along b.
    by_group: dict[tuple[int, ...], set[str]] = {}
    devices = itertools.product(*(range(size) for size in SMALL))
    for (x, _, z, _, _, c), fill in zip(devices, fills, strict=True):
        by_group.setdefault((x, z, c), set()).add(fill)
    assert len(by_group) == 8
    assert all(len(colours) == 1 for colours in by_group.values())
    assert len(set.union(*by_group.values())) == 8


def test_neighbouring_tensor_groups_differ_in_colour_on_every_axis(tmp_path):
    shape = (4, 2, 3, 2, 3, 2)
    _, _, fills = picture(tmp_path / "mesh.svg", shape, tensor=6)
    colours = np.array(fills).reshape(shape)
    for axis in range(4):  # b and c carry the tensor groups
        first, second = np.delete(colours, 0, axis), np.delete(colours, -1, axis)
        assert (first != second).all()
    assert (colours == colours[..., :1, :1]).all()


def test_without_tensor_parallelism_one_stage_has_one_hue_that_only_grows_lighter(tmp_path):
    _, words, fills = picture(tmp_path / "mesh.svg", (24, 1, 1, 1, 1, 1))
    brightness = [sum(bytes.fromhex(fill[1:])) for fill in fills]
    assert brightness == sorted(brightness)
    assert len(set(fills)) == 24
    assert "data 24 on x=24" in words
    assert not any("tensor" in word or "stage" in word for word in words)


@pytest.mark.slow
def test_the_whole_original_mesh_fits_a_small_file(tmp_path):
    data, words, fills = picture(tmp_path / "mesh.svg", FUGAKU, tensor=6, pipeline=8)
    assert len(data) < 1_000_000
    assert data.count(b"<image") == 1
    assert not fills
    assert "13,824 devices, 24x2x24x2x3x2" in words
    assert "data 288 on x0=3 y=2 z=24 a=2" in words
    assert {"x 0", "z 0", "23", "stage 0", "stage 7", "replica 287"} <= set(words)


@pytest.mark.parametrize("shape", [SMALL, (8, 8, 8, 2, 3, 2)])
def test_the_same_mesh_gives_the_same_file_without_a_date(tmp_path, shape):
    first, *_ = picture(tmp_path / "one" / "mesh.svg", shape, tensor=3)
    second, *_ = picture(tmp_path / "two.svg", shape, tensor=3)
    assert first == second
    assert b"<dc:date>" not in first


def test_one_device_is_a_picture_too(tmp_path):
    _, words, _ = picture(tmp_path / "mesh.svg", (1, 1, 1, 1, 1, 1))
    assert words == ["0", "1 device, 1x1x1x1x1x1", "in a square: rank"]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(
        *(st.integers(1, 30) for _ in range(3)),
        st.integers(1, 2),
        st.sampled_from([1, 3]),
        st.integers(1, 2),
    )
)
def test_no_two_squares_overlap_and_none_leaves_the_page(shape):
    page = unfold(shape)
    # In an image squares of less than two dots would vanish; only then may a page grow wider.
    dots = np.rint(page.corners * DOTS_PER_INCH).astype(int)
    side = round(page.square * DOTS_PER_INCH)
    np.testing.assert_allclose(dots, page.corners * DOTS_PER_INCH, atol=1e-6)
    assert len(dots) == math.prod(shape)
    assert side >= 2
    assert side == 2 or dots[:, 0].max() + side <= 11 * DOTS_PER_INCH
    order = np.lexsort((dots[:, 0], dots[:, 1]))
    x, y = dots[order].T
    same_row = np.diff(y) == 0
    assert (np.diff(x)[same_row] >= side).all()
    rows = np.unique(y)
    assert (np.diff(rows) >= side).all()


def test_a_picture_that_cannot_be_written_is_refused(tmp_path):
    assignment = assign(SMALL, degrees(24))
    with pytest.raises(InputError, match=r"mesh\.png is no name of this picture"):
        draw_mesh(SMALL, assignment, tmp_path / "mesh.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        draw_mesh(SMALL, assignment, tmp_path / "file" / "mesh.svg")
