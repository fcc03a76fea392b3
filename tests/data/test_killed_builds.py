"""A build that is killed at any moment and started again gives the store of one that was not."""

import random
import signal
import subprocess
import sys
import time

import pytest
from small_corpora import make_texts, write_jsonl

from fugaku_jax.data import corpus
from fugaku_jax.data.build import build_store
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.store import Store
from fugaku_jax.data.verify import verify_store

pytestmark = pytest.mark.usefixtures("small_blocks")

BUILD = """
import sys
from pathlib import Path
from fugaku_jax.data import store_format
from fugaku_jax.ledger import documents
documents.BLOCK_ROWS, documents._GROUP_ROWS = 16, 4
store_format.SHARD_TOKENS, store_format.CHUNK_TOKENS, store_format.BLOCK_CHUNKS = 512, 64, 16
from fugaku_jax.data.build import build_store
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.tokenizer import Tokenizer
out, model, path = sys.argv[1:4]
build_store(out, [InputSet("texts", (Path(path),))], Tokenizer.from_file(model))
"""


class KilledError(BaseException):
    """As no program expects it."""


def test_a_build_that_ends_at_any_moment_leads_to_the_same_root(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(corpus, "_BLOCK_BYTES", 2000)
    sets = [InputSet("set", (write_jsonl(tmp_path / "texts.jsonl", make_texts(240)),))]

    def build(name: str, **options) -> str:
        build_store(str(tmp_path / name), sets, tokenizer, validation=0.1, **options)
        return Store.open(str(tmp_path / name)).sha256

    root = build("whole", workers=1)
    for moment in (0, 2, 7, 12, 17):
        calls = iter(range(1000))

        def progress(*_: object, calls=calls, moment=moment) -> None:
            if next(calls) == moment:
                raise KilledError

        with pytest.raises(KilledError):
            build("killed", progress=progress)
    assert build("killed", workers=3) == root
    assert list(verify_store(str(tmp_path / "killed"), root)) == []


@pytest.mark.slow
def test_a_build_killed_at_five_random_moments_leads_to_the_same_root(tmp_path, tokenizer):
    model, draw = tmp_path / "tokenizer.model", random.Random(1)
    model.write_bytes(tokenizer.model_bytes)
    path = write_jsonl(tmp_path / "texts.jsonl", make_texts(3000))
    build_store(str(tmp_path / "whole"), [InputSet("texts", (path,))], tokenizer)
    root = Store.open(str(tmp_path / "whole")).sha256
    command = [sys.executable, "-c", BUILD, *map(str, (tmp_path / "s", model, path))]
    # The program makes the files as small as `small_blocks` makes them here.
    for _ in range(5):
        written = draw.randrange(1, 150)  # files of some 190
        build = subprocess.Popen(command)
        while len(list(tmp_path.glob("s/build-*/0/train.documents/*"))) < written:
            assert build.poll() is None
            time.sleep(0.002)
        build.send_signal(signal.SIGKILL)
        assert build.wait() == -signal.SIGKILL
        for left in tmp_path.glob("s/build-*/0/train.documents"):
            left.rename(left.with_name("left"))  # that the next one's are counted alone
        assert not (tmp_path / "s" / "store.json").exists()
    subprocess.run(command, check=True)
    assert Store.open(str(tmp_path / "s")).sha256 == root
    assert list(verify_store(str(tmp_path / "s"), root)) == []
    assert len(list((tmp_path / "s").iterdir())) == 2  # what killed builds left is gone
