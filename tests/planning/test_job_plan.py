"""A job's plan: what it says, what it refuses, what a search finds, and the scripts it writes."""

import json
import re
import resource
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro

from fugaku_jax.errors import InputError
from fugaku_jax.layout.mesh import assign_axes
from fugaku_jax.planning import best_layouts
from fugaku_jax.planning.assumptions import OURS
from fugaku_jax.planning.best_layouts import BestLayouts, arguments_of, ranking_as_json
from fugaku_jax.planning.compile import (
    CompiledStep,
    can_emulate,
    compile_emulated,
    emulation_threads,
)
from fugaku_jax.planning.job_plan import as_json, plan_job
from fugaku_jax.planning.levers import levers
from fugaku_jax.planning.measured import measured_of, read_measured
from fugaku_jax.planning.page import write_page
from fugaku_jax.planning.ranking import rank
from fugaku_jax.planning.rates import device_rates
from fugaku_jax.planning.step_work import Matmul
from fugaku_jax.planning.write_job import write_job
from fugaku_jax.tofu.allocation import parse_shape, read_vcoordfile

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs" / "fugaku_llm_13b.py"


def compiled(config, devices=13_824, argument_bytes=3_864_283_556, temporary_bytes=11_169_430_624):
    """What the compiler said of the original's layout, without compiling it again."""
    return CompiledStep(
        parameters=13_167_577_728,
        tokens=config.total_tokens,
        devices=devices,
        seconds=20.0,
        argument_bytes=argument_bytes,
        temporary_bytes=temporary_bytes,
        largest_group=24,
        collectives=(),
        peak_bytes=2_300_000_000,
        learning_rates={},
    )


@pytest.fixture(scope="module")
def original(recipes):
    return recipes["fugaku_llm_13b"]


@pytest.fixture(scope="module")
def plan(original, fugaku):
    return plan_job(original, RECIPE, fugaku, "48x6x48", OURS, compiled=compiled(original))


@pytest.fixture(scope="module")
def small_ranking(original, fugaku):
    """The search of a smaller model on 96 nodes, which takes a second."""
    model = replace(original.model, n_layers=8, d_model=1152, n_heads=12, d_ff=None)
    training = replace(original.training, batch_size=192, micro_batches=1)
    config = replace(original, model=model, training=training)
    return config, rank(config, fugaku, "4x6x4", 96, OURS)


def test_the_json_has_the_keys_that_are_kept(plan):
    said = json.loads(json.dumps(as_json(plan)))
    kept = "devices compile_seconds compile_peak_bytes bytes_per_device largest_group collectives"
    kept += " step_seconds_modelled breakdown mfu_modelled node_hours_modelled"
    assert set(kept.split()) <= set(said)
    assert {"parameters", "optimizer", "temporaries", "total"} <= set(said["bytes_per_device"])
    assert said["bytes_per_device"]["total"] == 3_864_283_556 + 11_169_430_624
    assert sum(said["breakdown"].values()) == pytest.approx(said["step_seconds_modelled"])
    days = said["node_hours_modelled"] / 24 / 13_824
    assert said["days_modelled"] == pytest.approx(days)
    assert said["tokens"] == 96_881 * 2016 * 2048


def test_the_modelled_bytes_are_those_that_were_compiled(plan):
    assert plan.modelled_bytes.total == pytest.approx(plan.bytes.total, rel=0.05)


def test_a_search_gives_layouts_that_fit_and_divide_and_train_the_same_batch(small_ranking, fugaku):
    config, ranking = small_ranking
    assert ranking.tried >= ranking.fitted > 500
    assert len(ranking.best) == 20
    times = [each.time.seconds for each in ranking.best]
    assert times == sorted(times)
    precisions = [each.config.training.precision for each in ranking.best]
    assert precisions.count("fp32") == precisions.count("fp16") == 10
    for each in ranking.best:
        mesh = each.config.mesh
        assert np.prod(list(each.degrees.values())) == 96 * mesh.local
        assert each.bytes.total * mesh.local <= fugaku.node.job_bytes
        assert each.config.training.batch_size == config.training.batch_size
        assert each.config.model == config.model
        assign_axes(mesh, 96 * mesh.local)  # the mesh that training makes


@pytest.mark.slow
def test_a_better_layout_than_one_given_is_found_and_lost_nodes_are_made_up_for(original, fugaku):
    given = plan_job(
        original, RECIPE, fugaku, "48x6x48", OURS, compiled=compiled(original)
    ).time.seconds
    ranking = rank(original, fugaku, "42x6x48:torus", 12_096, OURS, precisions=("fp32",))
    best = ranking.best[0]
    assert best.time.seconds < 0.7 * given
    assert best.config.training.batch_size == 2016


