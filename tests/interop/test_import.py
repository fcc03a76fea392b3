"""What is imported from Hugging Face says what `transformers` says; what cannot be is refused."""

import importlib
import json
import resource
import shutil
import struct
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from small_runs import GPT2, LLAMA, MODELS, VOCAB, logits, make_run, same_bits
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import prompt_tokens
from fugaku_jax.interop import safetensors_reader
from fugaku_jax.interop.hf import export_run
from fugaku_jax.interop.hf_import import open_hf
from fugaku_jax.interop.import_run import import_run
from fugaku_jax.interop.load import load_for_inference
from fugaku_jax.interop.safetensors_shards import INDEX
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.checkpoint_folder import checkpoint_folder
from fugaku_jax.run.configuration import read_config
from fugaku_jax.training import saving_options
from fugaku_jax.training.checkpoint import RunCheckpoints, load_model
from fugaku_jax.training.checksums import has_checksums

ROOT = Path(__file__).parents[2]
GIGABYTE = 10**9
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def exported(store, tmp_path_factory):
    """A model directory of each family; tests copy what they change."""
    folder = tmp_path_factory.mktemp("exported")
    for name, model in {"gpt2": GPT2, "llama": LLAMA}.items():
        run = make_run(folder / f"{name}-run", model, store)
        export_run(run, folder / name, store, "float32", GIGABYTE)
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    """Copy a model directory and change fields of its configuration."""

    def copied(family: str, **fields: object) -> Path:
        folder = tmp_path / family
        folder.mkdir()
        for path in (exported / family).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))
        return folder

    return copied


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_there_and_back_every_bit_and_every_file_is_the_same(model, store, tmp_path, monkeypatch):
    monkeypatch.setattr(saving_options, "CHUNK_BYTES", 50_000)
    run = make_run(tmp_path / "run", model, store)
    export_run(run, tmp_path / "out", store, "float32", 300_000)
    import_run(open_hf(tmp_path / "out"), tmp_path / "again")
    same_bits(load_model(run)[1], load_model(tmp_path / "again")[1])
    same_bits(load_model(run)[1], load_for_inference(tmp_path / "out", jnp.float32)[1])
    export_run(tmp_path / "again", tmp_path / "back", None, "float32", 300_000)
    for path in (tmp_path / "out").iterdir():
        # Dropout is not ours to know, and what was imported has read no data that it knows of.
        if path.name not in ("README.md", "config.json", "croissant.json"):
            assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes(), path.name
    assert "imported from `out`" in (tmp_path / "back" / "README.md").read_text()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_logits_are_those_of_transformers(family, exported):
    theirs = AutoModelForCausalLM.from_pretrained(exported / family)
    shape, ours, _, _ = load_for_inference(exported / family, jnp.float32)
    tokens = np.random.default_rng(1).integers(0, VOCAB, (2, shape.sequence_length), np.int32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens).long()).logits.numpy()
    np.testing.assert_allclose(logits(ours, tokens), expected, atol=1e-4, rtol=0)


