"""The page and the picture of a run, read back by an HTML and an XML parser."""

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.task_score import TaskScore
from fugaku_jax.report.curves import LIGHT_AND_DARK, Series, dark_style, draw, inline, smoothed
from fugaku_jax.report.report import write_picture, write_report
from fugaku_jax.report.runs import read_runs
from fugaku_jax.run.metrics import MetricsWriter
from fugaku_jax.run.scores import Grading, save_grading
from fugaku_jax.run.sessions import Seconds, record_seconds, record_session
from fugaku_jax.run.stragglers import Pace, Stragglers, record_stragglers

ROOT = Path(__file__).parents[2]
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """The elements of a page, its text, and whether every element is closed where it should be."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def make_run(run_dir: Path, steps: int = 40, only: str = "", **config: object) -> Path:
    """A run directory with every figure that a run in fp16 has, or with `only` one, to be quick."""
    run_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"model": {"n_layers": 2} | config, "training": {"steps": 50}})
    (run_dir / "config.json").write_text(text)
    with MetricsWriter(run_dir, resume_step=0) as writer:
        for step in range(1, steps + 1):
            figures = {
                "loss": 10 / step,
                "grad_norm": np.inf if step == 2 else 1.0,
                "learning_rate": 1e-3,
                "tokens": 1000 * step,
                "tokens_per_second": 100.0 * step,
                "step_seconds": 2.0,
                "mfu": 0.25,
                "memory_bytes": 2**30 + step,
                "loss_scale": 2.0**15,
                "skipped": step == 2,
            }
            if step % 10 == 0:
                figures |= {
                    "validation_loss": 11 / step,
                    "validation_bits_per_byte": 5 / step,
                    "validation/ja/loss": 12 / step,
                    "validation/ja/bits_per_byte": 6 / step,
                }
                writer.sample(step, "猫は", f"走る{step}")
            writer.write(step, {only: figures[only]} if only else figures)
    return run_dir


def test_the_page_of_a_run_is_one_well_formed_file_that_loads_nothing(tmp_path):
    page = Page(write_report([make_run(tmp_path / "a")], tmp_path / "a" / "report.html"))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "base", "form"}
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "action", "data")
    ]
    assert all(address and address.startswith("#") for address in addresses)
    source = (tmp_path / "a" / "report.html").read_text()
    assert not re.search(r"https?:|@import|url\((?!#)", source)
    assert "default-src 'none'" in source
    assert sorted(path.name for path in tmp_path.joinpath("a").iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "report.html",
        "samples.jsonl",
        "tensorboard",
    ]


def test_the_summary_says_what_the_metrics_say(tmp_path):
    source = write_report([make_run(tmp_path / "a")], tmp_path / "a.html").read_text()
    assert dict(re.findall(r"<div><dt>([^<]*)</dt><dd>([^<]*)</dd></div>", source)) == {
        "Steps": "40 of 50",
        "Tokens": "40.0k",
        "Training loss, last 20 steps": f"{np.mean([10 / s for s in range(21, 41)]):.4f}",
        "Validation loss, nats/token": f"{11 / 40:.4f}",
        "Validation bits/byte": f"{5 / 40:.4f}",
        "Tokens/s, median": "2,050",
        "Model FLOPs used, median": "25.0%",
        "Time in steps": "1:20 min",
        "Peak memory": "1.00 GiB",
        "Steps skipped": "1",
    }


def test_scores_of_runs_stand_side_by_side(tmp_path):
    runs = [make_run(tmp_path / name) for name in "ab"]
    assert ">Scores<" not in write_report(runs, tmp_path / "none.html").read_text()
    for run, value in zip(runs, (0.25, 0.5), strict=True):
        score = TaskScore("gsm8k", "acc", value, 0.04, 100, 0.03, 0.24)
        save_grading(run, Grading("harness", 40, {}, "", (score,)))
    only = TaskScore("held-out ja", "bits a byte", 1.5, None, 1000)
    save_grading(runs[1], Grading("perplexity", 20, {}, "", (only,)))
    rows = Page(write_report(runs, tmp_path / "page.html")).rows
    error = "± 0.0400 of 100, 3.0% contaminated (0.2400 clean), step 40"
    assert ["gsm8k, acc", f"0.2500 {error}", f"0.5000 {error}"] in rows
    assert ["held-out ja, bits a byte", "—", "1.5000 of 1,000, step 20"] in rows


def test_the_summary_says_what_share_of_all_sessions_led_further(tmp_path):
    run = make_run(tmp_path / "a")
    record_session(run, 0, processes=1, devices=1)
    record_seconds(run, Seconds(steps=50.0, compile=10.0, validation=20.0), has_ended=False)
    # It was killed after 15 s more of steps, which the next session took again.
    record_session(run, 20, processes=1, devices=1, repeated=15.0)
    record_seconds(run, Seconds(steps=20.0, restore=5.0), has_ended=True)
    record_session(run, 40, processes=1, devices=1)
    source = write_report([run], tmp_path / "a.html").read_text()
    rows = dict(re.findall(r"<div><dt>([^<]*)</dt><dd>([^<]*)</dd></div>", source))
    assert rows["Goodput"] == f"{70 / 120:.1%} of 2:00 min"
    shares = "validation 16.7%, repeated steps 12.5%, compile 8.3%, restore 4.2%"
    assert rows["The rest of the time"] == shares


def test_the_summary_names_processes_that_were_slow(tmp_path):
    run, page = make_run(tmp_path / "a"), tmp_path / "a.html"
    assert "Slow processes" not in write_report([run], page).read_text()
    slow = Pace("rank 3 (<node003>)", 0.03, 0.0, True), Pace("rank 1", 0.01, 0.0, False)
    record_stragglers(run, Stragglers(3, 0.01, 0.0, slow))
    shown = "<dt>Slow processes</dt><dd>rank 3 (&lt;node003&gt;)</dd>"
    assert shown in write_report([run], page).read_text()


def test_the_page_draws_every_curve_that_the_run_has_and_no_other(tmp_path):
    page = Page(write_report([make_run(tmp_path / "a")], tmp_path / "a.html"))
    assert [svg["aria-label"] for svg in page.tags("svg")] == [
        "Loss by step",
        "Loss by tokens",
        "Validation bits/byte",
        "Throughput",
        "Learning rate",
        "Gradient norm",
        "Loss scale",
    ]
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    (bare / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n')
    page = Page(write_report([bare], tmp_path / "bare.html"))
    assert [svg["aria-label"] for svg in page.tags("svg")] == ["Loss by step"]


HOSTILE = '</dd><script>alert("1")</script>&amp;\x00\x1b'


def test_text_of_the_model_of_the_prompt_and_of_the_configuration_is_shown_not_obeyed(tmp_path):
    run = make_run(tmp_path / "<b>run", only="loss", note=HOSTILE)
    with MetricsWriter(run, resume_step=40) as writer:
        writer.write(41, {"validation/<i>x/loss": 1.0})
        writer.sample(41, HOSTILE, HOSTILE)
    for runs in ([run], [run, make_run(tmp_path / "b", only="loss")]):
        page = Page(write_report(runs, tmp_path / "a.html"))
        assert not page.tags("script")
        assert not page.tags("b")
        assert not page.tags("i")
        # Prompt, text and configuration, which the comparison shows in two places.
        shown = page.text.count('</dd><script>alert("1")</script>&amp;\ufffd\ufffd')
        assert shown == 2 + len(runs)
        assert "<i>x, nats/token" in page.text


def test_japanese_text_says_that_it_is_japanese(tmp_path):
    page = Page(write_report([make_run(tmp_path / "a", only="loss")], tmp_path / "a.html"))
    assert [dd["lang"] for dd in page.tags("dd") if "lang" in dd] == ["ja"] * 4
    assert [span["lang"] for span in page.tags("span") if "lang" in span] == ["ja"]


def test_of_many_samples_the_first_and_the_last_are_among_those_shown(tmp_path):
    run = make_run(tmp_path / "a", only="loss")
    with MetricsWriter(run, resume_step=40) as writer:
        for step in range(41, 100):
            writer.sample(step, "猫は", f"走る{step}")
    text = Page(write_report([run], tmp_path / "a.html")).text
    shown = re.findall(r"走る\d+", text)
    assert len(shown) == 8
    assert (shown[0], shown[-1]) == ("走る10", "走る99")
    assert "8 of 63 samples" in text


def test_a_comparison_lists_the_fields_that_differ_and_only_those(tmp_path):
    runs = [
        make_run(tmp_path / "a", n_heads=2, dropout=0.1),
        make_run(tmp_path / "b", n_heads=4, dropout=0.1, seed=1),
    ]
    page = Page(write_report(runs, tmp_path / "c.html"))
    rows = [row for row in page.rows if row[0].startswith("model.")]
    assert rows == [["model.n_heads", "2", "4"], ["model.seed", "—", "1"]]
    assert ["Tokens", "40.0k", "40.0k"] in page.rows
    assert ["ja, bits/byte", f"{6 / 40:.4f}", f"{6 / 40:.4f}"] in page.rows
    assert [row for row in page.rows if row == ["", "a", "b"]], "columns are named by run"


def test_a_page_says_what_a_run_reads_and_in_which_order(tmp_path):
    runs = [make_run(tmp_path / name, steps=1, only="loss") for name in ("a", "b")]
    for run, digit in zip(runs, "12", strict=True):
        sets = [{"name": "ja", "tokens": 9, "tokens_root": digit * 64, "documents_root": "d" * 64}]
        ledger = {"store_sha256": digit * 64, "sets": sets, "order": {"seed": 3, "batch_size": 8}}
        (run / "ledger.json").write_text(json.dumps(ledger))
    page = Page(write_report(runs[:1], tmp_path / "a.html"))
    for each in ("ledger.order.seed", "ledger.sets.ja.documents_root", "d" * 64, "1" * 64):
        assert each in page.text
    page = Page(write_report(runs, tmp_path / "b.html"))
    assert ["ledger.store_sha256", "1" * 64, "2" * 64] in page.rows
    assert ["ledger.sets.ja.tokens_root", "1" * 64, "2" * 64] in page.rows


def test_runs_of_one_name_are_told_apart_by_more_of_their_paths(tmp_path):
    runs = [make_run(tmp_path / host / "runs" / "tiny", steps=1) for host in ("x", "y")]
    assert [run.name for run in read_runs(runs)] == ["x/runs/tiny", "y/runs/tiny"]


def test_the_same_runs_give_the_same_bytes(tmp_path):
    runs = [make_run(tmp_path / name, only="loss") for name in ("a", "b")]
    pages = [write_report(runs, tmp_path / name).read_bytes() for name in ("1.html", "2.html")]
    assert pages[0] == pages[1]
    for ending in (".svg", ".png"):
        pictures = [write_picture(runs, tmp_path / f"{i}{ending}").read_bytes() for i in range(2)]
        assert pictures[0] == pictures[1]


@pytest.mark.slow
def test_a_picture_of_a_long_run_is_small_and_well_formed(tmp_path):
    run = tmp_path / "long"
    run.mkdir()
    (run / "config.json").write_text("{}")
    noise = np.random.default_rng(0).normal(size=30_000)
    with (run / "metrics.jsonl").open("w") as file:
        for step, value in enumerate(noise, start=1):
            file.write(json.dumps({"step": step, "loss": 3 + 0.1 * value}) + "\n")
    picture = write_picture([run], tmp_path / "docs" / "run.svg")
    assert picture.stat().st_size < 50_000
    root = ET.fromstring(picture.read_bytes())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    labels = {"".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"loss, nats/token", "step", "training", "30k"} <= labels
    assert write_picture([run], tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_every_colour_of_a_drawing_has_a_dark_counterpart():
    x = np.arange(3.0)
    lines = [Series(x, x + i, i) for i in range(len(LIGHT_AND_DARK))]
    drawn = draw(lines, "step", "loss").decode()
    used = set(re.findall(r"(?:stroke|fill): #\w+", drawn))
    rules = set(re.findall(r'\[style\*="([^"]*)"\]', dark_style()))
    assert len(used) > len(LIGHT_AND_DARK)
    grid = {"stroke: #808890"}  # half-transparent, the same on both
    assert used - grid <= rules


def test_numbers_at_the_axes_are_not_rounded_away():
    steps = np.arange(1.0, 9.0)
    drawn = inline(draw([Series(steps, steps * 1e-4)], "step", "learning rate"), "a").split("<")
    labels = [element.rpartition(">")[2].strip() for element in drawn]
    assert "0.0004" in labels


@pytest.mark.parametrize("n", [1, 2, 39, 40, 400])
def test_smoothing_is_the_mean_over_the_neighbours_that_are_known(n):
    values = np.random.default_rng(n).normal(size=n)
    values[::7] = np.nan
    half = int(n / 40 / 2)
    for i, value in enumerate(smoothed(values)):
        near = values[i - min(i, half) : i + min(i, half) + 1]
        known = near[~np.isnan(near)]
        expected = known.mean() if len(known) else np.nan
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_what_is_no_run_is_named(tmp_path):
    run, empty = make_run(tmp_path / "run", steps=1, only="loss"), tmp_path / "empty"
    out = tmp_path / "out.html"
    empty.mkdir()
    for runs, message in (
        ([], "give at least one run"),
        ([run, tmp_path / "none"], "none is no run directory"),
        ([empty], "empty is no run directory"),
        ([run, run], "run is given twice"),
    ):
        with pytest.raises(InputError, match=message):
            write_report(runs, out)
    (empty / "config.json").write_text('{\n"model": ')
    with pytest.raises(InputError, match=r"config\.json is no JSON: .*line 2"):
        write_report([empty], out)
    (empty / "config.json").write_text("{}")
    for metrics in ("", '{"step": 1, "lo'):
        (empty / "metrics.jsonl").write_text(metrics)
        with pytest.raises(InputError, match=r"empty has no step in metrics\.jsonl"):
            write_report([empty], out)
    assert not out.exists()


def test_a_page_that_cannot_be_written_is_an_input_error_and_leaves_nothing(tmp_path):
    run = make_run(tmp_path / "run", steps=1, only="loss")
    with pytest.raises(InputError, match=f"{run} cannot be written"):
        write_report([run], run)
    with pytest.raises(InputError, match=r"run\.gif is no name of a picture"):
        write_picture([run], tmp_path / "run.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def launch(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(ROOT / "launch" / "report.py"), *map(str, arguments)]
    environment = os.environ | environ
    return subprocess.run(program, capture_output=True, text=True, cwd=ROOT, env=environment)


@pytest.mark.slow
def test_the_program_writes_beside_the_run_without_jax_and_a_wrong_directory_exits_with_2(tmp_path):
    run = make_run(tmp_path / "a", steps=2, only="loss")
    done = launch(run, "--picture", tmp_path / "a.svg", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "fugaku_jax.run.metrics" in imported
    assert not imported & {"jax", "jaxlib", "flax", "orbax"}
    assert done.stdout.split() == [str(tmp_path / "a.svg"), str(run / "report.html")]
    assert "<h1>a</h1>" in (run / "report.html").read_text()

    assert launch(run, make_run(tmp_path / "b", steps=2, only="loss")).returncode == 0
    assert "2 runs compared" in (tmp_path / "comparison.html").read_text()

    wrong = launch(tmp_path / "nothing")
    assert wrong.returncode == 2
    assert "nothing is no run directory" in wrong.stderr
    assert "Traceback" not in wrong.stderr
