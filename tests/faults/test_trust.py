"""Reading what somebody else has made executes nothing.

That of broken files `test_fuzz.py` hears too, as every reader is watched while it tries them.
"""

import ast
import ctypes
import dataclasses
import os
import pickle
import runpy
import socket
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from executions import Executions
from fuzz_targets import TARGETS
from small_inputs import config

from fugaku_jax.models.layout import make_layout
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.state import abstract_state

ROOT = Path(__file__).parents[2]


def connect():
    """Connect to where nobody listens."""
    with socket.socket() as client:
        client.connect_ex(("127.0.0.1", 9))


@pytest.mark.parametrize(
    ("deed", "heard"),
    [
        (lambda _: eval("1 + 1"), "exec <string>"),
        (lambda _: exec("pass"), "exec <string>"),
        (lambda _: pickle.loads(b"cbuiltins\nlen\n."), "pickle.find_class"),
        (lambda _: os.system("true"), "os.system"),
        (lambda _: subprocess.run(["true"], check=True), "subprocess.Popen"),
        (lambda _: ctypes.CDLL(None), "ctypes.dlopen"),
        (lambda _: connect(), "socket.connect"),
        (lambda folder: runpy.run_path(str(folder / "model.py")), "model.py"),
    ],
    ids=["eval", "exec", "pickle", "system", "program", "library", "connection", "module"],
)
def test_what_is_executed_is_heard(deed, heard, tmp_path):
    (tmp_path / "model.py").write_text("x = 1")
    executions = Executions(tmp_path)
    deed(tmp_path)
    assert executions.take() == ""
    with executions.watching():
        deed(tmp_path)
    assert heard in executions.take()
    assert executions.take() == ""


@pytest.mark.slow
def test_every_reader_executes_nothing_and_nor_does_restoring_a_checkpoint(tmp_path):
    executions, readers = Executions(tmp_path), {}
    for name, target in TARGETS.items():
        (tmp_path / name).mkdir()
        readers[name] = target(tmp_path / name)
    layout, run = make_layout(config()), tmp_path / "run"
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract_state(layout))
    with RunCheckpoints(run, layout.config.checkpoint) as checkpoints:
        checkpoints.save(3, layout, dataclasses.replace(state, step=jnp.int32(3)), {})
    restored = ([b""], lambda _: RunCheckpoints(run).restore(layout))
    for name, (seeds, read) in (readers | {"restoring": restored}).items():
        for seed in seeds:
            read(seed)  # what is compiled of our own is compiled now
            with executions.watching():
                read(seed)
            assert executions.take() == "", name


def calls(tree):
    """Yield what is called by its own name, and the keywords that are constants."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id
            yield from (
                f"{each.arg}={each.value.value}"
                for each in node.keywords
                if isinstance(each.value, ast.Constant)
            )
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [each.name for each in node.names] + [getattr(node, "module", None) or ""]
            yield from (name.split(".")[0] for name in names)


def test_nothing_that_executes_what_it_reads_stands_in_the_package():
    files = [path for name in ("fugaku_jax", "launch") for path in (ROOT / name).rglob("*.py")]
    found = {each for path in files for each in calls(ast.parse(path.read_text("utf-8")))}
    assert {"struct", "check=False"} <= found
    executing = {"eval", "exec", "compile", "__import__", "allow_pickle=True"}
    executing |= {"weights_only=False", "trust_remote_code=True"}
    executing |= {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    executing |= {"unsafe_load", "full_load", "UnsafeLoader", "FullLoader"}
    assert not found & executing
    assert not [path for path in files if "yaml.load(" in path.read_text("utf-8")]
