"""What may turn out wrong with a converted model, to be said once it is written."""

from collections.abc import Iterator
from pathlib import Path

from fugaku_jax.config import ModelConfig
from fugaku_jax.interop.imported import Imported
from fugaku_jax.interop.spoken import Spoken
from fugaku_jax.interop.tokenizer_json import puts_space_before

_EVEN_HEADS = 32
"""What the width of a head is a multiple of in all of vLLM's backends."""


def doubts_of_export(model: ModelConfig) -> Iterator[str]:
    """Yield a sentence for each, of a model that has left."""
    if model.head_dim % _EVEN_HEADS:
        yield (
            f"heads of width {model.head_dim} are not known to all of vLLM's attention backends."
        )


def doubts_of_gguf(source: Spoken) -> Iterator[str]:
    """Yield a sentence for each, of a model in a GGUF file: what llama.cpp leaves to its user."""
    if source.first_token is not None:
        yield (
            "llama.cpp's own programs put nothing before a text, though the file tells them that "
            f"{source.tokenizer.piece(source.first_token)} stood there; begin prompts with it."
        )
    if puts_space_before(source.tokenizer):
        yield "llama.cpp puts no space before a text, as the tokenizer does; begin texts with one."


def doubts_of_import(source: Imported, run_dir: Path) -> Iterator[str]:
    """Yield a sentence for each, of a model that is now a run."""
    if source.tokenizer is None:
        yield (
            f"{run_dir} has no tokenizer, so it can neither speak nor leave; give one by "
            "--tokenizer."
        )
    elif source.tokenizer.only_here:
        yield f"its tokenizer {source.tokenizer.only_here}."
