"""What XLA is told on an A64FX, and nowhere else; and which cores are ours."""

import os

import pytest

from fugaku_jax import processor

ISA = "--xla_cpu_max_isa=SVE"
WIDTH = "--xla_backend_extra_options=-aarch64-sve-vector-bits-min=512"


def flags(monkeypatch, given):
    monkeypatch.setattr(processor, "is_a64fx", lambda: True)
    monkeypatch.setenv(processor.FLAGS_VARIABLE, given)
    processor.widen_fused_loops()
    return os.environ[processor.FLAGS_VARIABLE]


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ("", f"{ISA} {WIDTH}"),
        ("--xla_dump_to=d", f"--xla_dump_to=d {ISA} {WIDTH}"),
        ("--xla_cpu_max_isa=NEON", f"--xla_cpu_max_isa=NEON {WIDTH}"),
        (f"{ISA} {WIDTH}", f"{ISA} {WIDTH}"),  # as in a process that one of ours started
        ("a_file_of_flags", "a_file_of_flags"),
    ],
)
def test_flags_for_wide_vectors_are_added_to_what_the_user_has_not_set(monkeypatch, given, then):
    assert flags(monkeypatch, given) == then


def test_another_processor_gets_no_flags(monkeypatch):
    monkeypatch.delenv(processor.FLAGS_VARIABLE, raising=False)
    monkeypatch.setattr(processor, "is_a64fx", lambda: False)
    processor.widen_fused_loops()
    assert processor.FLAGS_VARIABLE not in os.environ


def test_no_x86_has_registers_of_sve(monkeypatch):
    monkeypatch.setattr(processor, "features", lambda: frozenset(["sve", "0x46", "0x001"]))
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    assert processor.vector_bytes() == 0
    assert not processor.is_a64fx()


def test_where_the_system_does_not_say_which_cores_are_ours_all_are(monkeypatch):
    for name in ("sched_getaffinity", "sched_setaffinity"):  # macOS has neither
        monkeypatch.delattr(os, name, raising=False)
    assert processor.available_cores() == list(range(os.cpu_count() or 1))
    processor.bind([0])
