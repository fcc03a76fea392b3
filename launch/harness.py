"""`evaluate.py harness`: a model does tasks of lm-evaluation-harness."""

import json as json_format
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from fugaku_jax.cluster.devices import emulate
from fugaku_jax.compile_cache import use_compile_cache
from fugaku_jax.config import MeshConfig
from fugaku_jax.errors import InputError
from fugaku_jax.interop.load import load_for_inference

Model = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN_OR_HF_DIR")]]
_FIELDS = ("task", "output_type", "dataset_path", "test_split", "doc_to_text", "doc_to_target")


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
) -> None:
    """Do tasks of lm-evaluation-harness, and print their figures with standard errors.

    Args:
        model: Run directory, whose newest checkpoint is taken, or a model directory of Hugging
            Face's.
        tasks: Task files (YAML), directories of them, or names that the harness knows.
        data: Directory that a task file's data files lie in; that of the task file if not given.
        limit: Most items of a task.
        num_fewshot: Examples before each item, in the place of what the task says.
        dtype: Type of weights and arithmetic.
        json: Print one JSON object instead of a table.
        emulate_devices: Let this process have so many devices, by emulation on its CPU.
        mesh: How many devices share the work, and how.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit is {limit}, but it must be greater than 0.")
    if mesh.pipeline != 1 or mesh.context != 1:
        raise InputError("Generation is shared by --mesh.data and --mesh.tensor alone.")
    try:
        import lm_eval

        from fugaku_jax.evaluation.harness_model import HarnessModel
    except ModuleNotFoundError as error:
        raise InputError(
            f"The harness needs {error.name}: pip install 'fugaku-jax[grade]'."
        ) from None
    wanted = [each for name in tasks for each in tasks_of(name, data)]
    os.environ["DISABLE_MULTIPROC"] = "1"  # no standard error by processes that are forked here
    emulate(emulate_devices)
    use_compile_cache()
    loaded = load_for_inference(model, dtype, mesh)
    asked = HarnessModel(loaded.model, loaded.tokenizer, loaded.first_token, dtype)
    found = lm_eval.simple_evaluate(
        asked,
        tasks=wanted,
        limit=limit,
        num_fewshot=num_fewshot,
        log_samples=False,
        bootstrap_iters=1000,
    )
    results = {"model": str(model), "results": found["results"], "n_samples": found["n-samples"]}
    if json:
        print(json_format.dumps(results, ensure_ascii=False, default=str))
    else:
        print_results(results)


def tasks_of(name: str, data: Path | None) -> list[str | dict[str, Any]]:
    """Return the tasks of a file or directory, or a name of the harness's as it is.

    Raises:
        InputError: there is no such task, or a file lacks a field or its data.
    """
    path = Path(name)
    if path.is_dir():
        files = sorted(path.glob("*.yaml"))
        if not files:
            raise InputError(f"--tasks {name} has no task files (.yaml).")
        return [read_task(each, data) for each in files]
    if path.suffix in (".yaml", ".yml"):
        return [read_task(path, data)]
    from lm_eval.tasks import TaskManager

    if name not in TaskManager().all_tasks:
        raise InputError(f"--tasks {name} is no file, directory, or task that the harness knows.")
    return [name]


def read_task(path: Path, data: Path | None) -> dict[str, Any]:
    """Read a task file, whose data files are looked for in `data` or beside it."""
    import yaml

    try:
        task = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(task, dict):
        raise InputError(f"{path} is no task: it holds no fields.")
    if missing := [each for each in _FIELDS if each not in task]:
        raise InputError(f"{path} lacks the field {missing[0]}.")
    files = task.get("dataset_kwargs", {}).get("data_files", {})
    for split, file in files.items():
        place = (data or path.parent) / file
        if not place.is_file():
            raise InputError(f"{path}: there is no {place}; --data DIR says where its data are.")
        files[split] = str(place.resolve())
    return task


def print_results(results: dict[str, Any]) -> None:
    """Print a line for each figure of each task."""
    table = Table(title=f"Tasks of {results['model']}", title_justify="left")
    table.add_column("task")
    table.add_column("figure")
    for heading in ("value", "± standard error", "items"):
        table.add_column(heading, justify="right")
    for task, figures in results["results"].items():
        items = results["n_samples"].get(task, {}).get("effective", "")
        for name, value in figures.items():
            metric, _, filtered = name.partition(",")
            if filtered and isinstance(value, float) and not metric.endswith("_stderr"):
                error = figures.get(f"{metric}_stderr,{filtered}")
                shown = f"{error:.4f}" if isinstance(error, float) else ""
                label = metric if filtered == "none" else f"{metric} ({filtered})"
                table.add_row(task, label, f"{value:.4f}", shown, str(items))
    Console().print(table)
