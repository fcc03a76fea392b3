"""A model for use, from a run of ours or a model directory of Hugging Face's."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from jax.typing import DTypeLike

from fugaku_jax.config import Config, MeshConfig, ModelConfig
from fugaku_jax.data.builtin import open_store
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf_import import TOKENIZER, open_hf
from fugaku_jax.interop.hf_shape import is_hf_directory
from fugaku_jax.interop.imported import default_run, place_parameters
from fugaku_jax.models.gpt import GPT
from fugaku_jax.models.layout import layout_for_use
from fugaku_jax.models.segments import token_before_text
from fugaku_jax.run.identity import TOKENIZER_FILE, is_untrained, read_ledger
from fugaku_jax.training.checkpoint import load_model
from fugaku_jax.training.whole_model import whole_model


class Loaded(NamedTuple):
    """A model and what its texts are made of."""

    config: ModelConfig
    model: GPT
    tokenizer: Tokenizer
    first_token: int | None
    """What stands before every text, None for nothing: as in our training, unless the model comes
    from elsewhere and says otherwise."""


def load_for_inference(path: Path, dtype: DTypeLike, mesh: MeshConfig | None = None) -> Loaded:
    """Load a model and its tokenizer onto this job's devices.

    The weights are split by the mesh's tensor axes and lie whole along all others, which carry
    data. Nothing but the weights is read, each process reads what its devices need, and there is
    no copy in another type.

    Args:
        path: a run, whose newest checkpoint is taken, or a model directory of Hugging Face's.
        dtype: type of the weights.
        mesh: how the devices share the model; all carry data if not given.

    Raises:
        InputError: it is neither, it is incomplete or damaged, it has no tokenizer, or the mesh
            does not fit.
    """
    if not path.is_dir():
        raise InputError(f"{path} is no directory; give a run or a model directory.")
    if not is_hf_directory(path):
        config, model = load_model(path, dtype, mesh)
        tokenizer = run_tokenizer(path, config)
        return Loaded(config.model, model, tokenizer, run_first_token(path, config, tokenizer))
    source = open_hf(path)
    if source.tokenizer is None:
        raise InputError(
            f"{path} has no {TOKENIZER}, nor a tokenizer.json that one could be made of; copy the "
            "SentencePiece model that it was trained with there."
        )
    layout = layout_for_use(replace(default_run(source.model), mesh=mesh or MeshConfig()))
    model = whole_model(layout, place_parameters(source, layout, dtype))
    first = source.origin.get("first_token", source.tokenizer.end_of_document)
    return Loaded(source.model, model, source.tokenizer, first)


def run_tokenizer(run_dir: Path, config: Config) -> Tokenizer:
    """Return a run's tokenizer: that of its store, or the one that was imported with it.

    Raises:
        InputError: the store is not where the run found it, or nothing was imported but weights.
    """
    came = run_dir / TOKENIZER_FILE
    if came.exists():
        return Tokenizer.from_file(came)
    if is_untrained(run_dir):
        raise InputError(f"{run_dir} was imported without a tokenizer, so it knows no text.")
    return open_store(config.data.store).tokenizer()


def run_first_token(run_dir: Path, config: Config, tokenizer: Tokenizer) -> int | None:
    """Return what stands before the texts of a run's model, None for nothing.

    It is what stood there in training, here or, as far as that model says, where it was imported
    from.
    """
    origin = read_ledger(run_dir)["imported"] if is_untrained(run_dir) else {}
    ours = token_before_text(config.data, tokenizer.end_of_document)
    return origin.get("first_token", ours)
