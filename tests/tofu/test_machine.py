"""A machine file is read whole, or refused in a sentence that names the file and the field."""

import dataclasses
import re
from pathlib import Path

import pytest

from fugaku_jax.errors import InputError
from fugaku_jax.tofu.machine import Machine, read_machine
from fugaku_jax.tofu.topology import FUGAKU

FILES = sorted((Path(__file__).parents[2] / "configs" / "machines").glob("*.toml"))


def required_fields(kind=Machine) -> list[str]:
    """Names of all fields at any depth without which a file is refused."""
    return [
        name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING
        for name in (
            required_fields(field.type) if dataclasses.is_dataclass(field.type) else [field.name]
        )
    ]


def changed(tmp_path, old: str, new: str) -> Path:
    """Fugaku's file with one line's text replaced."""
    text = next(each for each in FILES if each.stem == "fugaku").read_text()
    assert len(re.findall(old, text, re.MULTILINE)) == 1, old
    path = tmp_path / "changed.toml"
    path.write_text(re.sub(old, new, text, flags=re.MULTILINE))
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_machine_file_is_read(path):
    machine = read_machine(path)
    assert machine.name
    assert machine.node.job_bytes < machine.node.memory_bytes
    assert hash(machine) == hash(read_machine(path))  # models are cached by it


def test_fugaku_is_the_torus_that_jobs_fold_onto():
    machine = read_machine(next(each for each in FILES if each.stem == "fugaku"))
    assert machine.network.shape == FUGAKU.shape
    assert machine.network.nodes == 158_976
    assert machine.node.peak_flops.fp32 == 48 * 2 * 2 * 16 * 2.2e9  # cores, pipelines, FMA, lanes


@pytest.mark.parametrize("field", required_fields())
def test_a_missing_field_is_named_together_with_the_file(tmp_path, field):
    path = changed(tmp_path, rf"^{field} = .*$", "")
    with pytest.raises(InputError, match=rf"{re.escape(str(path))}: (\w+\.)*{field} is missing"):
        read_machine(path)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"changed.toml: node.peak_flops is missing"):
        read_machine(changed(tmp_path, r"^\[node.peak_flops\]", "[node.elsewhere]"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (r"^cores = 48", 'cores = "48"', "node.cores is '48', but it must be a whole number"),
        (r"^cores = 48", "cores = 0", "node.cores is 0, but it must be greater than 0"),
        (r"^core_groups = 4", "core_groups = 5", "node.core_groups is 5, .*divisor of.* 48"),
        (r"^system_bytes = 4", "system_bytes = 99", "system_bytes is .*less than"),
        (r"^fp16 = ", "fp8 = 1e12\nfp16 = ", "node.peak_flops.fp8 is no field"),
        (r"^fp16 = .*", "fp16 = -1.0", "node.peak_flops.fp16 is -1.0, .*greater than 0"),
        (r"^topology = .*", 'topology = "mesh"', "network.topology is 'mesh', .*torus or fat_tree"),
        (r"^shape = .*", "shape = [24, 23]", "network.shape is .*6 sizes, those of x y z a b c"),
        (r"^shape = .*", "shape = [2, 2, 2, 2, 2, 4]", "network.shape is .*at most 2, 3, 2"),
        (
            r"^interfaces = 6",
            "interfaces = 6\nnodes_per_leaf = 2",
            "nodes_per_leaf is 2, .*fat tree",
        ),
        (r"^hop_seconds = .*", "hop_seconds = nan", "network.hop_seconds is nan"),
        (r"^name = .*", "name = ", "not valid TOML"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_may_be(tmp_path, old, new, said):
    with pytest.raises(InputError, match=rf"machine file .*changed.toml: .*{said}"):
        read_machine(changed(tmp_path, old, new))


def test_a_file_that_is_not_there_is_said():
    with pytest.raises(InputError, match=r"machine file none\.toml: cannot be read: No such file"):
        read_machine(Path("none.toml"))
