"""Bits that flip without a word are found, and the device is named."""

import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("flipped_bits.py")


@pytest.mark.slow
def test_a_flipped_bit_in_one_devices_copy_is_found_and_the_device_named(run_emulated):
    found = json.loads(run_emulated(PROGRAM, 4).splitlines()[-1])
    for mesh, (whole, replicas, again) in found.items():
        assert whole == ["", "", "", ""], mesh
        # Two alone cannot tell which is right: the first and the last stage without replicas.
        where = "devices 0 (rank 0), 3 (rank 0)" if mesh == "stages alone" else "device 2 (rank 0)"
        assert f"parameters.norm.scale on {where} is not the same as" in replicas, mesh
        assert "is other when the step is taken again" in again, mesh
        assert "safe. Start again without that machine." in again
