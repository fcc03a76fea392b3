"""Tuning against `trl`: its trainers read the same files, and find the same loss and gradient."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import LLAMA
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from fugaku_jax.config import Config, DataConfig, OptimizerConfig, TrainingConfig, TuningConfig
from fugaku_jax.data.marked_batch import marked_batch
from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import train
from fugaku_jax.interop.hf import export_run
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.configuration import CONFIG_FILE
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.reference import keep_reference, reference_of_run
from fugaku_jax.training.state import abstract_parameters, fresh_state
from fugaku_jax.training.step import make_train_step
from fugaku_jax.tuning.build import build_dialogues
from fugaku_jax.tuning.chat_template import ChatTemplate

pytestmark = pytest.mark.slow

GIGABYTE = 1_000_000_000
T = 96
NOUNS = "海山雪川猫犬空森花星"
TEMPLATE = """\
{%- for message in messages -%}
{{ '指示:\\n' if message['role'] == 'user' else '応答:\\n' }}
{%- if message['role'] == 'assistant' -%}
{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}
{%- else %}{{ message['content'] }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '応答:\\n' }}{% endif -%}
"""


def said(role: str, content: str) -> dict[str, str]:
    """A message."""
    return {"role": role, "content": content}


def turns(number: int) -> list[dict[str, str]]:
    """A dialogue of one to three turns."""
    asked = [f"{NOUNS[number % 10]}と{NOUNS[turn]}は?" for turn in range(1 + number % 3)]
    return [
        message
        for turn, question in enumerate(asked)
        for message in (
            said("user", question),
            said("assistant", f"{NOUNS[turn]}です。" * (1 + number % 2)),
        )
    ]


def pair(number: int) -> dict[str, list[dict[str, str]]]:
    """A question, and two answers of lengths of their own."""
    return {
        "prompt": [said("user", f"{NOUNS[number]}は?")],
        "chosen": [said("assistant", f"{NOUNS[number]}です。" * (1 + number % 2))],
        "rejected": [said("assistant", "はい、" * (1 + number % 3) + NOUNS[number])],
    }


@pytest.fixture(scope="module")
def tokenizer():
    return train([TEMPLATE, *(json.dumps(turns(n), ensure_ascii=False) for n in range(60))], 345)


@pytest.fixture(scope="module")
def make_data(tokenizer, tmp_path_factory):
    """Write a file of dialogues or pairs, and make a store of it."""

    def make(rows: list[dict], pairs: bool = False) -> tuple[str, Store]:
        folder = tmp_path_factory.mktemp("data")
        path = folder / "talk.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        template = ChatTemplate(TEMPLATE)
        build_dialogues(
            str(folder / "store"), [path], tokenizer, template, T, validation=0, pairs=pairs
        )
        return str(path), Store.open(str(folder / "store"))

    return make


def config_of(store: Store, batch_size: int, tuning: TuningConfig | None = None) -> Config:
    """A run that reads all rows of a store in a step."""
    return Config(
        model=replace(LLAMA, vocab_size=store.vocab_size, sequence_length=T),
        optimizer=OptimizerConfig(learning_rate=1e-3, clip=0.0),
        training=TrainingConfig(steps=1, batch_size=batch_size),
        data=DataConfig(store=store.url, learn="answers", reset_at_document=True),
        tuning=tuning or TuningConfig(),
    )


def batch_of(store: Store):
    """All rows of a store, as one micro-batch."""
    starts = np.arange(0, store.sets[0].train.tokens - T, T)
    marked = store.read_marked(0, "train", starts, T + 1)
    return starts, jax.tree.map(lambda x: jnp.asarray(x[None]), marked_batch(marked))


def drawn(config: Config, seed: int):
    """Weights of which none is as it was initialised."""
    random = np.random.default_rng(seed)
    shapes = abstract_parameters(make_layout(config))

    def draw(path, leaf):
        centre = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(random.normal(centre, 0.08, leaf.shape), leaf.dtype)

    return jax.tree.map_with_path(draw, shapes)


def exported(folder, config: Config, store: Store, weights):
    """A model directory of weights."""
    config = replace(config, tuning=TuningConfig())
    layout = make_layout(config)
    run = folder / "run"
    run.mkdir(parents=True)
    (run / CONFIG_FILE).write_text(json.dumps(config.to_dict()))
    with layout.active():
        state = replace(fresh_state(layout, weights), step=jnp.int32(1))
    with RunCheckpoints(run, config.checkpoint) as checkpoints:
        checkpoints.save(1, layout, state, {"config": config.to_dict()})
    export_run(run, folder / "hf", store, "float32", GIGABYTE)
    return folder / "hf"


def step_of(layout, weights, batch):
    """The figures of a step, and its gradient."""
    with layout.active():
        copied = jax.tree.map(jnp.copy, weights)
        new, metrics = make_train_step(layout)(fresh_state(layout, copied), batch)
    gradient = jax.tree.map(lambda x: x / (1 - layout.config.optimizer.beta1), new.moments.mean)
    return {name: float(x) for name, x in metrics.items()}, gradient


def loaded(folder):
    """Model and tokenizer of a directory."""
    reader = AutoTokenizer.from_pretrained(folder)
    reader.chat_template = TEMPLATE
    return AutoModelForCausalLM.from_pretrained(folder), reader


def theirs_of(trainer, model):
    """The loss that a trainer finds for all of its data, and the gradient by name."""
    rows = DataLoader(
        trainer.train_dataset, len(trainer.train_dataset), collate_fn=trainer.data_collator
    )
    loss = trainer.compute_loss(model, next(iter(rows)))
    loss.backward()
    return float(loss.detach()), {name: x.grad.numpy() for name, x in model.named_parameters()}


def hold_gradients(ours, theirs, bound: float):
    """Hold a gradient, exported as if it were weights, to one by name."""
    model = AutoModelForCausalLM.from_pretrained(ours)
    whole = np.sqrt(sum(float((x**2).sum()) for x in theirs.values()))
    assert whole > 1e-2
    for name, x in model.named_parameters():
        assert np.linalg.norm(x.detach().numpy() - theirs[name]) <= bound * whole, name


def test_the_loss_and_gradient_of_a_file_of_dialogues_are_those_of_sft(make_data, tmp_path):
    from trl import SFTConfig, SFTTrainer

    path, store = make_data([{"messages": turns(number)} for number in range(24)])
    starts, batch = batch_of(store)
    assert 1 < len(starts) < 24  # several dialogues share a row
    config = config_of(store, len(starts))
    weights = drawn(config, 0)
    metrics, gradient = step_of(make_layout(config), weights, batch)
    model, reader = loaded(exported(tmp_path / "model", config, store, weights))
    options = {"output_dir": str(tmp_path / "trl"), "use_cpu": True, "report_to": "none"}
    trainer = SFTTrainer(
        model,
        SFTConfig(**options, assistant_only_loss=True, max_length=None, bf16=False),
        train_dataset=from_json(path),
        processing_class=reader,
    )
    loss, theirs = theirs_of(trainer, model)
    assert metrics["loss"] == pytest.approx(loss, abs=1e-4)
    hold_gradients(exported(tmp_path / "gradient", config, store, gradient), theirs, 1e-4)


def test_the_loss_and_gradient_of_pairs_are_those_of_dpo(make_data, tmp_path):
    from trl import DPOConfig, DPOTrainer

    path, store = make_data([pair(number) for number in range(10)], pairs=True)
    starts, batch = batch_of(store)
    config = config_of(store, len(starts), TuningConfig("dpo", beta=0.3))
    layout = make_layout(config)
    weights, before = drawn(config, 0), drawn(config, 1)
    with layout.active():
        keep_reference(tmp_path, store, layout, before)
    kept = reference_of_run(tmp_path, store)
    reference = kept[starts[:, None] + np.arange(1, T + 1)]
    batch = replace(batch, reference=jnp.asarray(reference[None]))
    metrics, gradient = step_of(layout, weights, batch)
    model, reader = loaded(exported(tmp_path / "model", config, store, weights))
    held_to, _ = loaded(exported(tmp_path / "before", config, store, before))
    options = {"output_dir": str(tmp_path / "trl"), "use_cpu": True, "report_to": "none"}
    trainer = DPOTrainer(
        model,
        held_to,
        DPOConfig(**options, beta=0.3, max_length=None, bf16=False),
        train_dataset=from_json(path),
        processing_class=reader,
    )
    loss, theirs = theirs_of(trainer, model)
    assert abs(loss - np.log(2)) > 0.01  # the two models are not one
    assert metrics["loss"] == pytest.approx(loss, abs=1e-4)
    figures = trainer._metrics["eval"]
    assert metrics["margin"] == pytest.approx(figures["rewards/margins"][0], abs=1e-4)
    assert metrics["accuracy"] == pytest.approx(figures["rewards/accuracies"][0])
    hold_gradients(exported(tmp_path / "gradient", config, store, gradient), theirs, 1e-4)


def from_json(path: str):
    """A file as trl's trainers take it."""
    from datasets import Dataset

    with open(path) as file:
        return Dataset.from_list([json.loads(line) for line in file])
