"""Every mesh trains the same model: 24 emulated devices, dropout on, held to one device."""

import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("meshes.py")

THREE = {"micro_batches": 3}
LLAMA = {"family": "llama", "n_kv_heads": 3, "d_ff": 48, "tied": False}
# Without biases, as that of keys has no gradient, and to lion even a rounding has a sign.
PLAIN = LLAMA | {"dropout": 0.0, "attention_dropout": 0.0}
CASES = {
    "data": {"mesh": {"data": 4}},
    "context": {"mesh": {"data": 1, "context": 4}},
    "context, data, tensor, pipeline": {
        "mesh": {"data": 2, "context": 2, "tensor": 3, "pipeline": 2, "weights": "zero1"},
        "training": THREE,
    },
    "zero1": {"mesh": {"data": 6, "weights": "zero1"}},
    "FSDP": {"mesh": {"data": 4, "weights": "fsdp"}},
    "tensor by 3, a vocabulary of 250": {"mesh": {"data": 1, "tensor": 3}},
    "sequence parallel, two positions more": {
        "mesh": {"data": 1, "tensor": 6, "sequence_parallel": True}
    },
    "gpipe": {"mesh": {"data": 1, "pipeline": 2, "schedule": "gpipe"}, "training": THREE},
    "1f1b, 6 micro-batches in 4 stages": {
        "mesh": {"data": 1, "pipeline": 4},
        "training": {"micro_batches": 6},
    },
    "recompute in the first stage": {
        "mesh": {"data": 2, "pipeline": 2, "recompute_stages": 1, "weights": "zero1"},
        "training": THREE,
    },
    "data, tensor, pipeline, sequence": {
        "mesh": {"data": 2, "tensor": 2, "pipeline": 4, "sequence_parallel": True},
        "training": THREE,
    },
    "FSDP, tensor, pipeline": {
        "mesh": {"data": 4, "tensor": 3, "pipeline": 2, "weights": "fsdp"},
        "training": THREE,
    },
    "all six axes, four positions more on a device": {
        "mesh": {
            "data": 1,
            "context": 2,
            "tensor": 6,
            "pipeline": 2,
            "shape": "2x1x2x1x3x2",
            "sequence_parallel": True,
            "weights": "zero1",
        },
        "training": THREE,
    },
    "core groups of a node": {
        "mesh": {"data": 4, "tensor": 6, "local": 2, "weights": "zero1"},
    },
    "llama: data, tensor, pipeline, sequence, two positions more, documents": {
        "mesh": {"data": 2, "tensor": 3, "pipeline": 4, "sequence_parallel": True},
        "training": THREE,
        "model": LLAMA,
        "data": {"reset_at_document": True},
    },
    "llama: context, FSDP, tensor, zero bubble, documents": {
        "mesh": {
            "data": 2,
            "context": 2,
            "tensor": 3,
            "pipeline": 2,
            "weights": "fsdp",
            "schedule": "zero_bubble",
        },
        "training": THREE,
        "model": LLAMA | {"tied": True},
        "data": {"reset_at_document": True},
    },
    "lion, zero1, unequal stages": {
        "mesh": {"data": 2, "pipeline": 3, "layers": [1, 2, 1], "weights": "zero1"},
        "model": PLAIN,
        "optimizer": {"kind": "lion"},
    },
    "lion, fsdp": {
        "mesh": {"data": 4, "tensor": 3, "weights": "fsdp"},
        "model": PLAIN,
        "optimizer": {"kind": "lion"},
    },
    "muon, zero1, tensor": {
        "mesh": {"data": 2, "tensor": 3, "weights": "zero1"},
        "model": PLAIN,
        "optimizer": {"kind": "muon"},
    },
    "muon, fsdp, interleaved": {
        "mesh": {
            "data": 2,
            "pipeline": 2,
            "weights": "fsdp",
            "schedule": "interleaved",
            "chunks": 2,
        },
        "model": PLAIN,
        "optimizer": {"kind": "muon"},
    },
    "LoRA: data, tensor, pipeline, unequal stages, zero1": {
        "mesh": {"data": 2, "tensor": 3, "pipeline": 3, "layers": [1, 2, 1], "weights": "zero1"},
        "training": THREE,
        "tuning": {"method": "lora", "rank": 4, "alpha": 8.0},
    },
    "LoRA, llama: context, FSDP, tensor, zero bubble": {
        "mesh": {
            "data": 2,
            "context": 2,
            "tensor": 3,
            "pipeline": 2,
            "weights": "fsdp",
            "schedule": "zero_bubble",
        },
        "training": THREE,
        "model": LLAMA,
        # B begins at zero, and A has no gradient at first: what little some have is rounding.
        "optimizer": {"epsilon": 1e-4},
        "tuning": {"method": "lora", "rank": 4, "targets": ("q_proj", "v_proj", "up_proj")},
    },
    "DPO: data, tensor, pipeline, zero1": {
        "mesh": {"data": 2, "tensor": 3, "pipeline": 2, "weights": "zero1"},
        "training": THREE,
        "data": {"reset_at_document": True, "learn": "answers"},
        "tuning": {"method": "dpo"},
    },
    "LoRA and DPO: data, tensor, pipeline, fsdp": {
        "mesh": {"data": 2, "tensor": 3, "pipeline": 2, "weights": "fsdp"},
        "training": THREE,
        "data": {"reset_at_document": True, "learn": "answers"},
        "optimizer": {"epsilon": 1e-4},
        "tuning": {"method": "lora-dpo", "rank": 4},
    },
    "LoRA by muon, fsdp": {
        "mesh": {"data": 4, "weights": "fsdp"},
        "model": PLAIN,
        "optimizer": {"kind": "muon"},
        "tuning": {"method": "lora", "rank": 4},
    },
    "rows and columns, zero1, a vocabulary of 250 by 3": {
        "mesh": {"data": 2, "tensor": 3, "weights": "zero1"},
        "model": PLAIN,
        "optimizer": {"kind": "recipe"},
    },
}


@pytest.fixture(scope="module")
def results(tmp_path_factory, run_emulated):
    """What `meshes.py` found of all cases."""
    out = tmp_path_factory.mktemp("meshes") / "results.npz"
    run_emulated(PROGRAM, 24, out, json.dumps(CASES))
    return np.load(out)


def pairs(results, case):
    prefix = f"{case}/one/"
    names = [name.removeprefix(prefix) for name in results.files if name.startswith(prefix)]
    assert names
    return {name: (results[prefix + name], results[f"{case}/many/{name}"]) for name in names}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_parameters_equal_those_of_one_device(results, case):
    for name, (one, many) in pairs(results, case).items():
        # Sums are taken in another order: some roundings of fp32, carried through five steps.
        assert np.linalg.norm(many - one) <= 1e-5 * np.linalg.norm(one), name
