"""`evaluate.py mt-bench`: a model answers, a judge rates, and the scores are shown."""

import os
from pathlib import Path
from typing import Annotated, Literal

import tyro
from learned_from import LearnedFrom, knowledge_of
from mt_bench_scores import show_scores, show_unjudged, write_prompts
from rich.console import Console
from rich.progress import Progress
from scores import keep

from fugaku_jax.cluster.devices import emulate
from fugaku_jax.compile_cache import use_compile_cache
from fugaku_jax.config import MeshConfig
from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.json_lines import GrowingLines
from fugaku_jax.evaluation.judge import Judge
from fugaku_jax.evaluation.judge_prompts import ask_about, read_judge_prompts
from fugaku_jax.evaluation.judgments import JUDGMENT_FIELDS, task_scores, write_judgments
from fugaku_jax.evaluation.mt_bench import (
    answered_by,
    read_answers,
    read_questions,
    write_answers,
)
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.engine import Engine
from fugaku_jax.interop.base import open_base
from fugaku_jax.interop.load import load_for_inference
from fugaku_jax.run.made_with import begin_or_go_on
from fugaku_jax.tuning.chat_template import FUGAKU, ChatTemplate
from fugaku_jax.tuning.data_of_run import read_template

Model = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN_OR_HF_DIR")]]
Known = Annotated[LearnedFrom, tyro.conf.arg(name="")]


def mt_bench(
    model: Model,
    out: Path,
    questions: Path,
    references: Path | None = None,
    judge: str | None = None,
    judge_model: str | None = None,
    judge_key_variable: str = "OPENAI_API_KEY",
    judge_prompts: Path | None = None,
    chat_template: Path | None = None,
    max_tokens: int = 1024,
    seed: int = 0,
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16",
    weights: Literal["int8"] | None = None,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    emulate_devices: int | None = None,
    mesh: MeshConfig = MeshConfig(),  # noqa: B008
    known: Known = LearnedFrom(),  # noqa: B008
) -> None:
    """Answer MT-Bench's questions, and have a judge rate the answers.

    Args:
        model: Run directory, whose newest checkpoint is taken, or a model directory of Hugging
            Face's.
        out: Directory for answers, prompts, judgments and scores; what it has is not asked again.
        questions: JSONL of questions, as FastChat and Japanese MT-Bench have it.
        references: JSONL of right answers, unless the questions have theirs.
        judge: OpenAI-compatible URL of a judge, as https://api.openai.com/v1; without one there
            are answers and prompts, and no score.
        judge_model: What the judge's server calls its model.
        judge_key_variable: Variable of the environment that has the key for the judge, if it
            wants one.
        judge_prompts: JSONL of prompts for the judge; FastChat's if not given.
        chat_template: A Jinja file of how a dialogue is told; else the one that came with the
            model, else Fugaku-LLM's.
        max_tokens: Most tokens of an answer.
        seed: Of the random choice.
        dtype: Type of weights, cache and arithmetic.
        weights: Type of weights in products, if it is another: int8 is half of what bf16 reads.
        json: Print one JSON object instead of a table.
        emulate_devices: Let this process have so many devices, by emulation on its CPU.
        mesh: How many devices share the work, and how.
        known: Where it is looked up which questions the model has learned from.
    """
    if (judge is None) != (judge_model is None):
        raise InputError("Give --judge URL with --judge-model NAME, or neither.")
    if mesh.pipeline != 1 or mesh.context != 1:
        raise InputError("Generation is shared by --mesh.data and --mesh.tensor alone.")
    options = Options(max_tokens, seed=seed)
    key = os.environ.get(judge_key_variable)
    rater = Judge(judge, judge_model, key) if judge and judge_model else None
    asked_of, prompts = read_questions(questions, references), read_judge_prompts(judge_prompts)
    emulate(emulate_devices)
    use_compile_cache()
    base = open_base(model)
    source = read_template(chat_template) if chat_template else base.template or FUGAKU
    sha256 = base.start.origin["sha256"]
    decided_by = answered_by(sha256, asked_of, source, options, dtype) | {"weights": weights}
    begin_or_go_on(out, out / "answered_by.json", decided_by)

    def load() -> Engine:
        loaded = load_for_inference(model, dtype, mesh)
        given = loaded.model, loaded.tokenizer, loaded.first_token, dtype
        return Engine(*given, weights=weights)

    template = ChatTemplate(source)
    stop = tuple(filter(None, [template.next_turn()]))
    options, name = Options(max_tokens, stop=stop, seed=seed), model.resolve().name
    answers_file = out / "answers.jsonl"
    with (
        GrowingLines(answers_file, ("question_id", "choices", "finishes")) as file,
        Progress(console=Console(stderr=True), transient=True) as bar,
    ):
        task = bar.add_task("answers", total=len(asked_of), completed=len(file.lines))
        for count in write_answers(load, asked_of, template.prompt_after, options, name, file):
            bar.advance(task, count)
    answers = read_answers(answers_file)
    asked = [each for one in asked_of for each in ask_about(prompts, one, answers[one.id])]
    write_prompts(out / "prompts.jsonl", asked)
    full = sum(line["finishes"].count("no room") for line in file.lines)
    if rater is None:
        show_unjudged(out, len(asked_of), len(asked), full, as_json=json)
        return
    with (
        GrowingLines(out / "judgments.jsonl", JUDGMENT_FIELDS) as file,
        Progress(console=Console(stderr=True), transient=True) as bar,
    ):
        task = bar.add_task("judgments", total=len(asked))
        for _ in write_judgments(rater, rater.model, name, asked, file):
            bar.advance(task)
    judged = asked_of, asked, rater.model, file.lines
    knows, contamination = knowledge_of(model, known)
    scores = task_scores(*judged, knows)
    show_scores(out, name, judged, full, scores, contamination, as_json=json)
    keep(model, "mt-bench", decided_by, contamination, scores, rater.model)
