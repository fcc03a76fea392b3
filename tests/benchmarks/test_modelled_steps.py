"""The step-time model of small layouts, given speeds of kernels; what is measured is not tested."""

from pathlib import Path

import pytest

from fugaku_jax.benchmarks.modelled_steps import LAYOUTS, model
from fugaku_jax.benchmarks.scaling import ScalingShape
from fugaku_jax.benchmarks.step_parts import kinds_of
from fugaku_jax.tofu.machine import read_machine

SERVER = Path(__file__).parents[2] / "configs" / "machines" / "server.toml"


def test_processes_share_the_speed_that_was_measured_and_send_what_they_must():
    figures = {
        "machine": {"peak_gflops": 400.0},
        "products": [{"contender": "float32 2048x384x1536 nn", "gflops": 200.0}],
        "attention": [{"contender": "float32 8x256x6x64", "gflops": 100.0}],
        "adamw": [{"contender": "AdamW over 8.7 M", "gigabytes_per_second": 20.0}],
    }
    machine, shape = read_machine(SERVER), ScalingShape()
    one, data, tensor, both = (model(layout, shape, machine, figures) for layout in LAYOUTS)
    operations = one.operations
    # Every product at 200 GFLOP/s, attention (7/12 of its operations) at 100, the rest beside it.
    assert one.seconds > operations * 0.9 / 200e9
    # Each of two replicas has as many rows, and half of the machine.
    assert data.breakdown["products"] == pytest.approx(2 * one.breakdown["products"])
    assert data.breakdown["gradients"] > 0
    assert tensor.breakdown["products"] == pytest.approx(one.breakdown["products"])
    assert tensor.breakdown["tensor"] > 0
    assert both.seconds > data.seconds


def test_instructions_of_a_program_are_told_apart_by_what_they_do():
    program = """
  %while.1 = (s32[], f32[4]{0}) while(%tuple), condition=%c, body=%b
  %ffi_call.2 = f32[4]{0} custom-call(%x), custom_call_target="fugaku_matmul_avx2"
  %ffi_call.3 = (f32[4]{0}) custom-call(%x), custom_call_target="fugaku_attention_forward_avx2"
  %ffi_call.4 = f32[4]{0} custom-call(%x), custom_call_target="fugaku_sum_of_squares_avx2"
  %ffi_call.5 = f32[4]{0} custom-call(%x), custom_call_target="fugaku_torus_done"
  %ffi_call.6 = f32[4]{0} custom-call(%x), custom_call_target="fugaku_layer_norm_avx2"
  %all-reduce.7 = f32[4]{0} all-reduce(%x), replica_groups={}, to_apply=%add
  %gather.8 = (f32[4]{0}, f32[8]{0}) all-gather-start(%x), dimensions={0}
  ROOT %dot.9 = f32[4,4]{1,0} dot(%x, %y), lhs_contracting_dims={1}
  %fusion.10 = f32[4]{0} fusion(%x), kind=kLoop, calls=%inside
"""
    kinds = kinds_of(program)
    assert list(kinds.values()) == [
        *("", "products", "attention", "optimizer", "messages", "memory"),
        *("messages", "messages", "products", "memory"),
    ]
