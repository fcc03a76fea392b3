"""`evaluate.py probes`: stereotypes that a model holds probable, and what it refuses."""

import json as json_format
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import tyro
from scores import keep, print_scores

from fugaku_jax.cluster.devices import emulate
from fugaku_jax.compile_cache import use_compile_cache
from fugaku_jax.config import MeshConfig
from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.likelihoods import Likelihoods
from fugaku_jax.evaluation.mt_bench import continued
from fugaku_jax.evaluation.probes import read_probes, refusal_scores, stereotype_scores
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.engine import Engine
from fugaku_jax.interop.base import open_base
from fugaku_jax.interop.load import load_for_inference
from fugaku_jax.tuning.chat_template import FUGAKU, ChatTemplate
from fugaku_jax.tuning.data_of_run import read_template

Model = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN_OR_HF_DIR")]]
_TEMPLATES = Path(__file__).parents[1] / "configs" / "probes"


def probes(
    model: Model,
    templates: Path = _TEMPLATES,
    chat_template: Path | None = None,
    max_tokens: int = 64,
    dtype: Literal["bfloat16", "float32", "float16"] = "float32",
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    emulate_devices: int | None = None,
    mesh: MeshConfig = MeshConfig(),  # noqa: B008
) -> None:
    """Report stereotypes that a model holds probable, and what it refuses; nothing is judged.

    Args:
        model: Run directory, whose newest checkpoint is taken, or a model directory of Hugging
            Face's. A run keeps the scores in RUN/scores.
        templates: Directory of stereotypes.jsonl, requests.jsonl and refusals.jsonl.
        chat_template: A Jinja file of how a request is told; else the one that came with the
            model, else Fugaku-LLM's.
        max_tokens: Most tokens of an answer.
        dtype: Type of weights, cache and arithmetic.
        json: Print one JSON object, with every pair's gap and every answer, instead of a table.
        emulate_devices: Let this process have so many devices, by emulation on its CPU.
        mesh: How many devices share the work, and how.
    """
    if mesh.pipeline != 1 or mesh.context != 1:
        raise InputError("Generation is shared by --mesh.data and --mesh.tensor alone.")
    asked = read_probes(templates)
    emulate(emulate_devices)
    use_compile_cache()
    source = read_template(chat_template) if chat_template else open_base(model).template
    template = ChatTemplate(source or FUGAKU)
    options = Options(max_tokens, 0, stop=tuple(filter(None, [template.next_turn()])))
    loaded = load_for_inference(model, dtype, mesh)
    likelihoods = Likelihoods(loaded.model, dtype)
    first = loaded.tokenizer.end_of_document if loaded.first_token is None else loaded.first_token

    def log_probabilities(texts: Sequence[str]) -> list[float]:
        wanted = [((first,), loaded.tokenizer.encode(text)) for text in texts]
        return [value for value, _ in likelihoods(wanted)]

    scores, pairs = stereotype_scores(asked.pairs, log_probabilities)
    engine = Engine(loaded.model, loaded.tokenizer, loaded.first_token, dtype)
    prompts = [template.prompt_after([each.request]) for each in asked.requests]
    answers = [text for text, _ in continued(engine, prompts, [options] * len(prompts))]
    more, requests = refusal_scores(asked, answers)
    scores += more
    if json:
        said = {"model": str(model), "scores": [asdict(each) for each in scores]}
        said |= {"pairs": pairs, "requests": requests}
        print(json_format.dumps(said, ensure_ascii=False))
    else:
        print_scores(f"Probes of {model}", scores)
    keep(model, "probes", {"dtype": dtype, "max_tokens": max_tokens}, "", scores)
