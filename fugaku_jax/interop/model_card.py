"""A model card: what the model is, what it has read and under which licences, and how it scored."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fugaku_jax.config import Config
from fugaku_jax.data.store import Store
from fugaku_jax.interop.licences import licence_metadata
from fugaku_jax.models.size import parameter_count
from fugaku_jax.run.going_back import passed_over
from fugaku_jax.run.identity import read_ledger
from fugaku_jax.run.metrics import METRICS_FILE, read_metrics
from fugaku_jax.run.scores import read_gradings
from fugaku_jax.run.sessions import read_sessions


def model_card(
    config: Config,
    store: Store | None,
    run_dir: Path,
    step: int,
    begins: bool,
    licence: str | None = None,
) -> str:
    """Return the card in Markdown, everything in it from the run itself.

    Args:
        config: the run.
        store: its tokens; None if it has read none.
        run_dir: where its metrics are.
        step: steps that the weights have been trained for.
        begins: whether the tokenizer puts a token before every text.
        licence: of the model; that of the texts that it has read if not given.

    Raises:
        InputError: the run's figures or scores are damaged.
    """
    model, training = config.model, config.training
    tokens = step * config.tokens_per_step
    family = "LLaMA" if model.family == "llama" else "GPT-2"
    origin = read_ledger(run_dir).get("imported")
    licences = [licence] if licence else [*_licences(store), *([None] if origin else [])]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        *licence_metadata(licences),
        *_languages(store),
        "tags: [fugaku_jax]",
        "---",
        f"# {run_dir.resolve().name}",
        f"A {family} decoder of {parameter_count(model):,} parameters, trained by fugaku_jax for "
        f"{step:,} steps of {config.tokens_per_step:,} tokens ({tokens:,} in all), with "
        f"arithmetic in {training.precision} on weights in fp32.",
        *_origin(run_dir),
        "",
        "| layers | width | heads | heads of keys | positions | vocabulary |",
        "|---|---|---|---|---|---|",
        f"| {model.n_layers} | {model.d_model} | {model.n_heads} | {model.kv_heads} | "
        f"{model.sequence_length:,} | {model.vocab_size:,} |",
        "",
        "The tokenizer puts a token before every text, as one stood there in training."
        if begins
        else "Nothing stands before a text, as nothing did in training.",
        "",
        "## Data",
        *_data(store, config, run_dir),
        "",
        "## Hardware",
        *_hardware(run_dir, step, training.precision),
        "",
        "## Held-out text",
        *_held_out(run_dir, step),
        "",
        *_graded(run_dir, step),
        _manners(config),
    ]
    return "\n".join(lines) + "\n"


def _languages(store: Store | None) -> Iterator[str]:
    known = {each.domain for each in store.sets} & {"ja", "en"} if store else ()
    if known:
        yield f"language: [{', '.join(sorted(known))}]"


def _licences(store: Store | None) -> Iterator[str | None]:
    """Yield the licences of what was read, None for one that is not known."""
    if store is None:
        return
    for index in range(len(store.sets)):
        yield from _licences_of_set(store, index)


def _licences_of_set(store: Store, index: int) -> set[str | None]:
    tables = store.documents(index, "train").tables(["licence"])
    return {licence for each in tables for licence in each["licence"].unique().to_pylist()}


def _origin(run_dir: Path) -> Iterator[str]:
    """Yield where the weights came from, if they were not random at first."""
    origin = read_ledger(run_dir).get("imported")
    if origin and "of" in origin:
        named = ", ".join(_named(each) for each in origin["of"])
        yield f"It started from the mean of the weights of {named}."
    elif origin:
        yield (
            f"It started from weights in the format of {origin['format']}, imported from "
            f"`{Path(origin['path']).name}` (sha256 of configuration and headers "
            f"`{origin['sha256']}`)."
        )


def _named(origin: dict[str, Any]) -> str:
    """Name one of the models that a mean is of."""
    step = f" at step {origin['step']:,}" if "step" in origin else ""
    return f"`{Path(origin['path']).name}`{step} (sha256 `{origin['sha256']}`)"


def _data(store: Store | None, config: Config, run_dir: Path) -> Iterator[str]:
    if store is None:
        of_several = "of" in read_ledger(run_dir).get("imported", {})
        before = (
            "what the models have read whose mean it is stands in their ledgers"
            if of_several
            else "what it had read before is not known"
        )
        yield f"It has read nothing here; {before}."
        return
    left_out = passed_over(run_dir)
    without = f", without the batches {left_out} (counted from 0)" if left_out.ranges else ""
    yield (
        f"Token store `{store.sha256}` (the root over all tokens, documents and the tokenizer, by "
        f"which `launch/data.py` verifies it and proves what it holds), read in the order of seed "
        f"{config.data.seed}, in batches of {config.training.batch_size} samples of "
        f"{config.model.sequence_length} tokens{without}. `croissant.json` says so to programs, "
        f"with the sources of the documents."
    )
    yield ""
    yield "| set | domain | weight | tokens | documents | licences | roots of tokens, documents |"
    yield "|---|---|---|---|---|---|---|"
    yield from _sets(store)


def _sets(store: Store) -> Iterator[str]:
    for index, each in enumerate(store.sets):
        licences = _licences_of_set(store, index)
        named = ", ".join(sorted(name or "not known" for name in licences)) or "no documents"
        size = f"{each.train.tokens:,} | {each.train.documents:,}"
        yield (
            f"| {_cell(each.name)} | {_cell(each.domain)} | {each.weight} | {size} | "
            f"{_cell(named)} | `{each.train.tokens_root}` `{each.train.documents_root}` |"
        )


def _cell(text: str) -> str:
    """Return a text as a cell of a table, whatever it holds."""
    return " ".join(text.split()).replace("|", "\\|")


def _hardware(run_dir: Path, step: int, precision: str) -> Iterator[str]:
    """Yield what the steps were computed on."""
    sessions = read_sessions(run_dir, step)
    if not sessions:
        yield "It was not recorded." if step else "No step was taken here."
        return
    yield "| from step | processor | devices | processes | arithmetic |"
    yield "|---|---|---|---|---|"
    for each in sessions:
        yield (
            f"| {each.steps_before + 1:,} | {_cell(each.processor)} | {each.devices:,} | "
            f"{each.processes:,} | {precision} |"
        )
    seconds = sum(line.get("step_seconds", math.nan) for line in _metrics(run_dir, step))
    yield ""
    yield f"The steps took {seconds / 3600:,.2f} hours in all."


def _metrics(run_dir: Path, step: int) -> list[dict[str, float | int]]:
    """Return the figures of the steps up to one; none if the run has none."""
    known = read_metrics(run_dir) if (run_dir / METRICS_FILE).exists() else []
    return [line for line in known if line["step"] <= step]


def _held_out(run_dir: Path, step: int) -> Iterator[str]:
    """Yield the last validation up to a step."""
    scored = [line for line in _metrics(run_dir, step) if "validation_loss" in line]
    if not scored:
        yield "None was scored."
        return
    last = scored[-1]
    yield "| domain | nats a token | bits a byte |"
    yield "|---|---|---|"
    for name in sorted(last):
        if name.startswith("validation/") and name.endswith("/loss"):
            domain = name.removeprefix("validation/").removesuffix("/loss")
            bits = last.get(f"validation/{domain}/bits_per_byte", math.nan)
            yield f"| {_cell(domain)} | {last[name]:.4f} | {bits:.4f} |"
    overall = last["validation_loss"], last.get("validation_bits_per_byte", math.nan)
    yield f"| all, after {last['step']:,} steps | {overall[0]:.4f} | {overall[1]:.4f} |"


def _graded(run_dir: Path, step: int) -> Iterator[str]:
    """Yield what graded these weights, if anything did."""
    gradings = [each for each in read_gradings(run_dir) if each.step == step]
    if not gradings:
        return
    yield "## Scores"
    yield "| task | figure | value | standard error | items | contaminated | value of the clean |"
    yield "|---|---|---|---|---|---|---|"
    for each in (score for grading in gradings for score in grading.scores):
        error = "" if each.standard_error is None else f"{each.standard_error:.4f}"
        share = "not known" if each.contaminated is None else f"{each.contaminated:.1%}"
        clean = "" if each.clean is None else f"{each.clean:.4f}"
        yield (
            f"| {_cell(each.task)} | {_cell(each.metric)} | {each.value:.4f} | {error} | "
            f"{each.items:,} | {share} | {clean} |"
        )
    yield ""
    yield "Contaminated are items that stand word for word in what the model has read."
    yield ""


def _manners(config: Config) -> str:
    """Say what may be expected of its answers."""
    if config.data.learn == "answers":
        return (
            "It has been tuned on dialogues, told by the chat template that comes with it, and not "
            "to refuse anything but what these refuse; it may say what is false."
        )
    return (
        "It has been tuned neither to follow instructions nor to refuse any; it may say what is "
        "false."
    )
