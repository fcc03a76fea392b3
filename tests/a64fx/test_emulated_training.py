"""`train.py tiny` itself on the emulated A64FX, on one and on two processes, against this machine.

Smaller than the recipe only in what costs time and nothing else: samples of 32 tokens, a batch of
two, three steps, no validation text to speak of.
"""

import itertools
import json
import sys

import numpy as np
import pytest
from emulator import python_command, run, run_python

from fugaku_jax.data.build import build_store, choose_tokenizer
from fugaku_jax.data.builtin import documents
from fugaku_jax.data.inputs import InputSet

pytestmark = pytest.mark.a64fx

STEPS = 3
NATIVE = {"FUGAKU_JAX_KERNELS": "native"}  # or it is an error
OPTIONS = (
    *("--training.steps", str(STEPS), "--training.batch-size", "2"),
    *("--model.sequence-length", "32"),
    # The full learning rate at once, or three steps would change nothing that can be seen.
    *("--optimizer.warmup-tokens", "0"),
    *("--training.validate-every", "0", "--training.validation-tokens", "1"),
    *("--training.sample-tokens", "0"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A few short documents: the built-in corpus holds this Python's library, theirs is older."""
    folder = tmp_path_factory.mktemp("store")
    sets = []
    for domain in ("ja", "en", "math"):
        path = folder / f"{domain}.jsonl"
        texts = itertools.islice(documents(domain), 100)
        path.write_text("".join(json.dumps(each) + "\n" for each in texts))
        sets.append(InputSet(domain, (path,), domain))
    build_store(str(folder / "store"), sets, choose_tokenizer("train:1024", sets, "stop"), 0.1)
    return folder / "store"


@pytest.fixture(scope="module")
def expected(store, tmp_path_factory):
    """What the same program does on this machine."""
    run_dir = tmp_path_factory.mktemp("here")
    run([sys.executable, *train(store, run_dir)], env={"JAX_PLATFORMS": "cpu"})
    return figures(run_dir)


def train(store, run_dir):
    options = (*OPTIONS, "--data.store", str(store), "--run-dir", str(run_dir))
    return ["launch/train.py", "tiny", *options]


def figures(run_dir):
    """Loss and norm of the gradient of each step."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in lines] == list(range(1, STEPS + 1))
    return np.array([(each["loss"], each["grad_norm"]) for each in lines])


def assert_equal_within_fp32_rounding(got, expected):
    """The first step sees only rounding, the others weights that AdamW has changed by it.

    Sums of some hundred to some thousand terms in another order differ by a few units of the last
    place, 1e-7. AdamW's first update is nearly the gradient's sign times the learning rate, so
    where a gradient is smaller than its rounding error, the weight goes another way. Seen were
    1e-7 in all losses, and 5e-6 in the norms of the later gradients.
    """
    np.testing.assert_allclose(got[0], expected[0], rtol=2e-6)
    np.testing.assert_allclose(got[1:, 0], expected[1:, 0], rtol=1e-5)
    np.testing.assert_allclose(got[1:, 1], expected[1:, 1], rtol=1e-4)
    assert expected[-1, 0] < expected[0, 0] - 0.1  # the steps did something


@pytest.mark.long
def test_train_tiny_has_the_losses_of_this_machine(store, expected, tmp_path):
    run_python(train(store, tmp_path), env=NATIVE, timeout=1200)
    assert_equal_within_fp32_rounding(figures(tmp_path), expected)


@pytest.mark.long
def test_two_processes_over_gloo_have_the_losses_of_one(store, expected, tmp_path):
    # The launcher runs here: it only starts processes, and sets what they need to find each other.
    local = [sys.executable, "launch/cluster/local.py", "-n", "2", "--"]
    patience = {"FUGAKU_JAX_TIMEOUT": "1000"}  # seconds; the first time they compile for minutes
    run([*local, *python_command(train(store, tmp_path))], env=NATIVE | patience, timeout=1200)
    assert_equal_within_fp32_rounding(figures(tmp_path), expected)
    assert "on 2 cpu devices" in (tmp_path / "log.txt").read_text()
