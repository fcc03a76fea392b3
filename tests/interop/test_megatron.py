"""Megatron's checkpoints become the model that `transformers` has, and run nothing of their own."""

import importlib
import os
import pickle
import sys
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from megatron_checkpoints import (
    POSITIONS,
    VOCAB,
    args_of,
    make_model,
    write_deepspeed_pipeline,
    write_megatron_lm,
)
from small_runs import logits

from fugaku_jax.errors import InputError
from fugaku_jax.interop.import_run import import_run
from fugaku_jax.interop.imported import default_run, place_parameters
from fugaku_jax.interop.load import load_for_inference
from fugaku_jax.interop.megatron import open_megatron
from fugaku_jax.interop.torch_file import read_torch_file
from fugaku_jax.models.layout import make_layout
from fugaku_jax.training.checkpoint import load_model
from fugaku_jax.training.whole_model import whole_model


@pytest.fixture(scope="module")
def oracle():
    """A model of `transformers`, tokens, and what it says of them."""
    model = make_model()
    tokens = np.random.default_rng(1).integers(0, VOCAB, (2, POSITIONS), np.int32)
    with torch.no_grad():
        return model, tokens, model(torch.from_numpy(tokens).long()).logits.numpy()


def imported_logits(folder, tokens):
    source = open_megatron(folder, None, VOCAB)
    layout = make_layout(default_run(source.model))
    return logits(whole_model(layout, place_parameters(source, layout, jnp.float32)), tokens)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "tensor", "stages"),
    [(v, t, p) for v in (0, 1.0, 2.0, 3.0) for t in (1, 2, 3) for p in (1, 2)],
)
def test_logits_are_those_of_transformers(version, tensor, stages, oracle, tmp_path):
    model, tokens, expected = oracle
    write_megatron_lm(tmp_path, model, version, tensor, stages)
    np.testing.assert_allclose(imported_logits(tmp_path, tokens), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("version", "tensor"), [(0, 1), (1.0, 3), (3.0, 2)])
def test_logits_of_deepspeeds_pipeline_are_those_of_transformers(version, tensor, oracle, tmp_path):
    model, tokens, expected = oracle
    write_deepspeed_pipeline(tmp_path, model, version, tensor)
    found = imported_logits(tmp_path, tokens)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_the_order_of_queries_keys_and_values_depends_on_the_version(oracle, tmp_path):
    # The trap: every version has the same shapes, so a wrong order raises nothing.
    model, tokens, expected = oracle
    write_megatron_lm(tmp_path, model, 1.0)
    path = tmp_path / "iter_0000100" / "mp_rank_00" / "model_optim_rng.pt"
    content = torch.load(path, weights_only=False)
    for wrong in (0, 2.0):
        torch.save(content | {"checkpoint_version": wrong}, path)
        assert np.abs(imported_logits(tmp_path, tokens) - expected).max() > 0.1


def test_padding_rows_get_no_probability_and_are_not_kept(oracle, tmp_path):
    # The trap: Megatron's padding rows are trained like any other.
    model, tokens, expected = oracle
    write_megatron_lm(tmp_path / "megatron", model, 3.0, tensor=2)
    import_run(open_megatron(tmp_path / "megatron", None, VOCAB), tmp_path / "run")
    _, ours = load_model(tmp_path / "run")
    assert ours.config.vocab_size == VOCAB
    assert not np.asarray(ours.tokens.table[...])[VOCAB:].any()
    np.testing.assert_allclose(logits(ours, tokens), expected, atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="does not say which rows of its vocabulary are padding"):
        open_megatron(tmp_path / "megatron", None, None)
    with pytest.raises(InputError, match=r"word_embeddings\.weight of tensor rank 0"):
        open_megatron(tmp_path / "megatron", None, 200)