def test_what_transformers_saved_is_read_with_any_prefix_and_narrow(tmp_path):
    config = GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=2, n_positions=16)
    theirs = GPT2LMHeadModel(config).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "whole", max_shard_size="20KB")
    assert (tmp_path / "whole" / INDEX).exists()
    theirs.transformer.save_pretrained(tmp_path / "bare")
    (tmp_path / "bare" / "config.json").write_bytes(
        (tmp_path / "whole" / "config.json").read_bytes()
    )
    tensors = safetensors_reader.read_headers(tmp_path / "bare")
    assert "wte.weight" in tensors
    masks = {f"h.{n}.attn.bias": np.tri(16, dtype=np.float32)[None, None] for n in range(2)}
    torch_file = importlib.import_module("safetensors.torch")
    weights = torch_file.load_file(tmp_path / "bare" / WEIGHTS)
    masks = {name: torch.from_numpy(mask) for name, mask in masks.items()}
    torch_file.save_file(weights | masks, tmp_path / "bare" / WEIGHTS)
    for name in ("whole", "bare"):
        import_run(open_hf(tmp_path / name), tmp_path / f"{name}-run")
    whole, bare = (load_model(tmp_path / f"{name}-run")[1] for name in ("whole", "bare"))
    same_bits(whole, bare)
    expected = theirs.transformer.h[1].attn.c_attn.weight.detach().float().numpy()
    found = np.asarray(whole.blocks.qkv.kernel[...])[1].reshape(expected.shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_training_and_evaluation_know_an_imported_run(store, exported, tmp_path):
    run = tmp_path / "run"
    import_run(open_hf(exported / "llama"), run)
    config = read_config(run)
    with RunCheckpoints(run) as checkpoints:
        assert checkpoints.latest_step() == 0
        assert has_checksums(checkpoint_folder(run, 0) / "state")
        state = checkpoints.restore(make_layout(config))
    assert int(state.step) == 0
    assert not any(np.any(x) for x in jax.tree.leaves(state.moments))
    assert jax.tree.all(
        jax.tree.map(lambda x, y: x.shape == y.shape, state.parameters, state.moments.mean)
    )
    assert (run / "tokenizer.model").read_bytes() == store.tokenizer().model_bytes
    _, _, tokenizer, _ = load_for_inference(run, jnp.bfloat16)
    assert tokenizer.sha256 == store.tokenizer().sha256


@pytest.mark.parametrize(("named", "expected"), [(1, 1), (None, None), (VOCAB, 2), ("<s>", 2)])
def test_a_text_begins_with_the_token_that_the_model_names(named, expected, copy, tmp_path):
    folder = copy("llama", bos_token_id=named)
    import_run(open_hf(folder), tmp_path / "run")
    for path in (folder, tmp_path / "run"):
        loaded = load_for_inference(path, jnp.bfloat16)
        assert loaded.first_token == expected
    before = [] if expected is None else [expected]
    rain = loaded.tokenizer.encode("rain")
    assert prompt_tokens(loaded.tokenizer, loaded.first_token, "rain") == [*before, *rain]
    export_run(tmp_path / "run", tmp_path / "out", None, "float32", GIGABYTE)
    assert open_hf(tmp_path / "out").origin["first_token"] == expected


def test_gelu_by_erf_is_another_function(copy):
    # The trap: "gelu" is exact in transformers. The two differ by up to 5e-4.
    with pytest.raises(InputError, match="activation_function is 'gelu', but it must be gelu_new"):
        open_hf(copy("gpt2", activation_function="gelu"))


@pytest.mark.parametrize(
    ("family", "fields", "sentence"),
    [
        ("gpt2", {"architectures": ["BloomForCausalLM"]}, "GPT2LMHeadModel, LlamaForCausalLM"),
        ("gpt2", {"architectures": [["GPT2LMHeadModel"]]}, "must be one of GPT2LMHeadModel"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "must be False"),
        ("gpt2", {"reorder_and_upcast_attn": True}, "must be False"),
        ("gpt2", {"n_head": 5}, "must divide"),
        ("gpt2", {"n_layer": "2"}, "n_layer is '2', but it must be a whole number"),
        ("gpt2", {"n_embd": None}, "has no n_embd"),
        ("gpt2", {"n_inner": 7}, r"c_fc\.weight has the shape \[288, 1152\], but .* \[288, 7\]"),
        ("gpt2", {"n_layer": 3}, r"h\.2\.ln_1\.weight is missing"),
        ("gpt2", {"n_layer": 1}, r"has transformer\.h\.1\.attn\.c_attn\.bias, .*, …, which no"),
        ("gpt2", {"vocab_size": 302}, r"wte\.weight has the shape \[303, 288\]"),
        ("gpt2", {"quantization_config": {}}, "quantised"),
        ("llama", {"hidden_act": "gelu"}, "must be silu"),
        ("llama", {"attention_bias": True}, "must be False"),
        ("llama", {"head_dim": 32}, "must be hidden_size / num_attention_heads, 64 / 4"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "must be default"),
        ("llama", {"rope_parameters": {"rope_type": "llama3"}}, "must be default"),
        ("llama", {"rope_parameters": "yes"}, "must be a JSON object"),
        ("llama", {"tie_word_embeddings": None}, None),
    ],
)
def test_what_our_model_does_not_compute_is_refused(copy, family, fields, sentence):
    folder = copy(family, **fields)
    if sentence is None:
        assert open_hf(folder).model.tied is False
        return
    with pytest.raises(InputError, match=sentence):
        open_hf(folder)


def test_both_places_of_the_rotary_base_are_read(copy):
    folder = copy("llama", rope_theta=7.0, rope_parameters={"rope_theta": 9, "rope_type": None})
    with pytest.raises(InputError, match="must be default"):
        open_hf(folder)
    config = json.loads((folder / "config.json").read_text())
    for fields, theta in (
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 9}}, 9.0),
        ({"rope_parameters": None, "rope_theta": 7.0}, 7.0),
        ({"rope_parameters": None, "rope_theta": None, "rope_scaling": None}, 1e4),
    ):
        (folder / "config.json").write_text(json.dumps(config | fields))
        assert open_hf(folder).model.rope_theta == theta


def test_masks_and_wavelengths_are_left_out_only_where_they_are_what_the_shape_makes(copy):
    half = np.float16(LLAMA.rope_theta ** (-np.arange(0, LLAMA.head_dim, 2) / LLAMA.head_dim))
    mask = np.tri(GPT2.sequence_length, dtype=np.float32)[None, None]
    for family, name, good, bad in (
        ("gpt2", "transformer.h.0.attn.bias", mask, 1 - mask),
        ("gpt2", "transformer.h.1.attn.masked_bias", np.float32(-1e4), np.float32(0)),
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq", half, half / 2),
    ):
        folder = copy(family)
        weights = safetensors.numpy.load_file(folder / WEIGHTS)
        for value, is_good in ((good, True), (bad, False)):
            safetensors.numpy.save_file(weights | {name: np.asarray(value)}, folder / WEIGHTS)
            if is_good:
                assert open_hf(folder).model.family == family
            else:
                with pytest.raises(InputError, match=f"{name} is another than its config"):
                    open_hf(folder)
        shutil.rmtree(folder)


