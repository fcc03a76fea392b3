"""Every JSON file that somebody else may have made is read, or refused in a sentence."""

import dataclasses
import json
import random
import re
import struct

import pytest

from fugaku_jax.config import Config, ModelConfig, OptimizerConfig, TrainingConfig, config_from_dict
from fugaku_jax.data.store_format import Index, Split, TokenSet
from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf_config import to_hf_config
from fugaku_jax.interop.hf_shape import is_hf_directory, read_hf_config
from fugaku_jax.interop.safetensors_reader import SINGLE, read_header, read_headers
from fugaku_jax.interop.safetensors_shards import INDEX
from fugaku_jax.json_file import DEEPEST, LARGEST, parse_json, read_json
from fugaku_jax.run.configuration import read_config
from fugaku_jax.run.identity import read_ledger
from fugaku_jax.run.metrics import read_metrics

MODEL = ModelConfig(vocab_size=97, n_layers=1, d_model=16, n_heads=2, sequence_length=32)
CONFIG = Config(
    model=MODEL,
    optimizer=OptimizerConfig(learning_rate=1e-3),
    training=TrainingConfig(steps=5, batch_size=2),
)
SPLIT = Split(10, 2, 40, None, "a" * 64, "b" * 64)
STORE = Index("build-a", 97, 2, "uint16", "c" * 64, (TokenSet("s", "ja", 1.5, SPLIT, SPLIT),))
ENTRY = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


def read_run(data, folder):
    (folder / "config.json").write_bytes(data)
    return read_config(folder)


def read_hf(data, folder):
    (folder / "config.json").write_bytes(data)
    is_hf_directory(folder)
    return read_hf_config(folder)


def write_weights(header, folder):
    (folder / SINGLE).write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    return folder / SINGLE


def read_weights(data, folder):
    return read_header(write_weights(data, folder))


def read_index(data, folder):
    write_weights(json.dumps(ENTRY).encode(), folder)
    (folder / INDEX).write_bytes(data)
    return read_headers(folder)


def read_figures(data, folder):
    (folder / "metrics.jsonl").write_bytes(data + b'\n{"step": 2}\n')
    return read_metrics(folder)


def read_identity(data, folder):
    (folder / "ledger.json").write_bytes(data)
    return read_ledger(folder)


FILES = {
    "a run's config.json": (read_run, CONFIG.to_dict()),
    "Hugging Face's config.json": (read_hf, to_hf_config(MODEL, 2, [2], "float32")),
    "a header of safetensors": (read_weights, ENTRY),
    "an index of safetensors": (read_index, {"weight_map": {"a": SINGLE}}),
    "store.json": (lambda data, _: Index.from_json(data, "here"), json.loads(STORE.to_json())),
    "metrics.jsonl": (read_figures, {"step": 1, "loss": 2.5, "tokens": 64, "grad_norm": None}),
    "ledger.json": (read_identity, {"imported": {"format": "Megatron", "sha256": "d"}}),
}
BROKEN = {
    "empty": b"",
    "a list": b"[1]",
    "nested without end": b'{"a":' + b"[" * 100_000,
    "nested too deeply": b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
    "a number of 401 digits": b'{"vocab_size": 1' + b"0" * 400 + b"}",
    "a number of 5,000 digits": b'{"seed": ' + b"1" * 5000 + b"}",
    "half of a surrogate pair": b'{"unused": "\\ud800"}',
    "not UTF-8": b'{"a": "\xff"}',
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("content", BROKEN)
def test_what_no_program_of_ours_writes_is_a_sentence(file, content, tmp_path):
    read, whole = FILES[file]
    read(json.dumps(whole).encode(), tmp_path)
    with pytest.raises(InputError) as error:
        read(BROKEN[content], tmp_path)
    assert len(str(error.value)) < 500
    if file not in ("store.json",):
        assert str(tmp_path) in str(error.value)


VALUES = ("1e999", "-1", "[]", "{}", "null", "true", '"x"', "9" * 20, "NaN", '"\\ud800"', "1e308")


@pytest.mark.parametrize("file", FILES)
def test_a_mutation_loads_or_is_a_sentence(file, tmp_path):
    read, whole = FILES[file]
    good, draw, loaded = json.dumps(whole), random.Random(0), 0
    values = [match.span() for match in re.finditer(r"(?<=[:\[,] )[^\[\]{},]+|\[[\d, ]*\]", good)]
    for number in range(100):
        mutated = bytearray(good.encode())
        if number % 2:
            start, stop = draw.choice(values)
            mutated[start:stop] = draw.choice(VALUES).encode()
        else:
            mutated[draw.randrange(len(mutated))] ^= 1 << draw.randrange(8)
        try:
            read(bytes(mutated), tmp_path)
            loaded += 1
        except InputError:
            continue
    assert loaded < 100


def test_sizes_are_bounded_before_anything_is_made_of_them(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(InputError, match=r"a\.json is larger than 16,000,000 bytes"):
        read_json(path)
    with pytest.raises(InputError, match=r"a\.json/b cannot be read: Not a directory"):
        read_json(path / "b")
    nested = '{"a":' * DEEPEST + "0" + "}" * DEEPEST
    assert parse_json(b"\xef\xbb\xbf" + nested.encode(), "this")["a"]
    with pytest.raises(InputError, match="this is nested more than 64 levels deep"):
        parse_json(f'{{"a":{nested}}}'.encode(), "this")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "../a", ".."])
