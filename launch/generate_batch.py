"""Continue the prompts of a file, many side by side."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fugaku_jax.cluster.devices import emulate
from fugaku_jax.compile_cache import use_compile_cache
from fugaku_jax.config import MeshConfig
from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.json_lines import GrowingLines
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.engine import Engine
from fugaku_jax.inference.files import FOUND, continue_prompts_of_file, read_prompts
from fugaku_jax.interop.base import open_base
from fugaku_jax.interop.load import load_for_inference
from fugaku_jax.run.made_with import begin_or_go_on

Choices = Annotated[Options, tyro.conf.arg(name=""), tyro.conf.UseAppendAction]


def batch(
    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_OR_HF_DIR")],
    prompts: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PROMPTS.JSONL")],
    out: Path,
    options: Choices = Options(),  # noqa: B008
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16",
    weights: Literal["int8"] | None = None,
    slots: int = 32,
    cache_tokens: int | None = None,
    emulate_devices: int | None = None,
    mesh: MeshConfig = MeshConfig(),  # noqa: B008
) -> None:
    """Continue the prompts of a file; what several begin with is computed once.

    Args:
        model: Run directory, whose newest checkpoint is taken, or a model directory of Hugging
            Face's.
        prompts: A JSON object a line, with "prompt" and any of the options.
        out: File for the same lines with their continuations; what it has is not made again.
        options: Of lines that do not say otherwise.
        dtype: Type of weights, cache and arithmetic.
        weights: Type of weights in products, if it is another: int8 is half of what bf16 reads.
        slots: Most prompts that are continued side by side.
        cache_tokens: Tokens whose keys and values are kept; as many as all slots can use if not
            given.
        emulate_devices: Let this process have so many devices, by emulation on its CPU.
        mesh: How many devices share the work, and how.
    """
    if mesh.pipeline != 1 or mesh.context != 1 or mesh.data > 1:
        raise InputError("A batch is shared by --mesh.tensor alone.")
    emulate(emulate_devices)
    use_compile_cache()
    loaded = load_for_inference(model, dtype, mesh)
    given = loaded.model, loaded.tokenizer, loaded.first_token, dtype
    engine = Engine(*given, slots=slots, positions=cache_tokens, weights=weights)
    del loaded, given
    asked = read_prompts(engine, prompts, options)
    sha256 = open_base(model).start.origin["sha256"]
    made_with = {"model_sha256": sha256, "dtype": dtype, "weights": weights}
    made_with |= asdict(options) | {"stop": list(options.stop)}
    begin_or_go_on(out, out.with_name(f"{out.name}.made_with.json"), made_with)
    with GrowingLines(out, FOUND) as file:
        continue_prompts_of_file(engine, asked, file.lines, file.append)
    print(f"{out}: {len(asked)} continuations")
