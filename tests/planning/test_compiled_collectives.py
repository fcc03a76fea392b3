"""What is read of a compiled program's collectives is what the program was written to do."""

from pathlib import Path

import pytest

from fugaku_jax.planning.compiled_collectives import collectives_of, largest_group

PROGRAM = Path(__file__).with_name("collectives_on_devices.py")
MESH = {"x": 2, "y": 3, "z": 2}
BYTES = 4 * 6 * 4  # of the array that the program sums


@pytest.fixture(scope="module")
def text(tmp_path_factory, run_emulated) -> str:
    out = tmp_path_factory.mktemp("collectives") / "program.txt"
    run_emulated(PROGRAM, 12, out)
    return out.read_text()


def test_kind_members_groups_axes_bytes_and_loops_are_those_of_the_program(text):
    found = [
        (row.kind, row.members, row.groups, row.axes, row.bytes, row.loops, row.count)
        for row in collectives_of(text, MESH)
    ]
    assert found == [
        ("all-reduce", 12, 1, ("x", "y", "z"), BYTES, (), 1),
        ("reduce-scatter", 6, 2, ("x", "y"), 6 * BYTES, (0,), 1),
        ("all-reduce", 4, 3, ("x", "z"), BYTES, (5,), 1),
        ("all-gather", 3, 4, ("y",), 3 * BYTES, (0,), 1),
        ("all-reduce", 3, 4, ("y",), BYTES, (5, 4), 1),
        ("collective-permute", 2, 12, ("x",), BYTES, (), 1),
        ("all-reduce", 1, 12, (), BYTES, (), 1),
    ]


def test_without_the_mesh_no_axis_is_named_and_all_else_is_the_same(text):
    rows = collectives_of(text)
    assert {row.axes for row in rows} == {()}
    assert [row.members for row in rows] == [row.members for row in collectives_of(text, MESH)]
    assert largest_group(rows) == 12


def program(instruction: str) -> str:
    """A program of one instruction for 8 devices."""
    return (
        "HloModule jit_f, is_scheduled=true, num_partitions=8\n\n"
        "ENTRY %main (p: f32[4]) -> f32[4] {\n"
        f"  ROOT %r = {instruction}\n"
        "}\n"
    )


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        # Groups as XLA's documentation of `replica_groups` writes them.
        ("bf16[4]{0} all-reduce(%p), replica_groups=[2,4]<=[8]", ("all-reduce", 4, 2, ("b",), 8)),
        (
            "f32[4]{0} all-reduce(%p), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add",
            ("all-reduce", 2, 4, ("a",), 16),
        ),
        ("pred[5]{0} all-reduce(%p), replica_groups={}", ("all-reduce", 8, 1, ("a", "b"), 5)),
        (
            "f32[4]{0} all-reduce(%p), replica_groups=mesh['m'=2,'n'=4] {'n'}, to_apply=%add",
            ("all-reduce", 4, 2, ("b",), 16),
        ),
        (
            "f32[4]{0} all-reduce(%p), replica_groups=mesh['m'=2,'n'=4] {'m'}, to_apply=%add",
            ("all-reduce", 2, 4, ("a",), 16),
        ),
        (  # of 8 = 2 x 4, counted the other way: (0, 4), (1, 5), ...
            "f32[8]{0} all-gather(%p), replica_groups=mesh['axis_0'=4,'axis_1'=2], "
            "device_ids=([2,4]T(1,0)) {'axis_1'}, dimensions={0}",
            ("all-gather", 2, 4, ("a",), 32),
        ),
        (
            "(f32[4]{0}, u8[3]{0}) all-reduce(%p, %q), replica_groups={{0,1,2},{3,4}}",
            ("all-reduce", 3, 2, ("b",), 19),
        ),
        (
            "(f32[4]{0}, f32[8]{0}) all-gather-start(%p), replica_groups={{0,4},{1,5}}",
            ("all-gather", 2, 2, ("a",), 32),
        ),
    ],
)
def test_groups_are_read_in_every_way_that_xla_writes_them(instruction, expected):
    (row,) = collectives_of(program(instruction), {"a": 2, "b": 4})
    assert (row.kind, row.members, row.groups, row.axes, row.bytes) == expected


def test_what_cannot_be_read_is_an_error_and_not_a_small_group():
    with pytest.raises(ValueError, match=r"written in an unknown way: .*mesh"):
        collectives_of(program("f32[4]{0} all-reduce(%p), replica_groups=mesh['a'=8]"))
    part = program("f32[4]{0} all-reduce(%p), replica_groups=mesh['a'=8] {'a':(2)4}")
    with pytest.raises(ValueError, match=r"written in an unknown way: .*mesh"):
        collectives_of(part)
    with pytest.raises(ValueError, match="no computation is its entry"):
        collectives_of("HloModule jit_f\n")


def test_a_program_without_collectives_has_groups_of_one():
    assert largest_group(collectives_of(program("f32[4]{0} add(%p, %p)"))) == 1
