"""Checkpoints whose pickles attack their reader: a sentence, or nothing of the attack is left."""

import pickletools
import random
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from megatron_checkpoints import args_of

from fugaku_jax.errors import InputError
from fugaku_jax.interop import plain_pickle
from fugaku_jax.interop.megatron_files import open_files
from fugaku_jax.interop.torch_file import read_torch_file

TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00K\x04\x85K\x01\x85\x89}tR"
)
"""Four elements of storage 0, on the stack."""
MEGABYTE = 1 << 20


def write(path: Path, pickle: bytes, compression: int | None = None, **others: bytes) -> Path:
    """Write an archive as `torch.save` does, with one storage of four float32."""
    contents = {"data.pkl": pickle, "byteorder": b"little", "data/0": bytes(16)} | others
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"archive/{name}", content, compression if name in others else None)
    return path


def proto(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


@pytest.mark.parametrize(
    "attacked",
    [
        TENSOR,
        TENSOR + b"\x85",
        b"ctorch\nFloatStorage\n",
        b"ctorch\nBFloat16Storage\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"cargparse\nNamespace\n",
        b"K\x01",
        b"]",
    ],
    ids=["tensor", "tuple", "storage", "bfloat16", "function", "class", "number", "list"],
)
@pytest.mark.parametrize(
    "state",
    [
        b"}X\x07\x00\x00\x00stridesJ\x00\x00\x00\x70\x85s",
        b"N}X\x04\x00\x00\x00pathX\x0b\x00\x00\x00/etc/passwds\x86",
        b"(K\x04X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t",
    ],
    ids=["dictionary", "slots", "of a dtype"],
)
def test_no_state_is_set_on_what_was_checked(attacked, state, tmp_path):
    path = write(tmp_path / "model.pt", proto(attacked + state + b"b"))
    with pytest.raises(InputError, match=r"the state of .* is set"):
        read_torch_file(path)
    assert np.dtype(ml_dtypes.bfloat16).itemsize == 2


def test_a_state_of_what_is_not_looked_at_is_dropped(tmp_path):
    state = b"}X\x09\x00\x00\x00_metadata}s"
    path = write(tmp_path / "model.pt", proto(b"ccollections\nOrderedDict\n)R" + state + b"b"))
    assert read_torch_file(path) == {}
    made = read_torch_file(write(path, proto(b"cnumpy\nndarray\n)R" + state + b"b")))
    assert not hasattr(made, "_metadata")


@pytest.mark.parametrize(
    ("pickle", "sentence"),
    [
        (b")q\x00" + 60 * b"h\x00h\x00\x86q\x00" + b"}h\x00K\x01s", "key of a dictionary"),
        (b"}]K\x01s", "key of a dictionary"),
        (b"}" + b"\x8a\xff" + b"\x7f" * 255 + b"K\x01s", "key of a dictionary"),
        (b"ccollections\nOrderedDict\n](K\x01K\x02\x86e\x85R", "damaged"),
        (TENSOR.replace(b"K\x04\x85K\x01", b"K\x05\x85K\x01"), "leaves its storage"),
        (TENSOR.replace(b"K\x04\x85K\x01", b"J\xff\xff\xff\xff\x85K\x01"), "shape that is none"),
        (TENSOR.replace(b"K\x00K\x04\x85", b"K\x00" + b"(" + 65 * b"K\x01" + b"t"), "shape that"),
        (TENSOR.replace(b"\x000X", b"\x001X"), "there is no storage '1'"),
        (b"X\xff\xff\xff\x7fa", "damaged"),
        (b"h\x07", "BINGET takes what is not there"),
        (b"c__builtin__\neval\n(X\x01\x00\x00\x001tR", r"would have Python call __builtin__\.eval"),
        (b"(X\x01\x00\x00\x001i__builtin__\neval\n", "INST is no instruction that torch.save"),
    ],
)
def test_what_would_take_time_or_memory_without_end_is_refused(pickle, sentence, tmp_path):
    path = write(tmp_path / "model.pt", proto(pickle))
    with pytest.raises(InputError, match=sentence):
        read_torch_file(path)


@pytest.mark.parametrize(
    ("pickle", "others"),
    [
        (b"Nr\xff\xff\xff\x1f", {}),
        (b"N", {"byteorder": bytes(64 * MEGABYTE)}),
        (b"N", {"data.pkl": bytes(64 * MEGABYTE)}),
    ],
    ids=["place in the memo", "byte order", "pickle"],
)
def test_a_small_file_takes_little_memory(pickle, others, tmp_path):
    path = write(tmp_path / "model.pt", proto(pickle), zipfile.ZIP_DEFLATED, **others)
    assert path.stat().st_size < MEGABYTE
    tracemalloc.start()
    try:
        read_torch_file(path)
    except InputError as error:
        assert "compressed" in str(error)  # noqa: PT017
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MEGABYTE


def test_a_program_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_pickle, "MOST_STEPS", 1000)
    path = write(tmp_path / "model.pt", proto(b"(" * 998))
    with pytest.raises(InputError, match="is damaged"):
        read_torch_file(path)
    with pytest.raises(InputError, match="more than 1,000 instructions"):
        read_torch_file(write(path, proto(b"(" * 999)))


