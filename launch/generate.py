"""Let a trained model continue texts.

python launch/generate.py runs/tiny "むかしむかし"
python launch/generate.py models/tiny "one" "two" --temperature 0 --max-tokens 64
python launch/generate.py batch runs/tiny prompts.jsonl --out texts.jsonl
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

from fugaku_jax.huge_pages import use_huge_pages

if __name__ == "__main__":  # here, so that what follows is imported only once
    use_huge_pages()

import generate_batch
import tyro
from command import parse, run_program
from generate_batch import batch

from fugaku_jax.cluster.devices import emulate
from fugaku_jax.compile_cache import use_compile_cache
from fugaku_jax.config import MeshConfig
from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import Options, cache_positions, prompt_tokens
from fugaku_jax.inference.engine import Engine
from fugaku_jax.inference.terminal import print_stream, print_texts, print_tokens
from fugaku_jax.interop.load import load_for_inference

Model = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN_OR_HF_DIR")]]
Prompts = tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="PROMPT")]]
Stops = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
Off = tyro.conf.FlagCreatePairsOff


def generate(
    model: Model,
    prompts: Prompts = (),
    max_tokens: int = 256,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    stop: Stops = (),
    seed: int = 0,
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16",
    weights: Literal["int8"] | None = None,
    log_probs: Annotated[bool, Off] = False,
    emulate_devices: int | None = None,
    mesh: MeshConfig = MeshConfig(),  # noqa: B008
) -> None:
    """Print what follows each prompt, as it comes.

    Args:
        model: Run directory, whose newest checkpoint is taken, or a model directory of Hugging
            Face's.
        prompts: Texts to continue.
        max_tokens: Most tokens of a continuation.
        temperature: What logits are divided by; 0 takes the most probable token.
        top_k: Choose among so many of the most probable tokens; 0 for all.
        top_p: Choose among the fewest most probable tokens of this probability together.
        repetition_penalty: Above 1, tokens that the text has already are less probable.
        stop: The text ends before this; may be given several times. A newline is $'\\n' in bash.
        seed: Of the random choice.
        dtype: Type of weights, cache and arithmetic.
        weights: Type of weights in products, if it is another: int8 is half of what bf16 reads.
        log_probs: Print each token with the logarithm of its probability instead of the text.
        emulate_devices: Let this process have so many devices, by emulation on its CPU.
        mesh: How many devices share the work, and how.
    """
    options = Options(max_tokens, temperature, top_k, top_p, repetition_penalty, stop, seed)
    if not prompts:
        raise InputError("Give prompts, or `batch`, the model, and a file of prompts.")
    emulate(emulate_devices)
    if mesh.pipeline != 1 or mesh.context != 1 or mesh.data > 1:
        raise InputError("Generation is shared by --mesh.tensor alone.")
    use_compile_cache()
    loaded = load_for_inference(model, dtype, mesh)
    given = loaded.model, loaded.tokenizer, loaded.first_token, dtype
    tokens = [prompt_tokens(*given[1:3], prompt) for prompt in prompts]
    positions = cache_positions(tokens, max_tokens, loaded.config.sequence_length)
    engine = Engine(*given, slots=len(prompts), positions=positions, weights=weights)
    del loaded, given
    if log_probs:
        print_tokens(engine, prompts, options)
    elif len(prompts) > 1:
        print_texts(engine, prompts, options)
    else:
        print_stream(engine, prompts[0], options)


def main() -> None:
    """Read the arguments and generate."""
    if sys.argv[1:2] == ["batch"]:
        parse(batch, sys.argv[2:], description=generate_batch.__doc__)
    else:
        parse(generate, description=__doc__)


if __name__ == "__main__":
    run_program(main)
