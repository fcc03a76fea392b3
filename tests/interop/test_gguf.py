"""A GGUF file holds what is exported to Hugging Face, and a vocabulary that llama.cpp cuts by."""

import dataclasses
import functools
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llama_cpp_cuts import LlamaCppCuts
from small_runs import LLAMA, MODELS, VOCAB, make_run

from fugaku_jax.config import ModelConfig
from fugaku_jax.data.exact_scores import model_pb2
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.interop.doubts import doubts_of_gguf
from fugaku_jax.interop.gguf_file import FILE_TYPES, write_gguf
from fugaku_jax.interop.gguf_vocabulary import vocabulary
from fugaku_jax.interop.hf import export_run
from fugaku_jax.interop.spoken import open_spoken
from fugaku_jax.tuning.chat_template import FUGAKU

ROOT = Path(__file__).parents[2]
SHAPE = {
    "context_length": "sequence_length",
    "embedding_length": "d_model",
    "block_count": "n_layers",
    "feed_forward_length": "feed_forward",
    "attention.head_count": "n_heads",
    "vocab_size": "vocab_size",
}


@pytest.fixture(scope="module")
def run_of(store, tmp_path_factory):
    """Give a run of a model, which is made once."""

    @functools.cache
    def made(model: ModelConfig) -> Path:
        return make_run(tmp_path_factory.mktemp("run") / "run", model, store)

    return made


@pytest.fixture(scope="module")
def exported(run_of, store, tmp_path_factory):
    """Give the export of a model's run, which is made once."""

    @functools.cache
    def made(model: ModelConfig) -> Path:
        out = tmp_path_factory.mktemp("export") / "hf"
        export_run(run_of(model), out, store, "float32", 10**9)
        return out

    return made


