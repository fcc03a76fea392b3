"""llama.cpp itself says what the model says, and cuts texts as its rules, written again, do."""

import itertools

import numpy as np
import pytest
from llama_cpp_cuts import LlamaCppCuts
from small_runs import MODELS, VOCAB, logits, make_run

from fugaku_jax.interop.gguf_file import FILE_TYPES, write_gguf
from fugaku_jax.interop.gguf_vocabulary import vocabulary
from fugaku_jax.interop.spoken import open_spoken
from fugaku_jax.training.checkpoint import load_model

pytestmark = pytest.mark.llama_cpp
FP32 = 0  # GGML_TYPE_F32, of keys and values
TEXTS = (
    "むかしむかし、あるところに the old man of 1024.",
    "def f(x):\n    return x * 2\n",
    "👨‍👩‍👧 eats 🍣, 𠮷野家 and 麤; café e\u0301 \t\r\n",
    "</s><unk><0x0A> " + " " * 40,
)


def load(path, **options):
    from llama_cpp import Llama

    options = {"type_k": FP32, "type_v": FP32} | options
    return Llama(str(path), n_ctx=20, n_threads=2, logits_all=True, verbose=False, **options)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_its_logits_and_its_greedy_tokens_are_the_models(model, store, tmp_path):
    run = make_run(tmp_path / "run", model, store)
    write_gguf(open_spoken(run), tmp_path / "out.gguf", "float32")
    theirs, (_, ours) = load(tmp_path / "out.gguf"), load_model(run)
    prompt = np.random.default_rng(1).integers(3, VOCAB, 8).tolist()
    ids = list(itertools.islice(theirs.generate(prompt, temp=0.0, repeat_penalty=1.0), 12))
    expected = logits(ours, np.array([[*prompt, *ids]], np.int32))[0]
    assert ids == expected[7:-1].argmax(-1).tolist()
    # It looks GELU up in a table of fp16.
    got = theirs.scores[: theirs.n_tokens]
    np.testing.assert_allclose(got, expected[: len(got)], atol=5e-3, rtol=0)


@pytest.mark.parametrize("dtype", FILE_TYPES)
def test_it_reads_every_type(dtype, store, tmp_path):
    run = make_run(tmp_path / "run", MODELS["gpt2, untied, narrow"], store)
    write_gguf(open_spoken(run), tmp_path / "out.gguf", dtype)
    theirs, (_, ours) = load(tmp_path / "out.gguf"), load_model(run)
    prompt = np.arange(3, 15)
    theirs.eval(prompt.tolist())
    expected = logits(ours, prompt[None].astype(np.int32))[0]
    error = np.abs(theirs.scores[: theirs.n_tokens] - expected).max() / np.abs(expected).max()
    assert error < {"float32": 1e-3, "float16": 3e-3, "bfloat16": 2e-2, "q8_0": 2e-2}[dtype]


def test_it_cuts_and_joins_texts_by_the_rules_that_are_written_again(store, tmp_path):
    tokenizer = store.tokenizer()
    run = make_run(tmp_path / "run", MODELS["llama"], store)
    write_gguf(open_spoken(run), tmp_path / "o", "q8_0")
    theirs, ours = load(tmp_path / "o"), LlamaCppCuts(vocabulary(tokenizer, VOCAB))
    for text in TEXTS:
        ids = theirs.tokenize(text.encode(), add_bos=False, special=False)
        assert ids == ours.cut(text)
        assert theirs.detokenize(ids) == text.encode()
    assert theirs.token_eos() == theirs.token_bos() == tokenizer.end_of_document
