"""Take a model to other projects, or bring one here.

python launch/convert.py to-hf runs/tiny models/tiny     # for transformers and vLLM
python launch/convert.py to-peft runs/lora adapters/lora  # what LoRA has learned, for peft
python launch/convert.py to-gguf runs/tiny tiny.gguf     # for llama.cpp
python launch/convert.py from-hf models/tiny runs/again  # GPT-2 or LLaMA, from safetensors
python launch/convert.py average runs/chat1 runs/chat2 --out runs/chat  # the mean of their weights
python launch/convert.py from-megatron checkpoints runs/13b --tokenizer llmjp.model
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import tyro
from command import parse, run_program

from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.interop.average import open_average
from fugaku_jax.interop.doubts import doubts_of_export, doubts_of_gguf, doubts_of_import
from fugaku_jax.interop.gguf_file import write_gguf
from fugaku_jax.interop.hf import export_run
from fugaku_jax.interop.hf_import import open_hf
from fugaku_jax.interop.import_run import import_run
from fugaku_jax.interop.imported import Imported
from fugaku_jax.interop.megatron import open_megatron
from fugaku_jax.interop.peft import export_adapter
from fugaku_jax.interop.spoken import open_spoken
from fugaku_jax.models.size import parameter_count
from fugaku_jax.run.configuration import read_config
from fugaku_jax.run.identity import is_untrained, open_run_store

Run = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
Directory = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]
Model = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN|DIR")]]
Out = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]


def to_hf(
    run: Run,
    out: Out,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    shard_gb: float = 5.0,
    store: str | None = None,
    license: str | None = None,
) -> None:
    """Write a model directory of Hugging Face's: weights, configuration, tokenizer and card.

    Args:
        run: Run directory; its newest checkpoint is taken.
        out: Directory to write.
        dtype: Type of the weights; float32 is what training has.
        shard_gb: Most gigabytes of weights in a file.
        store: Folder or URL of the run's store, if it is no longer where the run found it.
        license: Licence of the model, for its card; without it, that of the texts in the store.
    """
    if not shard_gb > 0:
        raise InputError(f"--shard-gb is {shard_gb}, but it must be greater than 0.")
    config = read_config(run)
    tokens = None if is_untrained(run) and not store else open_run_store(run, config, store)
    files = export_run(run, out, tokens, dtype, int(shard_gb * 1e9), license)
    warn(doubts_of_export(config.model))
    print(f"{out}: {', '.join(files)}")


def to_peft(run: Run, out: Out, base: Path | None = None) -> None:
    """Write the adapters that a run has learned by LoRA, for `peft` to load onto its model.

    Args:
        run: Run directory; its newest checkpoint is taken.
        out: Directory to write.
        base: Model directory that they are for, if not where the run found its model.
    """
    print(f"{out}: {', '.join(export_adapter(run, out, base))}")


def to_gguf(
    model: Model,
    out: Out,
    dtype: Literal["float32", "float16", "bfloat16", "q8_0"] = "float16",
) -> None:
    """Write a GGUF file for llama.cpp: weights, vocabulary and chat template.

    Args:
        model: Run directory, whose newest checkpoint is taken, or model directory of Hugging
            Face's (GPT2LMHeadModel or LlamaForCausalLM).
        out: File to write.
        dtype: Type of the matrices.
    """
    source = open_spoken(model)
    write_gguf(source, out, dtype)
    warn(doubts_of_gguf(source))
    print(f"{out}: {source.model.family}, {out.stat().st_size:,} bytes")


def from_hf(directory: Directory, run: Run, tokenizer: Path | None = None) -> None:
    """Make a run of a model directory of Hugging Face's (GPT2LMHeadModel or LlamaForCausalLM).

    Args:
        directory: Model directory, with weights as safetensors.
        run: Run directory to write; its weights are those of step 0.
        tokenizer: SentencePiece model that it was trained with, if it is not in the directory.
    """
    came = None if tokenizer is None else Tokenizer.from_file(tokenizer)
    write(open_hf(directory, came), run)


def from_megatron(
    directory: Directory,
    run: Run,
    tokenizer: Path | None = None,
    vocab_size: int | None = None,
) -> None:
    """Make a run of a GPT of Megatron-LM's or Megatron-DeepSpeed's; nothing in it is executed.

    Args:
        directory: Checkpoint, or one of its iterations.
        run: Run directory to write; its weights are those of step 0.
        tokenizer: SentencePiece model that its data was encoded with.
        vocab_size: Tokens that may have probability, if not the tokenizer's pieces.
    """
    came = None if tokenizer is None else Tokenizer.from_file(tokenizer)
    write(open_megatron(directory, came, vocab_size), run)


def average(
    models: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN|DIR")]],
    out: Path,
) -> None:
    """Make a run of the mean of the weights of models, such as several tunings of one.

    Args:
        models: Run directories, whose newest checkpoint is taken; RUN/checkpoints/STEP; or model
            directories of Hugging Face's.
        out: Run directory to write; its weights are those of step 0.
    """
    write(open_average(models), out)


def write(source: Imported, run: Path) -> None:
    """Write a run and say what it is."""
    import_run(source, run)
    print(f"{run}: {source.model.family}, {parameter_count(source.model):,} parameters")
    warn(doubts_of_import(source, run))


def warn(doubts: Iterable[str]) -> None:
    """Say what may turn out wrong."""
    for doubt in doubts:
        print(f"warning: {doubt}", file=sys.stderr)


def main() -> None:
    """Read the arguments and convert."""
    programs = {
        "to-hf": to_hf,
        "to-peft": to_peft,
        "to-gguf": to_gguf,
        "from-hf": from_hf,
        "from-megatron": from_megatron,
        "average": average,
    }
    parse(programs, description=__doc__)


if __name__ == "__main__":
    run_program(main)
