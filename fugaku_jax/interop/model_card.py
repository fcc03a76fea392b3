"""A model card: what the model is, what it has read and under which licences, and how it scored."""

import json
from collections.abc import Iterator
from pathlib import Path

from fugaku_jax.config import Config
from fugaku_jax.data.store import Store
from fugaku_jax.models.gpt import parameter_count
from fugaku_jax.training.run import read_ledger


def model_card(config: Config, store: Store | None, run_dir: Path, step: int) -> str:
    """Return the card in Markdown, everything in it from the run itself.

    Args:
        config: the run.
        store: its tokens; None if it has read none.
        run_dir: where its metrics are.
        step: steps that the weights have been trained for.
    """
    model, training = config.model, config.training
    tokens = step * config.tokens_per_step
    family = "LLaMA" if model.family == "llama" else "GPT-2"
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        *_languages(store),
        "tags: [fugaku_jax]",
        "---",
        f"# {run_dir.name}",
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
        "## Data",
        *_data(store, config.data.seed),
        "",
        "## Held-out text",
        *_scores(run_dir, step),
        "",
        "It has been tuned neither to follow instructions nor to refuse any; it may say what is "
        "false.",
    ]
    return "\n".join(lines) + "\n"


def _languages(store: Store | None) -> Iterator[str]:
    if store:
        known = {each.domain for each in store.sets} & {"ja", "en"}
        yield f"language: [{', '.join(sorted(known))}]"


def _origin(run_dir: Path) -> Iterator[str]:
    """Yield where the weights came from, if they were not random at first."""
    origin = read_ledger(run_dir).get("imported")
    if origin:
        yield (
            f"It started from weights in the format of {origin['format']}, imported from "
            f"`{Path(origin['path']).name}` (sha256 of configuration and headers "
            f"`{origin['sha256']}`)."
        )


def _data(store: Store | None, seed: int) -> Iterator[str]:
    if store is None:
        yield "It has read nothing here; what it had read before is not known."
        return
    yield (
        f"Token store `{store.sha256}` (root hash over all tokens, documents and the tokenizer), "
        f"read in the order of seed {seed}."
    )
    yield ""
    yield "| set | domain | weight | tokens | documents | licences |"
    yield "|---|---|---|---|---|---|"
    yield from _sets(store)


def _sets(store: Store) -> Iterator[str]:
    for index, each in enumerate(store.sets):
        licences = store.documents(index, "train").column("licence").unique().to_pylist()
        named = ", ".join(sorted(name or "not known" for name in licences)) or "no documents"
        yield (
            f"| {each.name} | {each.domain} | {each.weight} | {each.train.tokens:,} | "
            f"{each.train.documents:,} | {named} |"
        )


def _scores(run_dir: Path, step: int) -> Iterator[str]:
    """Yield the last validation up to a step."""
    scored = {}
    path = run_dir / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        metrics = json.loads(line)
        if metrics["step"] <= step and "validation_loss" in metrics:
            scored = metrics
    if not scored:
        yield "None was scored."
        return
    yield "| domain | nats a token | bits a byte |"
    yield "|---|---|---|"
    for name in sorted(scored):
        if name.startswith("validation/") and name.endswith("/loss"):
            domain = name.split("/")[1]
            bits = scored[f"validation/{domain}/bits_per_byte"]
            yield f"| {domain} | {scored[name]:.4f} | {bits:.4f} |"
    overall = scored["validation_loss"], scored["validation_bits_per_byte"]
    yield f"| all, after {scored['step']:,} steps | {overall[0]:.4f} | {overall[1]:.4f} |"
