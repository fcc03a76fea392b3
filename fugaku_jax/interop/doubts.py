"""What may turn out wrong with a converted model, to be said once it is written."""

from collections.abc import Iterator
from pathlib import Path

from fugaku_jax.config import ModelConfig
from fugaku_jax.interop.imported import Imported

_EVEN_HEADS = 32
"""What the width of a head is a multiple of in all of vLLM's backends."""


def doubts_of_export(model: ModelConfig) -> Iterator[str]:
    """Yield a sentence for each, of a model that has left."""
    if model.head_dim % _EVEN_HEADS:
        yield (
            f"heads of width {model.head_dim} are not known to all of vLLM's attention backends."
        )


def doubts_of_import(source: Imported, run_dir: Path) -> Iterator[str]:
    """Yield a sentence for each, of a model that is now a run."""
    if source.tokenizer is None:
        yield (
            f"{run_dir} has no tokenizer, so it can neither speak nor leave; give one by "
            "--tokenizer."
        )
    elif source.tokenizer.only_here:
        yield f"its tokenizer {source.tokenizer.only_here}."
