"""`launch/plan.py`: what it prints, draws and writes is true of the mesh that training has."""

import importlib
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from fugaku_jax.config import MeshConfig
from fugaku_jax.layout.mesh import assign_axes
from fugaku_jax.pipeline.schedule import KINDS
from fugaku_jax.tofu.allocation import fold, parse_shape, read_vcoordfile

ROOT = Path(__file__).parents[2]
ORIGINAL = "48x6x48:torus:strict-io"
SMALL = (
    *("--model.d-model", "24", "--model.n-heads", "6", "--model.sequence-length", "24"),
    *("--model.vocab-size", "250", "--training.batch-size", "24"),
)


@pytest.fixture
def plan(monkeypatch, capsys):
    """Run the program in this process; return what it prints, or its one sentence if it refuses."""
    monkeypatch.syspath_prepend(ROOT / "launch")
    monkeypatch.setenv("COLUMNS", "100")
    command, program = map(importlib.import_module, ("command", "plan"))
    left = []
    monkeypatch.setattr(command, "leave", left.append)

    def run(*arguments: object, code: int | None = None) -> str:
        monkeypatch.setattr(sys, "argv", ["plan.py", *map(str, arguments)])
        command.run_program(program.main)
        said = capsys.readouterr()
        assert left.pop() == code, said.err
        if code:
            assert re.fullmatch("error: .*\n", said.err)
        return said.err if code else said.out

    return run


