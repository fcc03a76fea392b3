"""The traps of conversion, each of which raises nothing when one steps into it.

That of the order of queries, keys and values is in `test_megatron.py`.
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sentencepiece import sentencepiece_model_pb2 as model_pb2
from small_runs import GPT2, LLAMA, VOCAB, logits, make_run
from transformers import AutoModelForCausalLM, GenerationConfig

from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.interop.hf import export_run
from fugaku_jax.interop.hf_import import open_hf
from fugaku_jax.interop.import_run import import_run
from fugaku_jax.interop.load import load_for_inference

GIGABYTE = 10**9


@pytest.fixture(scope="module")
def exported(store, tmp_path_factory):
    """A run and the model directory made of it."""
    folder = tmp_path_factory.mktemp("traps")
    run = make_run(folder / "run", GPT2, store)
    export_run(run, folder / "out", store, "float32", GIGABYTE)
    return folder


def theirs(folder, tokens, **fields):
    model = AutoModelForCausalLM.from_pretrained(folder, **fields)
    with torch.no_grad():
        return model(torch.from_numpy(tokens).long()).logits.numpy()


def test_gelu_is_that_by_tanh(exported):
    tokens = np.random.default_rng(1).integers(0, VOCAB, (2, GPT2.sequence_length), np.int32)
    _, model, _, _ = load_for_inference(exported / "run", jnp.float32)
    ours = logits(model, tokens)
    assert np.abs(theirs(exported / "out", tokens) - ours).max() < 1e-4
    by_erf = theirs(exported / "out", tokens, activation_function="gelu")
    assert np.abs(by_erf - ours).max() > 1e-4


def test_padding_rows_are_neither_exported_nor_probable(exported):
    _, model, _, _ = load_for_inference(exported / "run", jnp.float32)
    assert np.abs(np.asarray(model.tokens.table[...])[VOCAB:]).min() > 0  # trained like any other
    stored = open_hf(exported / "out")
    assert stored.model.vocab_size == VOCAB
    tokens = np.zeros((1, 4), np.int32)
    padding = np.asarray(model.logits(model(jnp.asarray(tokens))))[..., VOCAB:]
    assert padding.size
    assert np.all(padding == -np.inf)
    assert theirs(exported / "out", tokens).shape[-1] == VOCAB


@pytest.mark.parametrize("piece", ["<EOD>", "<EOD|LLM-jp>", "<|endoftext|>"])
def test_both_ends_of_a_text_are_known(piece, exported, store, tmp_path):
    # llm-jp's tokenizer ends documents with </s>, and has a piece of its own for that too.
    proto = model_pb2.ModelProto.FromString(store.tokenizer().model_bytes)
    second = len(proto.pieces) - 1
    proto.pieces[second].piece, proto.pieces[second].type = piece, 3  # control
    tokenizer = Tokenizer(proto.SerializeToString())
    run = tmp_path / "run"
    for path in (exported / "out").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "sentencepiece.model").write_bytes(tokenizer.model_bytes)
    import_run(open_hf(tmp_path), run)
    export_run(run, tmp_path / "again", None, "float32", GIGABYTE)
    generation = GenerationConfig.from_pretrained(tmp_path / "again")
    assert generation.eos_token_id == [tokenizer.end_of_document, second]
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["bos_token_id"] == config["eos_token_id"] == tokenizer.end_of_document


def test_the_output_matrix_is_the_embedding_only_where_it_is_tied(store, tmp_path):
    run = make_run(tmp_path / "run", LLAMA, store)
    export_run(run, tmp_path / "out", store, "float32", GIGABYTE)
    _, model, _, _ = load_for_inference(tmp_path / "out", jnp.float32)
    tables = [np.asarray(each.table[...]) for each in (model.tokens, model.output)]
    assert not np.array_equal(*tables)