def test_a_shard_of_an_impossible_name_is_named_short(name, tmp_path):
    with pytest.raises(InputError, match=re.escape(INDEX)) as error:
        read_index(json.dumps({"weight_map": {"a": name}}).encode(), tmp_path)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("section", "changes", "sentence"),
    [
        ("model", {"n_layers": [2]}, r"model\.n_layers is \[2\], but it must be a whole number"),
        ("model", {"n_layers": True}, r"model\.n_layers is True, but it must be a whole number"),
        ("model", {"n_layers": 2.0}, r"model\.n_layers is 2\.0, but it must be a whole number"),
        ("model", {"n_layers": 2**63}, r"model\.n_layers is \d+, but it must be a whole number"),
        ("model", {"d_ff": "wide"}, r"model\.d_ff is 'wide', but .* a whole number or null"),
        ("model", {"dropout": float("nan")}, r"model\.dropout is nan, but it must be a number"),
        ("model", {"dropout": 10**400}, r"model\.dropout is \d+\.\.\.\d+, but it must be a number"),
        ("model", {"tied": 1}, r"model\.tied is 1, but it must be true or false"),
        ("model", {"family": ["gpt2"]}, r"model\.family is \['gpt2'\], but it must be gpt2 or"),
        ("training", {"prompts": "a"}, r"prompts is 'a', but it must be a list of strings"),
        ("training", {"prompts": ["a", 3]}, r"prompts\[1\] is 3, but it must be a string"),
        ("mesh", {"layers": [1, "2"]}, r"layers\[1\] is '2', but it must be a whole number"),
        ("data", {"store": None}, r"data\.store is None, but it must be a string"),
    ],
)
def test_a_field_of_another_type_is_named(section, changes, sentence):
    nested = CONFIG.to_dict()
    nested[section] |= changes
    with pytest.raises(InputError, match=sentence):
        config_from_dict(nested)


def test_a_section_of_another_type_is_named():
    with pytest.raises(InputError, match=r"model is \[1\], but it must be an object"):
        config_from_dict(CONFIG.to_dict() | {"model": [1]})


def test_a_whole_number_is_a_number():
    nested = CONFIG.to_dict()
    nested["optimizer"]["learning_rate"] = 1
    wanted = dataclasses.replace(CONFIG.optimizer, learning_rate=1.0)
    assert config_from_dict(nested).optimizer == wanted


@pytest.mark.parametrize(
    ("ledger", "sentence"),
    [
        ({"store_sha256": 2.5}, "store_sha256 is 2.5, but it must be a string"),
        ({"imported": 3}, "imported is 3, but it must be an object"),
        ({"imported": {"sha256": []}}, r"sha256 is \[\], but it must be a string"),
        ({"imported": {"first_token": "a"}}, "first_token is 'a', but it must be a whole number"),
    ],
)
def test_a_ledger_of_other_types_is_named(ledger, sentence, tmp_path):
    with pytest.raises(InputError, match=rf"ledger\.json: {sentence}"):
        read_identity(json.dumps(ledger).encode(), tmp_path)


@pytest.mark.parametrize("figure", ['"2.5"', "[1]", "{}", "true", "1e999"])
def test_a_figure_that_is_no_number_is_named(figure, tmp_path):
    with pytest.raises(InputError, match=r"metrics\.jsonl: step 1: loss is .*, but it must be a"):
        read_figures(b'{"step": 1, "loss": ' + figure.encode() + b"}", tmp_path)
