"""The model of a run for use: how its weights come together."""

import json
from pathlib import Path

from fugaku_jax.collectives.phases import LARGEST_GROUP


def test_weights_that_many_replicas_share_are_gathered_in_small_groups(run_emulated):
    found = json.loads(run_emulated(Path(__file__).with_name("gathered_groups.py"), 64))
    assert found
    assert {kind for kind, _ in found} == {"all-gather"}
    assert all(1 < members <= LARGEST_GROUP for _, members in found)