def test_a_tensor_larger_than_its_storage_is_not_looked_at(tmp_path):
    repeated = TENSOR.replace(b"K\x04\x85K\x01", b"J\xff\xff\xff\x7f\x85K\x00")
    assert "Inert" in repr(read_torch_file(write(tmp_path / "model.pt", proto(repeated))))


def checkpoint(folder: Path, **changes: object) -> Path:
    folder.mkdir()
    (folder / "mp_rank_00").mkdir()
    path = folder / "mp_rank_00" / "model_optim_rng.pt"
    state = {
        "args": args_of(1, 1),
        "checkpoint_version": 3.0,
        "model": {"language_model": {"layers.0.w": torch.ones(3, 4).bfloat16().T}},
        "rng": [np.random.default_rng(0).bit_generator.state, np.arange(3), torch.ones(2).bool()],
    }
    torch.save(state | changes, path)
    return path


@pytest.mark.slow
def test_dictionaries_that_hold_each_other_many_times_are_refused(tmp_path):
    shared: dict = {}
    for _ in range(60):
        shared = {"a": shared, "b": shared}
    path = checkpoint(tmp_path / "megatron", model=shared)
    with pytest.raises(InputError, match="nested without end") as error:
        open_files(path.parents[1])
    assert len(str(error.value)) < 500


@pytest.mark.slow
def test_every_instruction_and_every_mutation_loads_or_is_a_sentence(tmp_path):
    path = checkpoint(tmp_path / "megatron")
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in entries if name.endswith("data.pkl"))
    good, draw = entries[name], random.Random(0)
    codes = [each.code.encode("latin-1") for each in pickletools.opcodes]
    places = [place for _, _, place in pickletools.genops(good)]
    bodies = [before + code + b"." for code in codes for before in (b"", b"N", b"(NN", b"}NN")]
    for _ in range(200):
        mutated = bytearray(good)
        for _ in range(draw.choice((1, 1, 3, 20))):
            place = draw.choice((draw.choice(places), draw.randrange(len(good))))
            kind = draw.randrange(4)
            if kind == 0:
                mutated[place % len(mutated)] ^= 1 << draw.randrange(8)
            elif kind == 1:
                mutated[place:place] = draw.choice(codes)
            elif kind == 2:
                mutated[place % len(mutated)] = ord(draw.choice(codes))
            else:
                del mutated[place : place + draw.randrange(1, 9)]
        bodies.append(bytes(mutated))
    outcomes = set()
    for body in bodies:
        with zipfile.ZipFile(path, "w") as archive:
            for each, content in entries.items():
                archive.writestr(each, body if each == name else content)
        try:
            for tensor in open_files(path.parents[1]).ranks[0].values():
                tensor.read().sum()
            outcomes.add("loads")
        except InputError:
            outcomes.add("is refused")
    assert outcomes == {"loads", "is refused"}
