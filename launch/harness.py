"""`evaluate.py harness`: a model does tasks of lm-evaluation-harness."""

import json as json_format
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import tyro
from learned_from import LearnedFrom, knowledge_of
from scores import keep, print_scores

from fugaku_jax.cluster.devices import emulate
from fugaku_jax.compile_cache import use_compile_cache
from fugaku_jax.config import MeshConfig
from fugaku_jax.errors import InputError
from fugaku_jax.interop.load import load_for_inference

Model = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN_OR_HF_DIR")]]
Known = Annotated[LearnedFrom, tyro.conf.arg(name="")]


def harness(
    model: Model,
    tasks: tuple[str, ...],
    data: Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    dtype: Literal["bfloat16", "float32", "float16"] = "float32",
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    emulate_devices: int | None = None,
    mesh: MeshConfig = MeshConfig(),  # noqa: B008
    known: Known = LearnedFrom(),  # noqa: B008
) -> None:
    """Do tasks of lm-evaluation-harness, and print their figures with standard errors.

    Args:
        model: Run directory, whose newest checkpoint is taken, or a model directory of Hugging
            Face's. A run keeps the scores in RUN/scores.
        tasks: Task files (YAML), directories of them, or names that the harness knows.
        data: Directory that a task file's data files lie in; that of the task file if not given.
        limit: Most items of a task.
        num_fewshot: Examples before each item, in the place of what the task says.
        dtype: Type of weights and arithmetic.
        json: Print one JSON object instead of a table.
        emulate_devices: Let this process have so many devices, by emulation on its CPU.
        mesh: How many devices share the work, and how.
        known: Where it is looked up which items the model has learned from.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit is {limit}, but it must be greater than 0.")
    if mesh.pipeline != 1 or mesh.context != 1:
        raise InputError("Generation is shared by --mesh.data and --mesh.tensor alone.")
    try:
        from fugaku_jax.evaluation.harness import do_tasks
        from fugaku_jax.evaluation.harness_model import HarnessModel
        from fugaku_jax.evaluation.harness_tasks import tasks_of
    except ModuleNotFoundError as error:
        raise InputError(
            f"The harness needs {error.name}: pip install 'fugaku-jax[grade]'."
        ) from None
    wanted = [each for name in tasks for each in tasks_of(name, data)]
    os.environ["DISABLE_MULTIPROC"] = "1"  # no standard error by processes that are forked here
    emulate(emulate_devices)
    use_compile_cache()
    loaded = load_for_inference(model, dtype, mesh)
    knows, contamination = knowledge_of(model, known)
    asked = HarnessModel(loaded.model, loaded.tokenizer, loaded.first_token, dtype)
    scores, found = do_tasks(asked, wanted, limit, num_fewshot, knows)
    if json:
        said = {"model": str(model), **found, "contamination": contamination}
        said |= {"scores": [asdict(each) for each in scores]}
        print(json_format.dumps(said, ensure_ascii=False, default=str))
    else:
        print_scores(f"Tasks of {model}", scores)
        print(contamination)
    how = {"dtype": dtype, "limit": limit, "num_fewshot": num_fewshot}
    for task in dict.fromkeys(each.task for each in scores):
        mine = [each for each in scores if each.task == task]
        keep(model, "harness", how, contamination, mine, task)