def test_a_tokenizer_gives_the_vocabulary_and_goes_with_the_run(store, oracle, tmp_path):
    write_megatron_lm(tmp_path / "megatron", oracle[0], 3.0)
    with pytest.raises(InputError, match=r"its part of \[303, 48\]"):
        open_megatron(tmp_path / "megatron", store.tokenizer(), None)
    with pytest.raises(InputError, match="has 303 pieces, but the model's vocabulary has 97"):
        open_megatron(tmp_path / "megatron", store.tokenizer(), VOCAB)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bias_gelu_fusion": False}, "GELU was computed by erf"),
        ({"swiglu": True}, "swiglu is True, but it must be False"),
        ({"position_embedding_type": "rope"}, "must be 'learned_absolute'"),
        ({"num_layers": 5}, r"has no layers\.4\.input_layernorm"),
        ({"hidden_size": "48"}, "must be a whole number"),
        ({"num_attention_heads": 7}, "must divide"),
        ({"untie_embeddings_and_output_weights": True}, r"has no output_layer\.weight"),
    ],
)
def test_what_our_model_does_not_compute_is_refused(changes, sentence, oracle, tmp_path):
    write_megatron_lm(tmp_path, oracle[0], 3.0)
    path = tmp_path / "iter_0000100" / "mp_rank_00" / "model_optim_rng.pt"
    content = torch.load(path, weights_only=False)
    vars(content["args"]).update(changes)
    torch.save(content, path)
    with pytest.raises(InputError, match=sentence):
        open_megatron(tmp_path, None, VOCAB)


def test_damaged_contents_are_refused(oracle, tmp_path):
    write_megatron_lm(tmp_path, oracle[0], 3.0)
    path = tmp_path / "iter_0000100" / "mp_rank_00" / "model_optim_rng.pt"
    content = torch.load(path, weights_only=False)
    endless: dict = {}
    endless["model"] = endless
    for changes, sentence in (
        ({"checkpoint_version": 4.0}, "is of version 4.0, but it must be 0 to 3"),
        ({"checkpoint_version": "3"}, "is of version '3'"),
        ({"args": {}}, "has no args"),
        ({"model": []}, "has no model, which is not supported"),
        ({"model": None, "model0": {}}, "has interleaved stages, which is not supported"),
        ({"model": endless}, "nested without end"),
    ):
        torch.save(content | changes, path)
        with pytest.raises(InputError, match=sentence):
            open_megatron(tmp_path, None, VOCAB)


def test_gelu_by_tanh_is_known_by_either_of_two_arguments(oracle, tmp_path):
    write_megatron_lm(tmp_path, oracle[0], 3.0)
    path = tmp_path / "iter_0000100" / "mp_rank_00" / "model_optim_rng.pt"
    content = torch.load(path, weights_only=False)
    vars(content["args"]).update(bias_gelu_fusion=False, openai_gelu=True)
    torch.save(content, path)
    assert open_megatron(tmp_path, None, VOCAB).model.n_layers == 4


def test_missing_files_are_named(oracle, tmp_path):
    with pytest.raises(InputError, match="is no Megatron checkpoint"):
        open_megatron(tmp_path, None, VOCAB)
    write_megatron_lm(tmp_path / "lm", oracle[0], 3.0, tensor=2, stages=2)
    (tmp_path / "lm" / "iter_0000100" / "mp_rank_01_001" / "model_optim_rng.pt").unlink()
    with pytest.raises(InputError, match=r"mp_rank_01_001/model_optim_rng\.pt is missing"):
        open_megatron(tmp_path / "lm", None, VOCAB)
    (tmp_path / "lm" / "iter_0000100" / "mp_rank_01_001").rmdir()
    with pytest.raises(InputError, match="tensor rank 1 of pipeline stage 1 is missing"):
        open_megatron(tmp_path / "lm", None, VOCAB)
    (tmp_path / "lm" / "latest_checkpointed_iteration.txt").write_text("200")
    with pytest.raises(InputError, match="names '200', which is not there"):
        open_megatron(tmp_path / "lm", None, VOCAB)
    write_deepspeed_pipeline(tmp_path / "ds", oracle[0], 3.0, tensor=2)
    (tmp_path / "ds" / "global_step100" / "layer_04-model_01-model_states.pt").unlink()
    with pytest.raises(InputError, match=r"layer_04-model_01-model_states\.pt is missing"):
        open_megatron(tmp_path / "ds", None, VOCAB)