@pytest.mark.parametrize(
    ("nodes", "changes", "sentence"),
    [
        ("48x6x47", {}, "do not fold"),
        ("48x6x48:mesh", {}, "must be a torus"),
        ("100x100x100", {}, "takes at most 82,944"),
        ("some", {}, "no shape that PJM knows"),
        ("42x6x48", {}, "nearest that would do"),
        ("48x6x48", {"tokens": 0}, "--tokens is 0"),
        ("48x6x48", {"tokens": float("nan")}, "--tokens is nan"),
    ],
)
def test_wrong_input_is_refused_in_a_sentence(original, fugaku, nodes, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        plan_job(original, RECIPE, fugaku, nodes, OURS, compiled=compiled(original), **changes)


def test_more_nodes_than_a_machine_has_are_refused(original, cluster):
    with pytest.raises(InputError, match="--nodes 1000000 are 1,000,000 nodes"):
        plan_job(original, RECIPE, cluster, "1000000", OURS, compiled=compiled(original))


def test_what_does_not_fit_says_by_how_many_bytes_and_what_would_help(original, fugaku):
    large = compiled(original, temporary_bytes=28_000_000_000)
    with pytest.raises(InputError) as refused:
        plan_job(original, RECIPE, fugaku, "48x6x48", OURS, compiled=large)
    over = 28_000_000_000 + 3_864_283_556 - int(fugaku.node.job_bytes)
    assert f"{over:,} more than" in str(refused.value)
    assert "--mesh.sequence-parallel would save" in str(refused.value)


def test_measured_rates_take_the_place_of_modelled_ones(fugaku, tmp_path):
    figures = {
        "machine": {"peak_gflops": 6000.0},
        "products": [
            {"contender": "float32 2048x5184x2592 nn", "gflops": 3000.0},
            {"contender": "float32 2048x768x768 nt", "gflops": 1000.0},
        ],
        "attention": [{"contender": "float32 4x2048x12x64", "gflops": 500.0}],
        "adamw": [{"contender": "AdamW over 81.1 M", "gigabytes_per_second": 200.0}],
    }
    rates = device_rates(fugaku, 1, OURS, measured_of(figures, "here"))
    large, small = Matmul(2048, 5184, 2592), Matmul(2048, 768, 768)
    assert rates.product_seconds(large, "fp32") == pytest.approx(large.operations / 3e12, rel=0.01)
    assert rates.product_seconds(small, "fp32") == pytest.approx(small.operations / 1e12, rel=0.01)
    assert rates.stream == 200e9
    # Nothing was measured of fp16, so that is modelled.
    modelled = device_rates(fugaku, 1, OURS)
    assert rates.product_seconds(large, "fp16") == modelled.product_seconds(large, "fp16")
    quarter = device_rates(fugaku, 4, OURS, measured_of(figures, "here"))
    assert quarter.product_seconds(large, "fp32") == 4 * rates.product_seconds(large, "fp32")
    (path := tmp_path / "rates.json").write_text('{"machine": {}}')
    with pytest.raises(InputError, match=r"bench\.py kernels --json"):
        read_measured(path)


@pytest.fixture(scope="module")
def job(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    arguments = ["fugaku_llm_13b", "--run-dir", "runs/13b", "--mesh.weights", "zero1"]
    return write_job(plan, arguments, ROOT / "launch" / "cluster", folder)


def test_a_job_of_pjm_asks_for_what_was_planned(job):
    text = (job / "pjm.sh").read_text()
    assert '#PJM -L "node=48x6x48:torus:strict-io"' in text
    assert "\nnodes=13824\n" in re.sub(r" +#.*", "", text)
    assert f"rank_map={job / 'rank_map.txt'}" in text
    assert "fugaku_llm_13b --run-dir runs/13b --mesh.weights zero1" in text
    assert str(job / "pjm.sh") in (job / "pjm_steps.sh").read_text()
    for script in job.glob("*.sh"):
        subprocess.run(["bash", "-n", script], check=True)


def test_its_rank_map_puts_every_rank_at_its_place_in_the_mesh(job, plan):
    places = read_vcoordfile(job / "rank_map.txt", parse_shape("48x6x48")).torus_coordinates()
    sizes = [part.size for part in plan.links.assignment.parts]
    axes = [part.name[0] for part in plan.links.assignment.parts]
    digits = np.stack(np.unravel_index(np.arange(13_824), sizes), axis=-1)
    expected = np.zeros((13_824, 6), int)
    for axis, size, digit in zip(axes, sizes, digits.T, strict=True):
        column = "xyzabc".index(axis)
        expected[:, column] = expected[:, column] * size + digit
    np.testing.assert_array_equal(places, expected)


def test_elsewhere_the_job_is_slurms_and_mpiruns(recipes, cluster, tmp_path):
    config = recipes["gpt_125m"]
    mesh = replace(config.mesh, data=-1, tensor=2, shape="")
    batch = replace(config.training, batch_size=8, micro_batches=1)
    config = replace(config, mesh=mesh, training=batch)
    step = compiled(config, devices=8, argument_bytes=10**9, temporary_bytes=10**9)
    plan = plan_job(config, ROOT / "configs/gpt_125m.py", cluster, "8", OURS, compiled=step)
    write_job(plan, ["gpt_125m", "--mesh.tensor", "2"], ROOT / "launch" / "cluster", tmp_path)
    slurm = (tmp_path / "slurm.sh").read_text()
    assert "#SBATCH --nodes=8\n#SBATCH --ntasks-per-node=1\n" in slurm
    assert 'set -- gpt_125m --mesh.tensor 2 "$@"' in slurm
    assert 'set -- gpt_125m --mesh.tensor 2 "$@"' in (tmp_path / "mpirun.sh").read_text()


def test_the_arguments_of_a_ranked_layout_make_that_layout(small_ranking):
    config, ranking = small_ranking
    for each in ranking.best[::6]:
        words = shlex.split(arguments_of(config, each))
        flat = replace(config, mesh=replace(config.mesh, recompute_stages=0))
        made = tyro.cli(type(config), default=flat, args=words)
        assert made.training == each.config.training
        assert replace(made.mesh, shape="") == replace(each.config.mesh, shape="")


@pytest.mark.parametrize("most", [96, 384])
def test_the_best_are_compiled_of_those_that_this_machine_can_emulate(
    small_ranking, fugaku, monkeypatch, most
):
    config, ranking = small_ranking
    # One and four processes a node are among them.
    assert {each.config.mesh.local for each in ranking.best} == {1, 4}

    def compile_all(configs, _):
        return [compiled(each, 96 * each.mesh.local, 10**9, 10**9) for each in configs]

    monkeypatch.setattr(best_layouts, "can_emulate", lambda devices: devices <= most)
    monkeypatch.setattr(best_layouts, "compile_emulated", compile_all)
    found = best_layouts.best_layouts(config, RECIPE, fugaku, "4x6x4", OURS)
    chosen = [each for each in ranking.best if 96 * each.config.mesh.local <= most][:5]
    steps = dict(zip(map(id, found.ranking.best), found.compiled, strict=True))
    devices = [step.devices for step in steps.values() if step]
    assert devices == [96 * each.config.mesh.local for each in chosen]
    assert found.plan.degrees == chosen[0].degrees
    rows = ranking_as_json(found)["ranking"]
    assert [bool(row["bytes_compiled"]) for row in rows] == [bool(x) for x in found.compiled]


def test_more_threads_than_linux_allows_are_refused(recipes, monkeypatch):
    wanted, allowed = emulation_threads(1)
    assert 1 < wanted < allowed
    monkeypatch.setattr(resource, "getrlimit", lambda _: (200, 200))
    with pytest.raises(InputError, match=r"1 devices takes 301 threads, but this machine .* 200;"):
        compile_emulated([recipes["tiny"]], [RECIPE.with_name("tiny.py")], 1)
    assert not can_emulate(1)


def test_the_page_shows_the_plan_without_scripts_and_says_what_is_modelled(
    plan, small_ranking, tmp_path
):
    _, ranking = small_ranking
    found = BestLayouts(plan.config, ranking, (None,) * len(ranking.best), plan)
    page = write_page(plan, "fugaku_llm_13b", found, tmp_path / "plan.html").read_text()
    assert "<script" not in page
    assert page.count("<svg") == page.count("</svg>") == 3
    assert page.count("M") > 13_824  # a square for each node
    assert page.count("modelled") > 10
    assert f"{plan.time.seconds:.2f} s" in page
    for row in ranking_as_json(found)["ranking"]:
        assert row["arguments"] in page
    for precision in ("fp16", "fp32"):
        assert f"to the best layout in {precision}" in page
    best = {each.config.training.precision: each.config for each in reversed(ranking.best)}
    for lever in levers(plan.config, best["fp16"], plan.machine):
        assert f"<td>{lever.name}</td><td>{lever.seconds:.2f} s</td>" in page
    assert len(page) < 2_000_000
