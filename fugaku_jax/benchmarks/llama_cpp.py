"""A GPT-2 of a shape in llama.cpp, generating for several prompts at once (`llama-cpp-python`).

All rows are decoded in one batch a step, each as a sequence of its own, as llama.cpp's own
`llama-batched-bench` does it, and the most probable token is taken of each.
"""

import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
from jaxtyping import Int

from fugaku_jax.config import ModelConfig
from fugaku_jax.data.builtin import open_store
from fugaku_jax.interop.gguf_file import write_gguf
from fugaku_jax.interop.spoken import Spoken
from fugaku_jax.processor import available_cores


class Greedy:
    """A model in llama.cpp with a context for a batch."""

    def __init__(self, model: ModelConfig, batch: int, prompt_tokens: int) -> None:
        """Write random weights in bf16 and load them.

        Args:
            model: the shape; its vocabulary has room for the built-in corpus's tokenizer.
            batch: rows of a call.
            prompt_tokens: tokens of a prompt.
        """
        random = np.random.default_rng(0)
        tokenizer = open_store("builtin").tokenizer()
        source = Spoken(
            model,
            lambda tensor: random.standard_normal(tensor.shape, np.float32) * np.float32(0.02),
            tokenizer,
            first_token=None,
            chat_template=None,
            origin={"path": "random"},
        )
        llama_cpp.llama_backend_init()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "random.gguf"
            write_gguf(source, path, "bfloat16")
            settings = llama_cpp.llama_model_default_params()
            loaded = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = batch * model.sequence_length
        settings.n_batch = batch * prompt_tokens
        settings.n_seq_max = batch
        settings.n_threads = settings.n_threads_batch = len(available_cores())
        self._context = llama_cpp.llama_init_from_model(loaded, settings)
        self._batch = llama_cpp.llama_batch_init(batch * prompt_tokens, 0, 1)
        self._vocab_size = model.vocab_size

    def __call__(self, prompts: Int[np.ndarray, "B T"], new_tokens: int) -> Int[np.ndarray, "B N"]:
        """Return the most probable tokens that follow prompts."""
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_clear(memory, False)
        tokens, found = prompts, []
        for step in range(new_tokens):
            at = 0 if step == 0 else prompts.shape[1] + step - 1
            tokens = self._next(tokens, at)[:, None]
            found.append(tokens)
        return np.concatenate(found, axis=1)

    def _next(self, tokens: Int[np.ndarray, "B T"], at: int) -> Int[np.ndarray, "B"]:
        """Decode tokens whose first stand at a position, and return those that follow."""
        batch, length = self._batch, tokens.shape[1]
        batch.n_tokens = tokens.size
        for place, token in enumerate(tokens.ravel().tolist()):
            row, column = divmod(place, length)
            batch.token[place], batch.pos[place] = token, at + column
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
            batch.logits[place] = column == length - 1
        if llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError("llama.cpp could not decode a batch")
        ends = range(length - 1, tokens.size, length)
        return np.array([self._logits(place).argmax() for place in ends])

    def _logits(self, place: int) -> np.ndarray:
        pointer = llama_cpp.llama_get_logits_ith(self._context, place)
        return np.ctypeslib.as_array(pointer, (self._vocab_size,))
