"""What a run records, against plain JSON and the event files read back."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fugaku_jax.errors import InputError
from fugaku_jax.run.metrics import (
    MetricsWriter,
    read_metrics,
    read_samples,
)


def record(run_dir: Path, first: int, last: int, loss: float = 1.0) -> None:
    with MetricsWriter(run_dir, resume_step=first - 1) as writer:
        for step in range(first, last + 1):
            writer.write(step, {"loss": loss, "tokens": step * 512})
            writer.sample(step, "昔々", "おじいさん")


def steps(run_dir: Path) -> list[float]:
    return [line["step"] for line in read_metrics(run_dir)]


def test_what_is_written_is_read_back_exactly(tmp_path):
    loss = float(np.float32(2.3456789))
    with MetricsWriter(tmp_path, resume_step=0) as writer:
        writer.write(1, {"loss": loss, "tokens": 10**13})
        writer.write(2, {"loss": np.float32(2.5), "tokens": np.int64(7), "skipped": True})
        writer.sample(1, "日本", "の<b>首都</b>\nは")
    assert read_metrics(tmp_path) == [
        {"step": 1, "loss": loss, "tokens": 10**13},
        {"step": 2, "loss": 2.5, "tokens": 7, "skipped": 1},
    ]
    assert read_samples(tmp_path) == [{"step": 1, "prompt": "日本", "text": "の<b>首都</b>\nは"}]


def test_a_line_can_be_read_before_the_writer_is_closed(tmp_path):
    with MetricsWriter(tmp_path, resume_step=0) as writer:
        writer.write(1, {"loss": 3.0})
        assert steps(tmp_path) == [1]


def test_not_finite_values_are_strict_json_and_come_back_as_nan(tmp_path):
    with MetricsWriter(tmp_path, resume_step=0) as writer:
        writer.write(1, {"loss": math.nan, "grad_norm": np.float32(math.inf)})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=refuse) == {"step": 1, "loss": None, "grad_norm": None}
    (line,) = read_metrics(tmp_path)
    assert math.isnan(line["loss"])
    assert math.isnan(line["grad_norm"])


@pytest.mark.parametrize("cut", range(0, 45, 4))
def test_resuming_after_a_crash_leaves_one_continuous_history(tmp_path, cut):
    record(tmp_path, 1, 9, loss=1.0)
    for name in ("metrics.jsonl", "samples.jsonl"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[: -cut or None])
    record(tmp_path, 6, 12, loss=2.0)
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [
        *((step, 1.0) for step in range(1, 6)),
        *((step, 2.0) for step in range(6, 13)),
    ]
    assert [line["step"] for line in read_samples(tmp_path)] == list(range(1, 13))
    assert not list(tmp_path.glob(".*"))


def test_a_block_of_zeros_after_a_power_cut_is_dropped(tmp_path):
    record(tmp_path, 1, 4)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(bytes(4096))
    record(tmp_path, 5, 5)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]


def test_a_fresh_start_in_an_old_directory_forgets_the_old_figures(tmp_path):
    record(tmp_path, 1, 9)
    record(tmp_path, 1, 2)
    assert steps(tmp_path) == [1, 2]


def test_a_cut_last_line_is_passed_over_and_a_bad_line_before_it_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert steps(tmp_path) == [1]
    for bad in ("{", "[1]", '{"loss": 1.0}', '{"step": "two"}', ""):
        path.write_text(f'{{"step": 1}}\n{bad}\n{{"step": 3}}\n')
        with pytest.raises(InputError, match=r"metrics\.jsonl, line 2,"):
            read_metrics(tmp_path)
        with pytest.raises(InputError, match=r"metrics\.jsonl, line 2,"):
            MetricsWriter(tmp_path, resume_step=1)
        assert path.read_text().count("\n") == 3, "a file that cannot be read is left as it is"


def test_no_metrics_file_is_an_input_error_that_names_it(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.jsonl cannot be read"):
        read_metrics(tmp_path)
    assert read_samples(tmp_path) == []


def events(run_dir: Path) -> list:
    """All events under `run_dir`, parsed from the record format that TensorBoard documents."""
    event: Any = importlib.import_module("tensorboardX.proto.event_pb2").Event
    found = []
    for path in sorted((run_dir / "tensorboard").iterdir(), key=lambda path: path.stat().st_ino):
        data = path.read_bytes()
        while data:  # uint64 length, uint32 checksum, payload, uint32 checksum
            length = int.from_bytes(data[:8], "little")
            found.append(event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_tensorboard_gets_the_same_figures_and_is_told_what_to_purge(tmp_path):
    record(tmp_path, 1, 4, loss=1.5)
    with MetricsWriter(tmp_path, resume_step=3) as writer:
        writer.write(4, {"loss": 2.5, "grad_norm": math.inf})
    scalars = [
        (event.step, value.tag, value.simple_value)
        for event in events(tmp_path)
        for value in event.summary.value
        if not value.tag.startswith("sample/")
    ]
    assert sorted(scalars) == sorted(
        [(step, "loss", 1.5) for step in range(1, 5)]
        + [(step, "tokens", step * 512.0) for step in range(1, 5)]
        + [(4, "loss", 2.5)]
    )
    purges = [event.step for event in events(tmp_path) if event.session_log.status == 1]
    assert purges == [4]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_writing_metrics_does_not_import_torch_and_leaves_it_importable(tmp_path):
    run_python(
        "import importlib.util, pathlib, sys\n"
        "from fugaku_jax.run.metrics import MetricsWriter\n"
        f"MetricsWriter(pathlib.Path({str(tmp_path)!r}), 0).close()\n"
        "assert 'torch' not in sys.modules\n"
        "importlib.util.find_spec('torch')\n"
    )


@pytest.mark.slow
def test_peak_memory_counts_bytes_of_this_process():
    run_python(  # a process of its own, whose peak nothing has raised before
        "from fugaku_jax.run.metrics import peak_memory_bytes\n"
        "before = peak_memory_bytes()\n"
        "del (held := bytearray(b'x') * (before + 2**26))[:]\n"
        "assert before + 2**26 < peak_memory_bytes() < 3 * before + 2**28\n"
    )


def run_python(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True)