def test_a_tokenizer_of_more_pieces_than_the_vocabulary_is_refused(copy):
    folder = copy("gpt2", vocab_size=300)
    weights = safetensors.numpy.load_file(folder / WEIGHTS)
    name = "transformer.wte.weight"
    weights[name] = weights[name][:300].copy()
    safetensors.numpy.save_file(weights, folder / WEIGHTS)
    with pytest.raises(InputError, match="has 303 pieces, but the model's vocabulary has 300"):
        open_hf(folder)


def test_missing_files_and_shards_are_named(copy, tmp_path):
    with pytest.raises(InputError, match=r"is no model directory: it has no config\.json"):
        open_hf(tmp_path)
    folder = copy("gpt2")
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(InputError, match=r"has neither model\.safetensors nor"):
        open_hf(folder)
    one, other = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    for names, sentence in (
        ({"a": one, "b": other}, f"names {other}, which is missing"),
        ({"a": one}, rf"its shards have no a \(in {one}\)"),
        ({"a": "../gpt2/config.json"}, "which is no file of"),
        ([], "cannot be read as an index"),
    ):
        (folder / INDEX).write_text(json.dumps({"weight_map": names}))
        with pytest.raises(InputError, match=sentence):
            open_hf(folder)


def with_header(header: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(dtype: str = "F32", shape: object = (1,), offsets: object = (0, 4)) -> bytes:
    return json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is truncated: it has 0 bytes"),
        (with_header(b"{}", 10**12), "says that its header has 1,000,000,000,000 bytes"),
        (with_header(b"{}", 2**64 - 1), "damaged or truncated"),
        (with_header(entry()[:-4]), "its header is no JSON"),
        (with_header(b"[" * 100_000), "its header is nested more than 64 levels deep"),
        (with_header(b"\xff\xfe"), "its header is no JSON"),
        (with_header(b"[]"), "no JSON object"),
        (with_header(entry()), "its header tells of 73 bytes, and it has 69"),
        (with_header(entry(), data=b"12345678"), "truncated or damaged"),
        (with_header(entry("F64"), data=b"1234"), "of type F64, but it must be F32, BF16, F16"),
        (with_header(entry(offsets=(0, 8)), data=b"12345678"), "does not lie"),
        (with_header(entry(offsets=(4, 8)), data=b"12345678"), "does not lie"),
        (with_header(entry(shape=(2**62, 4), offsets=(0, 0))), "does not lie"),
        (with_header(entry(shape=(0,) * 65, offsets=(0, 0))), "a shape that no array has"),
        (with_header(entry(shape=(0, 2**61), offsets=(0, 0))), "a shape that no array has"),
        (with_header(entry(shape=(-1, -1)), data=b"1234"), "no number"),
        (with_header(entry(shape=(True,)), data=b"1234"), "no number"),
        (with_header(entry(shape=1), data=b"1234"), "header is wrong"),
        (with_header(entry(offsets=(0,)), data=b"1234"), "header is wrong"),
        (with_header(b'{"a": 3}'), "header is wrong"),
    ],
)
def test_a_damaged_file_is_refused_before_anything_is_allocated(content, sentence, tmp_path):
    path = tmp_path / WEIGHTS
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence) as error:
        safetensors_reader.read_header(path)
    assert str(path) in str(error.value)


def test_a_disk_that_fills_leaves_nothing(exported, tmp_path):
    source = open_hf(exported / "gpt2")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # the kernel refuses for real
    try:
        with pytest.raises(InputError, match=r"run cannot be written: .*File too large"):
            import_run(source, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_the_program_imports_exports_and_refuses(exported, store, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "launch")
    programs = {name: importlib.import_module(name) for name in ("convert", "evaluate")}

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        programs[name].main()
        return capsys.readouterr().out

    bare = shutil.copytree(exported / "llama", tmp_path / "bare")
    model, _ = bare / "sentencepiece.model", (bare / "tokenizer.json").unlink()
    model.rename(tmp_path / "its.model")
    run("convert", "from-hf", bare, tmp_path / "mute")
    assert not (tmp_path / "mute" / "tokenizer.model").exists()
    said = run("convert", "from-hf", bare, tmp_path / "run", "--tokenizer", tmp_path / "its.model")
    assert "llama, " in said
    with pytest.raises(InputError, match="exists already"):
        run("convert", "from-hf", exported / "gpt2", tmp_path / "run")
    assert "config.json" in run("convert", "to-hf", tmp_path / "run", tmp_path / "out")
    with pytest.raises(InputError, match="give one by --store"):
        run("evaluate", "perplexity", tmp_path / "run")
    with pytest.raises(InputError, match="was not made with the tokenizer"):
        run("evaluate", "perplexity", tmp_path / "run", "--store", "builtin")
    with pytest.raises(InputError, match="has no held-out documents"):
        run("evaluate", "perplexity", tmp_path / "run", "--store", store.url)
