"""What is exported is read by `transformers` itself, and says what our model says."""

import dataclasses
import errno
import importlib
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import tensorstore as ts
import torch
from flax import nnx
from small_runs import GPT2, LLAMA, MODELS, TEXTS, VOCAB, make_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from fugaku_jax.errors import InputError
from fugaku_jax.interop import hf, safetensors_shards
from fugaku_jax.interop.hf import export_run
from fugaku_jax.interop.hf_weights import tensors
from fugaku_jax.run.configuration import CONFIG_FILE
from fugaku_jax.training import saving_options
from fugaku_jax.training.checkpoint import load_model

ROOT = Path(__file__).parents[2]
GIGABYTE = 10**9


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_logits_are_those_of_the_exported_model(model, store, tmp_path):
    run = make_run(tmp_path / "run", model, store)
    export_run(run, tmp_path / "out", store, "float32", GIGABYTE)
    theirs, loading = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    tokens = np.random.default_rng(1).integers(0, VOCAB, (2, model.sequence_length), np.int32)
    _, ours = load_model(run)
    graph, weights = nnx.split(ours)

    @jax.jit
    def logits(weights, tokens):
        ours = nnx.merge(graph, weights)
        return ours.logits(ours(tokens))

    expected = np.asarray(logits(weights, tokens))[..., :VOCAB]
    with torch.no_grad():
        got = theirs(torch.from_numpy(tokens).long()).logits.numpy()
    assert got.shape == expected.shape  # without the padding of the vocabulary
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("model", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_shards_hold_all_weights_bit_by_bit(model, store, tmp_path):
    run = make_run(tmp_path / "run", model, store)
    files = export_run(run, tmp_path / "out", store, "float32", 200_000)
    shards = [name for name in files if name.endswith(".safetensors")]
    assert len(shards) > 2
    index = json.loads((tmp_path / "out" / safetensors_shards.INDEX).read_text())
    found = {}
    for name in shards:
        part = safetensors.numpy.load_file(tmp_path / "out" / name)
        assert part.keys() == {key for key, file in index["weight_map"].items() if file == name}
        found |= part
    assert index["metadata"]["total_size"] == sum(each.nbytes for each in found.values())
    parameters = nnx.to_pure_dict(nnx.state(load_model(run)[1]))
    back = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), parameters)
    for tensor in tensors(model):
        into = back
        for key in tensor.path:
            into = into[key]
        tensor.load(found.pop(tensor.name), into=into)
    assert not found
    for path, ours in jax.tree.leaves_with_path(parameters):
        rows = VOCAB if path[0].key in ("tokens", "output") else None
        again = back
        for key in path:
            again = again[key.key]
        np.testing.assert_array_equal(np.asarray(ours)[:rows], again[:rows], err_msg=str(path))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_weights_are_the_wide_ones_rounded(dtype, store, tmp_path):
    run = make_run(tmp_path / "run", LLAMA, store)
    wide, narrow = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=name).state_dict()
        for name in ("float32", dtype)
        if export_run(run, tmp_path / name, store, name, GIGABYTE)
    )
    for name, value in wide.items():
        assert narrow[name].dtype == getattr(torch, dtype)
        assert torch.equal(value.to(narrow[name].dtype), narrow[name]), name


def test_the_tokenizer_ends_and_templates_are_understood(store, tmp_path):
    run = make_run(tmp_path / "run", LLAMA, store)
    export_run(run, tmp_path / "out", store, "float32", GIGABYTE)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "out"), store.tokenizer()
    for text in (*TEXTS, "昔々の the\n  rain", "絵文字😀"):
        assert theirs(text)["input_ids"] == [ours.end_of_document, *ours.encode(text)], text
        assert theirs.decode(ours.encode(text)) == text
    assert theirs.eos_token_id == ours.end_of_document
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["add_prefix_space"] is False
    said = theirs.apply_chat_template(
        [{"role": "user", "content": "富岳とは?"}], tokenize=False, add_generation_prompt=True
    )
    assert said == (
        "</s>以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。"
        "\n\n### 指示:\n富岳とは?\n\n### 応答:\n"
    )
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [ours.end_of_document]


