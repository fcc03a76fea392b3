"""Names in files lead nowhere but into their folder; symbolic links are the user's own."""

import json
import re
import shutil

import numpy as np
import pytest
import tensorstore as ts
from fuzz_models import archive, megatron_pickle
from fuzz_targets import TARGETS, rehashed, saved_weights
from small_inputs import as_json, small_store

from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError
from fugaku_jax.interop.megatron_files import open_files

OUTSIDE = ("../other", "/other", "..", ".", "inner/../../other", "inner/other")


@pytest.fixture
def folder(tmp_path):
    """A folder, beside which and in which there is another."""
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", [*OUTSIDE, "x\0", "x" * 300])
def test_an_index_of_shards_that_names_a_file_elsewhere_is_refused(name, folder):
    _, read = TARGETS["index_of_shards"](folder)
    for there in (folder.parent, folder / "inner"):
        shutil.copy(next(folder.glob("*.safetensors")), there / "other")
    with pytest.raises(InputError, match=r"which is no file of|which is missing"):
        read(as_json({"weight_map": {"a": name, "b": name}}))


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_megatron_checkpoint_that_names_a_folder_elsewhere_is_refused(name, folder):
    for there in (folder.parent, folder / "inner"):
        (there / "other" / "mp_rank_00").mkdir(parents=True)
        model = there / "other" / "mp_rank_00" / "model_optim_rng.pt"
        model.write_bytes(archive(megatron_pickle()))
    assert open_files(folder.parent / "other").ranks
    (folder / "latest").write_text(name)
    with pytest.raises(InputError, match=f"latest names '{re.escape(name)}', which is not there"):
        open_files(folder)


@pytest.mark.parametrize("prefix", [*OUTSIDE, "build-/../../other", "build-x/../other"])
def test_a_store_that_names_a_folder_elsewhere_is_refused(prefix, folder):
    store = small_store(folder)
    index = store / "store.json"
    fields = json.loads(index.read_bytes())
    index.write_bytes(rehashed(as_json(fields | {"prefix": prefix})))
    with pytest.raises(InputError, match=r"store\.json is corrupt"):
        Store.open(str(store))


@pytest.mark.parametrize("name", ["../other", "/other", "inner/../../other"])
def test_the_database_of_a_checkpoint_can_name_no_file_elsewhere(name, folder):
    (folder.parent / "other").write_bytes(b"secret")
    files = ts.KvStore.open({"driver": "file", "path": f"{folder}/"}).result()
    with pytest.raises(ValueError, match="Invalid key"):
        files.read(name).result()


def test_what_a_symbolic_link_leads_to_is_read_as_if_it_were_there(folder):
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()

    def move(path):
        shutil.move(path, elsewhere / path.name)
        path.symlink_to(elsewhere / path.name)

    (seed,), read = TARGETS["index_of_shards"](folder)
    move(next(folder.glob("*.safetensors")))
    read(seed)
    (folder / "mp_rank_00").mkdir()
    (folder / "mp_rank_00" / "model_optim_rng.pt").write_bytes(archive(megatron_pickle()))
    move(folder / "mp_rank_00")
    assert open_files(folder).ranks
    store = small_store(folder)
    move(next(store.glob("build-*")))
    assert Store.open(str(store)).read(0, "train", np.array([0]), 4).shape == (1, 4)
    state, read_all = saved_weights(folder)
    move(state.parents[1])
    read_all()
