"""Tune a trained model on dialogues: it learns to say the answers.

python launch/finetune.py small_ja --from runs/small_ja --data dialogues.jsonl --run-dir runs/chat
python launch/finetune.py gpt_125m --from models/fugaku --data alpaca.parquet --run-dir runs/chat

The recipe gives optimizer, batch and steps; the model gives its shape. Exit codes as of train.py.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from fugaku_jax.huge_pages import use_huge_pages

if __name__ == "__main__":  # here, so that what follows is imported only once
    use_huge_pages()

import tyro
from command import parse, run_program
from output import outlive_readers
from recipes import load_recipe, recipe_file
from rich.console import Console
from rich.table import Table

from fugaku_jax.cluster.devices import emulate
from fugaku_jax.cluster.hosts import agree, find_hosts, join
from fugaku_jax.compile_cache import use_compile_cache
from fugaku_jax.config import Config
from fugaku_jax.data.build import OnBadLine
from fugaku_jax.errors import InputError
from fugaku_jax.sections.tuning import OF_PAIRS
from fugaku_jax.tuning.build import TuningData


def main() -> int:
    """Read the arguments, and tune."""
    args = sys.argv[1:]
    if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
        raise InputError(
            "The recipe comes first, as in `launch/finetune.py small_ja --from RUN …`."
        )
    name = "small_ja" if args[0].startswith("-") else args.pop(0)
    base_dir = _base(args)
    recipe = load_recipe(name)
    if base_dir:
        recipe = _for_dialogues(recipe, base_dir)

    def finetune(
        data: tuple[Path, ...],
        run_dir: Path,
        base: Annotated[Path, tyro.conf.arg(name="from")],
        config: Annotated[Config, tyro.conf.arg(name="")] = recipe,
        validation: float = 0.05,
        chat_template: Path | None = None,
        on_bad_line: OnBadLine = "stop",
        emulate_devices: int | None = None,
    ) -> int:
        """Tune a trained model on dialogues.

        Args:
            data: JSONL (.gz, .zst) or Parquet files of dialogues: messages, Alpaca's instruction,
                input and output, or prompt and completion; to learn from pairs (`--tuning.method
                dpo` or `lora-dpo`) prompt, chosen and rejected.
            run_dir: Where the run is kept.
            base: The run, or model directory of Hugging Face's, to start from.
            config: The configuration; every field can be overridden.
            validation: Fraction of the dialogues, or pairs, to hold out.
            chat_template: A Jinja file of how a dialogue is told; else the one that came with the
                model, else Fugaku-LLM's.
            on_bad_line: What to do at a line that is no dialogue: stop, or skip and list it.
            emulate_devices: Let each process have this many devices, by emulation on its CPU.
        """
        from fugaku_jax.tuning.data_of_run import Dialogues, store_of_run

        pairs = config.tuning.method in OF_PAIRS
        dialogues = Dialogues(data, validation, chat_template, on_bad_line, pairs)
        place = store_of_run(run_dir)
        config = replace(config, data=replace(config.data, store=str(place)))
        hosts = find_hosts(os.environ)
        emulate(emulate_devices)
        places = {"run_dir": str(run_dir), "from": str(base), "data": [str(each) for each in data]}
        agree(hosts, "configuration", config.to_dict() | places)
        watchdog = join(hosts)
        use_compile_cache()
        with watchdog.blaming():
            from fugaku_jax.cluster.decisions import wait_for_all
            from fugaku_jax.cluster.processes import is_writer
            from fugaku_jax.interop.base import open_base
            from fugaku_jax.run.sessions import seconds_since_start
            from fugaku_jax.training.loop import train
            from fugaku_jax.training.recipe_optimizer import optimizer_of_recipe
            from fugaku_jax.tuning.data_of_run import prepare_dialogues

            start = open_base(base)
            if is_writer():
                length = config.model.sequence_length
                report = prepare_dialogues(
                    run_dir, dialogues, start.tokenizer, length, start.template
                )
                if report:
                    show(report)
            wait_for_all("dialogues")
            return train(
                config,
                run_dir,
                start.start,
                optimizer=optimizer_of_recipe(recipe_file(name), config),
                seconds_before=seconds_since_start(),
                watchdog=watchdog,
            )

    return parse(finetune, args, prog=f"finetune.py {name}", description=__doc__)


def show(report: TuningData) -> None:
    """Print what became of the files of dialogues."""
    table = Table("", "dialogues", "rows", "tokens", "learned")
    for split, name in (("train", "trained on"), ("validation", "held out")):
        counts = report.dialogues, report.rows, report.read, report.learned
        table.add_row(name, *(f"{count[split]:,}" for count in counts))
    Console().print(table)
    if report.too_long:
        print(f"{report.too_long:,} dialogues have more tokens than the model reads: left out")
    if report.without_end:
        print(
            f"{report.without_end:,} answers are learned without their end: the chat template puts "
            "nothing between them and what follows; {{ eos_token }} there would end them"
        )
    if report.bad_line_count:
        print(f"{report.bad_line_count:,} lines are no dialogues: left out. The first of them:")
        print("\n".join(report.bad_lines[:5]))


def _base(args: list[str]) -> Path | None:
    """Return what `--from` is given on the command line, if it is."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--from", dest="base", type=Path, nargs="?")
    return parser.parse_known_args(args)[0].base


def _for_dialogues(recipe: Config, base: Path) -> Config:
    """Return a recipe for the shape of a model, that learns answers."""
    from fugaku_jax.interop.hf_shape import is_hf_directory, with_model_of
    from fugaku_jax.models.shape import shaped_like
    from fugaku_jax.run.configuration import read_config

    data = replace(recipe.data, learn="answers", reset_at_document=True)
    if is_hf_directory(base):
        return replace(with_model_of(recipe, base), data=data)
    return replace(recipe, model=shaped_like(recipe.model, read_config(base).model), data=data)


if __name__ == "__main__":
    outlive_readers()
    run_program(main)
