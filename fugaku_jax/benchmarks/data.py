"""How fast texts become tokens, and tokens become batches. Called by `launch/bench.py`."""

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import sentencepiece

from fugaku_jax.data.build import build_store
from fugaku_jax.data.builtin import open_store
from fugaku_jax.data.corpus import Document, LineBlock, parse_block, read_blocks
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.order import SampleOrder
from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.processor import available_cores

Result = TypeVar("Result")


def tokenize(
    inputs: Sequence[Path], tokenizer: str | Path, workers: int | None = None
) -> dict[str, Any]:
    """Times the tokenising of files three ways, in one run, so that the ratios hold.

    Args:
        inputs: files as `launch/data.py build` takes them.
        tokenizer: a SentencePiece model file.
        workers: threads; as many as there are cores if None.

    Returns:
        Tokens a second, in millions: of one plain SentencePiece process (a Python list a document,
        texts already in memory), of our workers over the same texts in memory, and of the whole
        build (decompressing, parsing, hashing, splitting, `xz` of the held-out texts, writing).
    """
    workers = workers or len(available_cores())
    model = Tokenizer.from_file(tokenizer)
    plain = sentencepiece.SentencePieceProcessor(model_proto=model.model_bytes)
    texts = [
        document.text
        for path in inputs
        for block in read_blocks(path)
        if isinstance(block, LineBlock)
        for document in parse_block(block)
        if isinstance(document, Document)
    ]
    tokens, plain_seconds = _timed(lambda: sum(len(plain.encode(text)) for text in texts))
    ours, our_seconds = _timed(lambda: _encode_all(model, texts, workers))
    assert ours == tokens
    sets = [InputSet(str(number), (path,)) for number, path in enumerate(inputs)]
    with tempfile.TemporaryDirectory() as folder:
        build = functools.partial(build_store, f"{folder}/store", sets, model, workers=workers)
        _, build_seconds = _timed(build)
    return {
        "tokens": tokens,
        "workers": workers,
        "plain_sentencepiece_mtokens_per_second": tokens / plain_seconds / 1e6,
        "encode_mtokens_per_second": tokens / our_seconds / 1e6,
        "build_mtokens_per_second": tokens / build_seconds / 1e6,
    }


def load(
    store: str = "builtin", sequence_length: int = 2048, batch_size: int = 64, steps: int = 50
) -> dict[str, Any]:
    """Times the reading of random samples, by the order of a run, on one core and through JAX.

    Args:
        store: folder or URL of a store, or builtin.
        sequence_length: T; a sample is T + 1 tokens.
        batch_size: rows a step.
        steps: steps timed, after a first round over the same steps that warms the file cache.

    Returns:
        Tokens read a second and a core, in millions: wall time and processor time of
        `Store.read` in one thread.
    """
    opened = open_store(store)
    order = SampleOrder.of_store(opened, sequence_length, batch_size, seed=0)
    _read_steps(opened, order, steps)
    started = time.process_time()
    tokens, seconds = _timed(lambda: _read_steps(opened, order, steps))
    return {
        "tokens": tokens,
        "sequence_length": sequence_length,
        "mtokens_per_second": tokens / seconds / 1e6,
        "mtokens_per_core_second": tokens / (time.process_time() - started) / 1e6,
    }


def _timed(function: Callable[[], Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    return function(), time.perf_counter() - started


def _encode_all(tokenizer: Tokenizer, texts: Sequence[str], workers: int) -> int:
    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(lambda text: len(tokenizer.encode_array(text)), texts))


def _read_steps(store: Store, order: SampleOrder, steps: int) -> int:
    tokens = 0
    for step in range(steps):
        sets, starts, _ = order.locate(step)
        for index in np.unique(sets):
            mine = starts[sets == index]
            tokens += store.read(int(index), "train", mine, order.sequence_length + 1).size
    return tokens