def rows(printed: str) -> list[list[str]]:
    """The cells of a printed table."""
    lines = [line for line in printed.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_the_recipe_of_the_original_has_its_degrees_stages_and_bubble(plan):
    said = plan("fugaku_llm_13b")
    assert "13,167,577,728 parameters, 4,128,768 tokens a step" in said
    assert "mesh 24x2x24x2x3x2: " in said
    assert "b=3 tensor, c=2 tensor" in said  # a tensor group is half a unit
    assert "degrees: tensor 6, context 1, data 288, pipeline 8" in said
    assert "1f1b" in said
    assert "modelled bubble: table 50.00%, formula 50.00%" in said  # 7 / (7 + 7)
    assert rows(said) == [
        [str(stage), f"{5 * stage}–{5 * stage + 4}", "yes" if stage < 4 else "no", str(in_flight)]
        for stage, in_flight in enumerate((7, 7, 6, 5, 4, 3, 2, 1))
    ]


def test_bytes_of_the_original_are_those_of_megatrons_shards(plan):
    width, hidden, tensor, layers = 5184, 20_736, 6, 5
    norms_and_output_biases = 4 * width + 2 * width
    shared_by_tensor = 3 * width * (width + 1) + width * width + hidden * (width + 1)
    shared_by_tensor += hidden * width
    block = norms_and_output_biases + shared_by_tensor // tensor
    outside = 49_152 // tensor * width + 2048 * width + 2 * width
    expected = 4 * (layers * block + outside)
    said = plan("fugaku_llm_13b")
    assert f"{expected:,} bytes of parameters, {2 * expected:,} bytes of optimizer state" in said


@pytest.mark.parametrize(("weights", "parts"), [("zero1", (1, 4)), ("fsdp", (4, 4))])
def test_replicas_divide_what_mesh_weights_says(plan, weights, parts):
    def sizes(*mesh: str) -> np.ndarray:
        said = plan("tiny", *SMALL, "--devices", 4, *mesh)
        words = re.search(r"([\d,]+) bytes of parameters, ([\d,]+) bytes of optimizer", said)
        return np.array([int(word.replace(",", "")) for word in words.groups()])

    # Every dimension that matters divides by four; the biases of 72 and of 24 do too.
    np.testing.assert_array_equal(sizes() // parts, sizes("--mesh.weights", weights))


def test_devices_are_those_of_the_flag_or_the_fewest(plan):
    mesh = ("--mesh.tensor", 2, "--mesh.pipeline", 3)
    assert "tensor 2, context 1, data 1, pipeline 3" in plan("tiny", *SMALL, *mesh)
    assert "data 4, pipeline 3" in plan("tiny", *SMALL, *mesh, "--devices", 24)
    assert "a single device" in plan("tiny")


def test_tensor_devices_may_share_positions_that_do_not_divide(plan):
    mesh = ("--mesh.tensor", 6, "--mesh.context", 2, "--mesh.sequence-parallel")
    said = plan("tiny", *SMALL, *mesh, "--model.sequence-length", 8)
    assert "tensor 6, context 2, data 1" in said


def test_runs_of_layers_and_uneven_stages_are_told(plan):
    pipeline = ("tiny", *SMALL, "--mesh.pipeline", 2, "--training.micro-batches", 4)
    said = plan(*pipeline, "--mesh.layers", 1, 2)
    assert [row[1] for row in rows(said)] == ["0", "1–2"]
    said = plan(
        *pipeline, "--model.n-layers", 5, "--mesh.schedule", "interleaved", "--mesh.chunks", 2
    )
    assert [row[1] for row in rows(said)] == ["0–1, 3", "2, 4"]
    assert "modelled bubble: table 11.11%, formula 11.11%" in said  # 1 / (2·4 + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedules_table_and_formula_agree_and_it_is_drawn(plan, kind, tmp_path):
    chunks = 2 if kind == "interleaved" else 1
    picture = tmp_path / "schedule.svg"
    arguments = ("--stages", 4, "--micro-batches", 8, "--chunks", chunks, "--picture", picture)
    said = plan("schedule", "--kind", kind, *arguments)
    table, formula = re.search(r"table (\S+), formula (\S+)", said).groups()
    assert table == formula
    in_flight = {
        "gpipe": [8, 8, 8, 8],
        "1f1b": [4, 3, 2, 1],
        "interleaved": [4 + 2 * (4 - stage) - 1 for stage in range(4)],  # Megatron-LM's
        "zero_bubble": [4, 4, 4, 4],
    }
    assert [int(row[-1]) for row in rows(said)] == in_flight[kind]
    assert picture.read_text().startswith("<?xml")
    assert said.splitlines()[-1] == str(picture)


def test_the_mesh_is_drawn(plan, tmp_path):
    picture = tmp_path / "mesh.svg"
    said = plan("tiny", *SMALL, "--devices", 24, "--mesh.tensor", 6, "--picture", picture)
    assert said.splitlines()[-1] == str(picture)
    assert "24 devices, 4x1x1x2x3x1" in picture.read_text()


def test_a_rank_map_puts_every_rank_where_its_mesh_coordinates_say(plan, tmp_path):
    path = tmp_path / "ranks.txt"
    plan("vcoordfile", "fugaku_llm_13b", "--out", path)
    on_tofu = read_vcoordfile(path, parse_shape(ORIGINAL)).torus_coordinates()
    mesh = MeshConfig(data=288, tensor=6, pipeline=8, shape=ORIGINAL)
    parts = assign_axes(mesh, 13_824).parts
    assert any(part.name[1:] for part in parts)  # one axis at least is split
    # Oracle: count through the mesh as an odometer does, and put split axes together again.
    counted = itertools.product(*(range(part.size) for part in parts))
    for rank, digits in enumerate(counted):
        place = dict.fromkeys("xyzabc", 0)
        for part, digit in zip(parts, digits, strict=True):
            place[part.name[0]] = place[part.name[0]] * part.size + digit
        assert tuple(place.values()) == tuple(on_tofu[rank])
    assert rank == 13_823


def test_tensor_groups_of_the_rank_map_stay_in_half_a_unit_and_stages_are_a_hop_apart(
    plan, tmp_path
):
    path = tmp_path / "ranks.txt"
    plan("vcoordfile", "fugaku_llm_13b", "--out", path)
    job = parse_shape(ORIGINAL)
    torus, places = fold(job), read_vcoordfile(path, job).torus_coordinates()
    groups = places.reshape(-1, 6, 6)  # tensor ranks follow each other
    assert torus.distance(groups[:, :, None], groups[:, None]).max() == 2
    stages = places.reshape(3, 8, -1, 6)  # of x0 = 3 data, x1 = 8 pipeline
    assert (torus.distance(stages[:, 1:], stages[:, :-1]) == 1).all()


def test_a_job_can_be_given_where_the_recipe_has_no_torus(plan, tmp_path):
    path = tmp_path / "ranks.txt"
    arguments = (*SMALL, "--mesh.tensor", 6, "--out", path)
    assert plan("vcoordfile", "tiny", *arguments, "--job", "2x3x2") == f"{path}\n"
    job = parse_shape("2x3x2")
    expected = list(itertools.product(range(2), range(3), range(2)))
    np.testing.assert_array_equal(read_vcoordfile(path, job).torus_coordinates()[:, 3:], expected)
    six = ("--mesh.shape", "1x1x1x2x3x2", "--job", "2x3x2")
    assert plan("vcoordfile", "tiny", *arguments, *six) == f"{path}\n"


def test_the_devices_of_a_node_share_its_coordinate_and_its_square(plan, tmp_path):
    path, picture = tmp_path / "ranks.txt", tmp_path / "mesh.svg"
    local = ("tiny", *SMALL, "--mesh.tensor", 6, "--mesh.local", 2, "--mesh.shape", "2x3x2")
    said = plan(*local, "--picture", picture)
    assert "mesh 1x1x1x2x3x2: a=2 data, b=3 tensor, c=2 data, k=2 tensor" in said
    assert "tensor 6, context 1, data 4, pipeline 1" in said
    plan("vcoordfile", *local, "--out", path)
    job = parse_shape("2x3x2")
    places = read_vcoordfile(path, job, ranks_per_node=2).torus_coordinates()
    nodes = np.array(list(itertools.product((0,), (0,), (0,), range(2), range(3), range(2))))
    np.testing.assert_array_equal(places, np.repeat(nodes, 2, axis=0))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "is no recipe; there are .*tiny"),
        (("tinny",), "'tinny' is no recipe; there are .*tiny"),
        (("schedul", "--stages", 2), "'schedul' is no recipe"),
        (("tiny", "--mesh.tensr", 2), "--mesh.tensr.*perhaps you meant --mesh.tensor"),
        (("tiny", "--devices", 0), "--devices is 0"),
        (("tiny", "--devices", 6, "--mesh.tensor", 4), "mesh.tensor 4 .*does not divide 6"),
        (("tiny", "--devices", 3, "--mesh.tensor", 3), "model.n_heads is 4.* 3 mesh.tensor"),
        (
            ("tiny", "--mesh.context", 2, "--model.sequence-length", 12),
            "is 12, but each of the 2 devices of mesh.context must get a multiple of 4",
        ),
        (("tiny", "--mesh.pipeline", 4), "mesh.pipeline is 4, but model.n_layers is 3"),
        (("fugaku_llm_13b", "--devices", 24), "mesh.data 288"),
        (("fugaku_llm_13b", "--mesh.shape", "48x6x24:torus"), "is 13824, but it must be 6912"),
        (("tiny", "--picture", "mesh.png"), "let it end in .svg"),
        (("schedule", "--kind", "2f2b", "--stages", 2, "--micro-batches", 2), "'2f2b'.*1f1b"),
        (("schedule", "--kind", "1f1b", "--stages", 2), "--micro-batches"),
        (("vcoordfile", "tiny", "--out", "ranks.txt"), "--job and mesh.shape are empty"),
        (("vcoordfile", "tiny", "--job", "2x3", "--out", "no/ranks.txt"), "cannot be written"),
        (
            ("vcoordfile", "fugaku_llm_13b", "--job", "24x12x48:torus", "--out", "ranks.txt"),
            "folds to 12x4x24x2x3x2, but mesh.shape 48x6x48:torus:strict-io is 24x2x24x2x3x2",
        ),
    ],
)
def test_wrong_input_gets_one_sentence(plan, arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "2x3" in arguments:
        arguments = (*arguments, "--training.batch-size", 24)
    assert re.search(sentence, plan(*arguments, code=2))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_small_job_is_compiled_modelled_drawn_and_written(plan, tmp_path):
    page, job = tmp_path / "plan.html", tmp_path / "job"
    arguments = ("tiny", *SMALL, "--nodes", 2, "--machine", "server", "--mesh.tensor", 2)
    said = json.loads(plan(*arguments, "--json", "--html", page, "--job", job))
    assert said["devices"] == 2
    assert said["largest_group"] == 2
    assert said["compile_peak_bytes"] > 10**8
    held = said["bytes_per_device"]
    assert held["total"] == held["parameters"] + held["optimizer"] + held["temporaries"]
    assert {"all-reduce"} <= {row["kind"] for row in said["collectives"]}
    assert said["node_hours_modelled"] > 0
    assert "2 of server" in page.read_text()
    assert "--mesh.tensor 2" in (job / "slurm.sh").read_text()


def test_a_machine_that_is_not_there_and_a_file_that_lacks_a_field_are_told(plan, tmp_path):
    arguments = ("tiny", *SMALL, "--nodes", 2, "--machine")
    assert "there are cluster, fugaku" in plan(*arguments, "abacus", code=2)
    whole = (ROOT / "configs" / "machines" / "server.toml").read_text()
    (path := tmp_path / "mine.toml").write_text(re.sub(r"(?m)^memory_bytes =.*\n", "", whole))
    said = plan(*arguments, path, code=2)
    assert "mine.toml" in said
    assert "memory_bytes" in said
    assert "give their number" in plan(*arguments, "server", "--nodes", "2x2", code=2)