def read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Return the tensors of a file, dequantised, and what it says of itself."""
    reader = gguf.GGUFReader(path)
    tensors = {
        x.name: gguf.dequantize(x.data, x.tensor_type).reshape(x.shape[::-1].tolist())
        for x in reader.tensors
    }
    return tensors, {name: field.contents() for name, field in reader.fields.items()}


def halves_side_by_side(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Order the rows of each head as llama.cpp rotates them: 0, K/2, 1, K/2 + 1, ..."""
    order = [half + i for i in range(head_dim // 2) for half in (0, head_dim // 2)]
    heads = rows.reshape(-1, head_dim, rows.shape[-1])
    return np.concatenate([head[order] for head in heads])


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_tensors_are_those_exported_to_hugging_face(model, run_of, exported, tmp_path):
    write_gguf(open_spoken(run_of(model)), tmp_path / "out.gguf", "float32")
    theirs = safetensors.numpy.load_file(exported(model) / "model.safetensors")
    found, said = read(tmp_path / "out.gguf")
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH.LLAMA if model.family == "llama" else gguf.MODEL_ARCH.GPT2, model.n_layers
    )
    for name, expected in theirs.items():
        if "c_" in name and expected.ndim == 2:
            expected = expected.T
        if "q_proj" in name or "k_proj" in name:
            expected = halves_side_by_side(expected, model.head_dim)
        got = found.pop(names.get_name(name, (".weight", ".bias")))
        np.testing.assert_array_equal(got, expected, name)
    assert not found
    shape = SHAPE | (
        {"attention.head_count_kv": "kv_heads", "rope.freq_base": "rope_theta"}
        if model.family == "llama"
        else {}
    )
    for key, field in shape.items():
        assert said[f"{model.family}.{key}"] == pytest.approx(getattr(model, field)), key


@pytest.mark.parametrize("dtype", FILE_TYPES)
def test_each_type_is_as_near_as_it_can_be(dtype, run_of, tmp_path):
    source = open_spoken(run_of(MODELS["gpt2, untied, narrow"]))
    write_gguf(source, tmp_path / "exact", "float32")
    write_gguf(source, tmp_path / "out", dtype)
    (exact, _), (found, said) = read(tmp_path / "exact"), read(tmp_path / "out")
    assert said["general.file_type"] == FILE_TYPES[dtype][1]
    for name, values in found.items():
        kept = exact[name].ndim == 1 or name.startswith("position")
        narrow = dtype == "q8_0" and exact[name].shape[-1] % 32  # d_ff is 100
        # Half a unit in the last place; of q8_0, half a 127th of the largest of 32, which is fp16.
        bits = {"float32": 24, "bfloat16": 8, "float16": 11, "q8_0": 8}[dtype]
        relative = 2.0 ** -(24 if kept else 11 if narrow else bits)
        size = np.abs(exact[name])
        if dtype == "q8_0" and not kept and not narrow:
            size = size.reshape(-1, 32).max(-1, keepdims=True).repeat(32, -1).reshape(size.shape)
            relative = 1 / 254 + 2.0**-11
        assert np.all(np.abs(values - exact[name]) <= relative * size + 3e-8), name


WORDS = ("むかしむかし", "あるところ", "the rain", "Spain", "x = 1", "\n", "  ", " ", "stays")
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581\0"), max_size=6)
STRINGS = st.lists(st.one_of(st.sampled_from(WORDS), TEXT), max_size=20).map("".join)


@pytest.fixture(scope="module")
def cutters(store):
    tokenizer = store.tokenizer()
    return tokenizer, LlamaCppCuts(vocabulary(tokenizer, VOCAB + 5))


def price(tokenizer: Tokenizer, ids: list[int]) -> float:
    """Add the scores of a cut, a character in bytes being 10 below the least likely piece."""
    model = model_pb2.ModelProto.FromString(tokenizer.exact_model_bytes)
    normal = model_pb2.ModelProto.SentencePiece.NORMAL
    lowest = min(each.score for each in model.pieces if each.type == normal)
    total = 0.0
    for id in ids:
        byte = tokenizer.byte(id)
        if byte is None:
            assert model.pieces[id].type == normal
            total += model.pieces[id].score
        elif not 0x80 <= byte < 0xC0:  # the first of a character
            total += lowest - 10
    return total


@settings(max_examples=300, deadline=None)
@given(text=STRINGS)
@example(text="</s><unk><s><0x0A>[absent 303]")
@example(text="𠮷野家で🍣を食べる。é 麤 \t\r\n" + " " * 40)
@example(text="")
def test_llama_cpp_takes_a_cut_of_the_largest_sum(cutters, text):
    tokenizer, theirs = cutters
    text = text.removeprefix("\ufeff")
    ids = theirs.cut(text)
    assert price(tokenizer, ids) == price(tokenizer, tokenizer.encode(text))
    assert tokenizer.decode(ids) == text


def test_most_texts_are_cut_alike_to_the_last_token(cutters):
    tokenizer, theirs = cutters
    rng = np.random.default_rng(0)
    same = 0
    for _ in range(200):
        text = "".join(rng.choice([*WORDS, "鬱", "🍣"], 12))
        same += theirs.cut(text) == tokenizer.encode(text)
    assert same > 150


def test_of_equals_llama_cpp_takes_the_longest_first_piece(cutters):
    tokenizer, theirs = cutters
    text = " " * 20  # runs of 2 to 16 spaces are pieces of score 0
    lengths = [len(tokenizer.decode([id])) for id in tokenizer.encode(text)]
    assert lengths == [4, 16]
    assert [len(tokenizer.decode([id])) for id in theirs.cut(text)] == [16, 4]


def test_a_file_tells_what_stands_around_texts(run_of, exported, store, tmp_path):
    write_gguf(open_spoken(run_of(LLAMA)), tmp_path / "out.gguf", "float16")
    _, said = read(tmp_path / "out.gguf")
    end = store.tokenizer().end_of_document
    assert said["general.name"] == "run"
    assert "longest first piece" in said["general.description"]
    assert said["tokenizer.ggml.bos_token_id"] == said["tokenizer.ggml.eos_token_id"] == end
    assert said["tokenizer.ggml.add_bos_token"]
    assert not said["tokenizer.ggml.add_eos_token"]
    assert said["tokenizer.ggml.unknown_token_id"] == 0
    assert said["tokenizer.chat_template"] == FUGAKU
    again = open_spoken(exported(LLAMA))
    assert again.chat_template == FUGAKU
    assert again.first_token == end


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"byte": False}, "no pieces for the 256 bytes"),
        ({"type": 2}, "no unigram model"),
        ({"score": -1e6}, "too low for llama.cpp"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_cut_otherwise_is_refused(store, change, sentence):
    model = model_pb2.ModelProto.FromString(store.tokenizer().model_bytes)
    if "byte" in change:
        for each in model.pieces:
            if each.type == model_pb2.ModelProto.SentencePiece.BYTE:
                each.piece, each.type = f"!{each.piece}", model_pb2.ModelProto.SentencePiece.NORMAL
        model.trainer_spec.byte_fallback = False
    model.trainer_spec.model_type = change.get("type", model.trainer_spec.model_type)
    if "score" in change:
        model.pieces[-1].score = change["score"]
    with pytest.raises(InputError, match=sentence):
        vocabulary(Tokenizer(model.SerializeToString()), VOCAB)


@pytest.mark.slow
def test_the_program_writes_the_same_of_a_run_and_of_its_export(run_of, exported, tmp_path):
    found = []
    for source in (run_of(LLAMA), exported(LLAMA)):
        out = tmp_path / f"{source.name}.gguf"
        command = [sys.executable, "launch/convert.py", "to-gguf", source, out]
        done = subprocess.run(
            [*command, "--dtype", "q8_0"], capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "begin prompts with it" in done.stderr
        found.append(read(out))
    (ours, said), (theirs, said_there) = found
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], name)
    assert said | {"general.name": "hf"} == said_there | {"general.name": "hf"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "exists already" in done.stderr


def test_nothing_is_left_where_a_file_cannot_be_written(run_of, tmp_path):
    (tmp_path / "file").write_text("")
    source = open_spoken(run_of(LLAMA))
    with pytest.raises(InputError, match="cannot be written"):
        write_gguf(source, tmp_path / "file" / "out.gguf", "float32")

    def fail(tensor):
        raise InputError(f"{tensor.name} is damaged.")

    with pytest.raises(InputError, match="is damaged"):
        write_gguf(dataclasses.replace(source, read=fail), tmp_path / "out.gguf", "float32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_directory_without_a_tokenizer_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported(LLAMA), tmp_path / "hf")
    for name in ("sentencepiece.model", "tokenizer.json"):
        (folder / name).unlink()
    with pytest.raises(InputError, match=r"has no tokenizer\.model"):
        open_spoken(folder)
    with pytest.raises(InputError):
        open_spoken(tmp_path / "absent")


def test_what_llama_cpp_leaves_to_its_user_is_said(exported, prefixing):
    source = open_spoken(exported(LLAMA))
    assert len(list(doubts_of_gguf(source))) == 1  # what stands before a text
    changed = dataclasses.replace(source, first_token=None, tokenizer=prefixing)
    (said,) = doubts_of_gguf(changed)
    assert "begin texts with one" in said


@pytest.mark.parametrize("reader", [gguf.SentencePieceVocab, gguf.LlamaHfVocab, gguf.BpeVocab])
def test_in_an_export_llama_cpps_converter_finds_no_tokenizer_to_mistake(
    reader, exported, tmp_path
):
    with pytest.raises((FileNotFoundError, TypeError)):
        reader(exported(LLAMA))
    if reader is gguf.SentencePieceVocab:
        folder = shutil.copytree(exported(LLAMA), tmp_path / "hf")
        (folder / "sentencepiece.model").rename(folder / "tokenizer.model")
        assert reader(folder).vocab_size == VOCAB
