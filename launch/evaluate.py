r"""Score a trained model.

python launch/evaluate.py perplexity runs/tiny
python launch/evaluate.py perplexity runs/tiny --max-tokens 100000 --json
python launch/evaluate.py answers runs/base --of runs/chat
python launch/evaluate.py harness runs/tiny --tasks configs/tasks --data eval --limit 100
python launch/evaluate.py probes runs/chat
python launch/evaluate.py mt-bench runs/chat --out scores/chat --questions question_full.jsonl \
  --references reference_gpt4.jsonl --judge https://api.openai.com/v1 --judge-model gpt-4
"""

from pathlib import Path
from typing import Annotated

from fugaku_jax.huge_pages import use_huge_pages

if __name__ == "__main__":  # here, so that what follows is imported only once
    use_huge_pages()

import tyro
from command import parse, run_program
from harness import harness
from held_out_answers import answers
from held_out_scores import print_json, print_table, task_scores
from mt_bench import mt_bench
from probes import probes
from scores import keep

from fugaku_jax.compile_cache import use_compile_cache
from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.perplexity import Perplexity
from fugaku_jax.run.identity import open_run_store
from fugaku_jax.training.checkpoint import load_model

Run = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]


def perplexity(
    run: Run,
    max_tokens: int | None = None,
    store: str | None = None,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Print nats a token and bits a byte on the held-out text, beside `xz`; RUN/scores keeps them.

    Args:
        run: Run directory; its newest checkpoint is scored.
        max_tokens: Most held-out tokens of a domain, in whole documents; all without it.
        store: Folder or URL of the run's store, if it is no longer where the run found it.
        json: Print one JSON object instead of a table.
    """
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"--max-tokens is {max_tokens}, but it must be greater than 0.")
    use_compile_cache()
    config, model = load_model(run)
    held_out = open_run_store(run, config, store)
    scores = Perplexity(held_out, config, max_tokens)(model)
    if not scores.domains:
        raise InputError(f"{held_out.url} has no held-out documents; build it with some.")
    if json:
        print_json(run, scores)
    else:
        print_table(run, scores)
    keep(run, "perplexity", {"max_tokens": max_tokens}, "", task_scores(scores))


def main() -> None:
    """Read the arguments and evaluate."""
    programs = {"perplexity": perplexity, "answers": answers, "harness": harness}
    parse(programs | {"mt-bench": mt_bench, "probes": probes}, description=__doc__)


if __name__ == "__main__":
    run_program(main)
