"""An imported model is the same on every mesh, and a mesh exports what one device exports."""

import dataclasses
import json
from pathlib import Path

import pytest
from small_runs import LLAMA, make_run

from fugaku_jax.interop.hf import export_run

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("meshes.py")
MESHES = {
    "one": {"data": 1},
    "interleaved": {
        "data": 1,
        "tensor": 2,
        "pipeline": 2,
        "schedule": "interleaved",
        "chunks": 2,
        "weights": "zero1",
    },
}


@pytest.fixture(scope="module")
def found(store, tmp_path_factory, run_emulated):
    """Figures of every mesh, and the folder of what was exported."""
    folder = tmp_path_factory.mktemp("meshes")
    # Neither the layers nor the rows of the vocabulary can be shared evenly.
    model = dataclasses.replace(LLAMA, n_layers=5, vocab_multiple=1)
    export_run(make_run(folder / "first", model, store), folder / "hf", store, "float32", 10**9)
    run_emulated(PROGRAM, 4, folder, json.dumps(MESHES), store.url)
    return folder, json.loads((folder / "results.json").read_text())


def test_the_first_step_on_a_mesh_is_that_of_one_device(found):
    one, many = found[1].values()
    # Sums are taken in another order: some roundings of fp32.
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert many["norm"] == pytest.approx(one["norm"], rel=1e-5)


def test_a_run_and_its_export_are_loaded_alike_on_every_mesh(found):
    assert all(figures["same"] for figures in found[1].values())


def test_a_mesh_exports_the_bytes_of_one_device(found):
    folders = [found[0] / name for name in ("hf", "out-one", "out-interleaved")]
    imported, one, mesh = ((each / "model.safetensors").read_bytes() for each in folders)
    assert one == mesh == imported
