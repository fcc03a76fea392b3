"""Both major versions of `transformers` read what is exported, and say what our model says."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from small_runs import GPT2, LLAMA, TEXTS, logits, make_run
from transformers_program import read, takes_the_stored_head

from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf import export_run
from fugaku_jax.interop.hf_import import open_hf
from fugaku_jax.interop.import_run import import_run
from fugaku_jax.interop.load import load_for_inference

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("transformers_program.py")
VERSION_4 = Path(sys.prefix) / "transformers4"
PROMPTS = [TEXTS[0], "x", "昔々の the  rain"]
FAMILIES = ["gpt2", "llama"]


@pytest.fixture(scope="module")
def folder(store, prefixing, make_store, tmp_path_factory):
    """Exports: a GPT-2 that saw ends of documents before its texts, and a LLaMA that saw nothing
    there, whose tokenizer has a space of its own; and one whose two matrices should be one."""
    folder = tmp_path_factory.mktemp("versions")
    run = make_run(folder / "gpt2-run", replace(GPT2, sequence_length=64), store)
    export_run(run, folder / "gpt2", store, "float32", 10**9)
    other = make_store(prefixing)
    run = make_run(folder / "llama-run", replace(LLAMA, sequence_length=64), other, reset=True)
    export_run(run, folder / "llama", other, "float32", 10**9)
    shutil.copytree(folder / "llama", folder / "differing")
    config = json.loads((folder / "differing" / "config.json").read_text())
    config["tie_word_embeddings"] = True
    (folder / "differing" / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=[4, 5])
def found(request, folder):
    """What a version makes of the exports."""
    if request.param == 5:
        found = {family: read(folder / family, PROMPTS) for family in FAMILIES}
        return found | {"stored head": takes_the_stored_head(folder / "differing")}
    assert VERSION_4.is_dir(), f"`make test` installs transformers 4 in {VERSION_4}"
    texts = json.dumps(PROMPTS)
    done = subprocess.run(
        [sys.executable, PROGRAM, texts, "differing", *FAMILIES],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(VERSION_4)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found["gpt2"]["version"].startswith("4.")
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_with_what_the_tokenizer_gives_says_what_our_model_says(family, found, folder):
    got = found[family]
    assert got["inputs"] == ["attention_mask", "input_ids"]
    loaded = load_for_inference(folder / f"{family}-run", jnp.float32)
    before = [] if family == "llama" else [loaded.first_token]
    assert before == ([] if family == "llama" else [loaded.tokenizer.end_of_document])
    assert got["ids"] == [[*before, *loaded.tokenizer.encode(text)] for text in PROMPTS]
    assert got["decoded"] == PROMPTS
    tokens = np.array([got["ids"][0]], np.int32)
    np.testing.assert_allclose(got["logits"], logits(loaded.model, tokens)[0], atol=1e-4, rtol=0)
    chat = got["chat"][: len(before) + 2]
    assert chat == [*before, *loaded.tokenizer.encode("以下は")][: len(chat)]


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_of_other_lengths_change_no_row_of_a_batch(family, found):
    assert found[family]["together"] == found[family]["alone"]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saved_comes_back_with_the_tokenizer_that_it_had(
    family, found, folder, tmp_path
):
    saved = folder / found[family]["saved"]
    assert not (saved / "tokenizer.model").exists()
    source, before = open_hf(saved), open_hf(folder / family)
    assert source.tokenizer.cuts_sha256 == before.tokenizer.cuts_sha256
    assert source.origin["first_token"] == before.origin["first_token"]
    import_run(source, tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "out", None, "float32", 10**9)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        there = (folder / family / name).read_text()
        assert json.loads((tmp_path / "out" / name).read_text()) == json.loads(there), name


def test_an_output_matrix_that_only_one_version_takes_is_refused(found, folder):
    is_4 = found["gpt2"]["version"].startswith("4.")
    assert found["stored head"] is not is_4
    with pytest.raises(InputError, match=r"lm_head\.weight is not the embedding, but by"):
        open_hf(folder / "differing")
    weights = safetensors.numpy.load_file(folder / "differing" / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    (folder / "same").mkdir(exist_ok=True)
    safetensors.numpy.save_file(weights, folder / "same" / "model.safetensors")
    shutil.copy(folder / "differing" / "config.json", folder / "same")
    assert open_hf(folder / "same").model.tied