class Malicious:
    """What a pickle has run when it is read."""

    def __init__(self, function, argument):
        self.reduced = (function, (argument,))

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("function", [os.system, eval, exec, open, torch.load])
def test_a_pickle_that_calls_anything_is_refused_and_does_not_run(function, tmp_path):
    canary = tmp_path / "canary"
    command = f"touch {canary}" if function is os.system else f"open({str(canary)!r}, 'w')"
    torch.save({"model": Malicious(function, command)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"would have Python call [\w.]+, which no checkpoint"):
        read_torch_file(tmp_path / "model.pt")
    assert not canary.exists()
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        if function is os.system:  # the test has teeth: the ordinary reader runs it
            pickle.loads(archive.read(name))
            assert canary.exists()


def test_what_is_inert_stays_so(tmp_path):
    state = {"args": args_of(1, 1), "numbers": np.arange(3), "rng": torch.arange(4).bool()}
    torch.save(state, tmp_path / "model.pt")
    found = read_torch_file(tmp_path / "model.pt")
    assert found["args"].values["hidden_size"] == 48
    assert found["rng"].read().tolist() == [False, True, True, True]
    assert "Inert" in type(found["numbers"]).__name__


def test_tensors_are_views_with_any_strides_and_types(tmp_path):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "turned": base.T,
        "part": base[1:3, ::2],
        "scalar": base[2, 3],
        "empty": base[:0],
        "narrow": base.bfloat16(),
        "parameter": torch.nn.Parameter(base[1]),
    }
    torch.save(tensors, tmp_path / "model.pt")
    for name, found in read_torch_file(tmp_path / "model.pt").items():
        expected = tensors[name].detach().float().numpy()
        np.testing.assert_array_equal(found.read().astype(np.float32), expected, name)


def test_damaged_and_old_files_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"x": torch.ones(1000)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"is no zip archive, .* save it again: torch\.save"):
        read_torch_file(path)
    torch.save({"x": torch.ones(1000)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is damaged"):
        read_torch_file(path)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_torch_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02]q\x00.")
    assert read_torch_file(path) == []
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(InputError, match=r"has no data\.pkl"):
        read_torch_file(path)


def test_a_tensor_that_leaves_its_storage_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"x": torch.ones(4)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in entries if name.endswith("data.pkl"))
    assert entries[name].count(b"K\x04\x85") == 1  # the shape: (4,)
    entries[name] = entries[name].replace(b"K\x04\x85", b"K\x05\x85")
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in entries.items():
            archive.writestr(each, content)
    with pytest.raises(InputError, match="a tensor leaves its storage"):
        read_torch_file(path)


def test_the_program_imports_and_refuses(oracle, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "launch")
    program = importlib.import_module("convert")

    def convert(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["convert.py", "from-megatron", *map(str, arguments)])
        program.main()

    write_megatron_lm(tmp_path / "megatron", oracle[0], 2.0, tensor=2)
    convert(tmp_path / "megatron", tmp_path / "run", "--vocab-size", VOCAB)
    said = capsys.readouterr()
    assert "gpt2, " in said.out
    assert "run has no tokenizer" in said.err
    with pytest.raises(InputError, match="was imported without a tokenizer"):
        load_for_inference(tmp_path / "run", jnp.float32)
    with pytest.raises(InputError, match="cannot be read"):
        convert(tmp_path / "megatron", tmp_path / "other", "--tokenizer", tmp_path / "absent")
    assert not (tmp_path / "other").exists()