def test_what_is_in_the_way_is_left_alone(store, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", LLAMA, store)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(InputError, match="out exists already"):
        export_run(run, tmp_path / "out", store, "float32", GIGABYTE)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    monkeypatch.chdir(tmp_path / "out")
    for there in (".", "..", "../out"):
        with pytest.raises(InputError, match=rf"^{there} exists already"):
            export_run(run, Path(there), store, "float32", GIGABYTE)
    (tmp_path / "out" / "mine").unlink()
    with pytest.raises(InputError, match="is where you are"):
        export_run(run, Path("."), store, "float32", GIGABYTE)
    export_run(run, Path("../out/../other"), store, "float32", GIGABYTE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out", "run"]


def test_a_disk_that_fills_leaves_nothing(store, tmp_path, monkeypatch):
    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = make_run(tmp_path / "run", LLAMA, store)
    monkeypatch.setattr(hf, "write_shards", fill)
    with pytest.raises(InputError, match="out cannot be written: No space left on device"):
        export_run(run, tmp_path / "out", store, "float32", GIGABYTE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_run_without_checkpoint_and_a_store_of_another_vocabulary_are_named(store, tmp_path):
    run = make_run(tmp_path / "run", dataclasses.replace(LLAMA, vocab_size=40), store)
    with pytest.raises(InputError, match=r"has 303 pieces, but the model of .* knows 40"):
        export_run(run, tmp_path / "out", store, "float32", GIGABYTE)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / CONFIG_FILE).write_bytes((run / CONFIG_FILE).read_bytes())
    with pytest.raises(InputError, match="has no checkpoint yet"):
        export_run(empty, tmp_path / "out", store, "float32", GIGABYTE)
    with pytest.raises(InputError, match="is no run"):
        export_run(tmp_path, tmp_path / "out", store, "float32", GIGABYTE)


def test_the_program_converts_warns_and_refuses(store, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "launch")
    program = importlib.import_module("convert")

    def convert(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["convert.py", "to-hf", *map(str, arguments)])
        program.main()

    run = make_run(tmp_path / "run", GPT2, store)
    convert(run, tmp_path / "out", "--dtype", "bfloat16", "--shard-gb", "0.0002")
    said = capsys.readouterr()
    assert "model-00001-of-" in said.out
    assert "license: cc0-1.0\n" in (tmp_path / "out" / "README.md").read_text()
    assert said.err.startswith("warning: heads of width 144 ")
    convert(run, tmp_path / "licensed", "--license", "Apache-2.0")
    assert "license: apache-2.0\n" in (tmp_path / "licensed" / "README.md").read_text()
    with pytest.raises(InputError, match="--shard-gb is 0"):
        convert(run, tmp_path / "other", "--shard-gb", 0)
    with pytest.raises(InputError, match="is no run"):
        convert(tmp_path, tmp_path / "other")
    with pytest.raises(InputError, match="float64"):
        convert(run, tmp_path / "other", "--dtype", "float64")
    assert not (tmp_path / "other").exists()


def test_a_layer_is_read_without_the_others(store, tmp_path, monkeypatch):
    layer = GPT2.d_model * GPT2.feed_forward * 4
    monkeypatch.setattr(saving_options, "CHUNK_BYTES", layer)
    run = make_run(tmp_path / "run", GPT2, store)
    base = (run / "checkpoints" / "7" / "state").as_uri() + "/"
    place = {"driver": "ocdbt", "base": base, "path": "parameters.blocks.up.kernel/"}
    array = ts.open({"driver": "zarr3", "kvstore": place}, open=True).result()
    assert array.chunk_layout.read_chunk.shape == (1, GPT2.d_model, GPT2.feed_forward)
    cut = export_run(run, tmp_path / "cut", store, "float32", GIGABYTE)
    monkeypatch.undo()
    whole = make_run(tmp_path / "whole", GPT2, store)
    assert export_run(whole, tmp_path / "out", store, "float32", GIGABYTE) == cut
    one, other = (tmp_path / name / "model.safetensors" for name in ("cut", "out"))
    assert one.read_bytes() == other.read_bytes()
