"""An Orbax that cannot be made to write checksums is refused before it writes anything."""

import pytest

from fugaku_jax.errors import RunError
from fugaku_jax.training.checksums import check_chunks, tensorstore_utils

OTHERS = {
    "it has no such function": None,
    "it takes other arguments": lambda: {"codecs": []},
    "it has no shards": lambda *_: {"codecs": []},
    "its shards have no codecs": lambda *_: {"codecs": [{"name": "bytes"}]},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_an_orbax_that_lists_codecs_otherwise_is_refused_and_left_as_it_is(other, monkeypatch):
    monkeypatch.setattr(tensorstore_utils, "_build_zarr3_metadata", other)
    with pytest.raises(RunError, match=r"Orbax \d+\.\d+\.\d+ lays arrays out in a way"):
        check_chunks()
    assert tensorstore_utils._build_zarr3_metadata is other
