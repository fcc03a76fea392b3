"""What a person sees of a run in the terminal, in a batch job's output and in `log.txt`."""

import io
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.text import Text

from fugaku_jax.spelling import amount, duration, printable
from fugaku_jax.training.progress import Progress


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(run_dir: Path, steps: int, seconds_a_step: float, first: int = 1, **extra: float) -> str:
    """What a run prints where there is no terminal."""
    stream, clock = io.StringIO(), Clock()
    with Progress(run_dir, first, steps, stream=stream, clock=clock) as progress:
        for step in range(first, steps + 1):
            clock.now += seconds_a_step
            progress.step(step, {"loss": 2.0, "tokens_per_second": 12345.0} | extra)
    return stream.getvalue()


def shown_steps(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"^step +(\d+)/", text, flags=re.MULTILINE)]


def test_a_batch_job_prints_the_first_steps_then_one_line_in_ten_seconds_and_the_last(tmp_path):
    text = run(tmp_path, steps=100, seconds_a_step=0.5)
    assert shown_steps(text) == [1, 2, 3, 23, 43, 63, 83, 100]


def test_a_batch_job_prints_every_step_of_a_slow_run_without_control_codes(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = run(tmp_path, steps=12, seconds_a_step=60.0)
    assert shown_steps(text) == list(range(1, 13))
    assert printable(text) == text


def test_time_left_is_the_pace_since_the_first_step_times_the_steps_to_go(tmp_path):
    clock, stream = Clock(), io.StringIO()
    with Progress(tmp_path, 11, 111, stream=stream, clock=clock) as progress:
        for step, clock.now in ((11, 500.0), (12, 502.0), (13, 506.0)):  # 500 s of compilation
            progress.step(step, {"loss": 2.0})
    lines = stream.getvalue().splitlines()
    assert [line.rpartition(" · ")[2] for line in lines] == [
        "– left",
        "3:18 min left",  # 99 steps to go at 2 s
        "4:54 min left",  # 98 steps to go at (506 - 500) / 2 s
    ]


def test_the_loss_scale_is_shown_in_fp16(tmp_path):
    assert "scale" not in run(tmp_path, 1, 1.0)
    assert "scale 32768 ·" in run(tmp_path, 1, 1.0, loss_scale=32768.0, skipped=0)


def test_every_skipped_step_is_said_in_any_precision(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for stream in (io.StringIO(), Terminal()):
        with Progress(tmp_path, 1, 20, stream=stream, clock=Clock()) as progress:
            for step in range(1, 20):
                progress.step(step, {"loss": 2.0, "skipped": step in (8, 9)})
        lines = re.findall(r"step +(\d+)/20  loss 2.0000 · step skipped", stream.getvalue())
        assert lines == ["8", "9"]


def test_a_validation_is_a_line_of_its_own_with_its_domains(tmp_path):
    stream = io.StringIO()
    validation = {
        "validation_loss": 3.25,
        "validation_bits_per_byte": 1.5,
        "validation/ja/loss": 3.0,
        "validation/ja/bits_per_byte": 1.25,
        "validation/en/bits_per_byte": 1.75,
    }
    with Progress(tmp_path, 1, 1, stream=stream) as progress:
        progress.step(1, {"loss": 2.0} | validation)
    assert stream.getvalue().splitlines()[-1] == (
        "step 1/1  validation loss 3.2500 nats/token, 1.5000 bits/byte (ja 1.2500, en 1.7500)"
    )


def test_the_log_keeps_what_was_printed_with_its_time_over_restarts(tmp_path):
    printed = run(tmp_path, 3, 1.0) + run(tmp_path, 5, 1.0, first=4)
    log = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
    assert [re.sub(f"^{stamp}", "", line) for line in log] == printed.splitlines()
    assert all(re.match(stamp, line) for line in log)


def test_a_terminal_gets_wide_text_above_the_line_and_nothing_wider_than_itself(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    sample = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。" * 3
    with Progress(tmp_path, 1, 2000, stream=terminal) as progress:
        progress.step(1, {"loss": 2.0, "tokens_per_second": 12345.0})
        progress.sample(1, "猫", sample)
    lines = [Text.from_ansi(line).plain for line in re.split(r"[\r\n]+", terminal.getvalue())]
    assert max(map(cell_len, lines)) <= 60
    assert sample in "".join(lines)
    assert "step 1/2,000" in lines[-1] or "step 1/2,000" in lines[-2]
    assert "\x1b[" not in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_generated_text_is_neither_markup_nor_control_codes(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("TERM", "xterm")
    stream = kind()
    with Progress(tmp_path, 1, 2, stream=stream) as progress:
        progress.say("a[bold]b[/bold] [/] \x1b[31mred\x07\ud800")
    for text in (stream.getvalue(), (tmp_path / "log.txt").read_text()):
        assert "a[bold]b[/bold] [/] \ufffd[31mred\ufffd\ufffd" in text


def test_an_ascii_locale_does_not_end_a_run_over_japanese_text(tmp_path):
    raw = io.BytesIO()
    with Progress(tmp_path, 1, 2, stream=io.TextIOWrapper(raw, encoding="ascii")) as progress:
        progress.say("東京 Tokyo")
        assert raw.getvalue() == b"?? Tokyo\n"
    assert "東京 Tokyo" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_durations_and_amounts_are_written_as_people_write_them():
    seconds = [0.4, 59.6, 187, 3600, 18187, 190000, float("inf")]
    assert [duration(value) for value in seconds] == [
        "0 s",
        "1:00 min",
        "3:07 min",
        "1:00:00 h",
        "5:03:07 h",
        "2 d 4 h",
        "–",
    ]
    values = [0, 0.5, 950, 999.4, 999.9, 12345, 99_960, 999_960, 13_167_577_728, 1.2e12]
    assert [amount(value) for value in values] == [
        "0",
        "0.5",
        "950",
        "999",
        "1.00k",
        "12.3k",
        "100k",
        "1.00M",
        "13.2B",
        "1.20T",
    ]
