"""LoRA against `peft`: the same losses, the same model, and adapters that it loads."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from peft import PeftModel
from small_runs import GPT2, LLAMA, VOCAB, logits, make_run
from transformers import AutoModelForCausalLM

from fugaku_jax.config import OptimizerConfig, TuningConfig
from fugaku_jax.data.batch import Batch
from fugaku_jax.errors import InputError
from fugaku_jax.interop.continual import start_from_hf
from fugaku_jax.interop.hf import export_run
from fugaku_jax.interop.peft import export_adapter
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.configuration import CONFIG_FILE, read_config
from fugaku_jax.training.checkpoint import RunCheckpoints, load_model
from fugaku_jax.training.state import fresh_state
from fugaku_jax.training.step import make_train_step

GIGABYTE = 1_000_000_000
STEPS = 3
NARROW = replace(GPT2, d_model=64)
CASES = {
    "gpt2": (NARROW, TuningConfig("lora", rank=4, alpha=8.0)),
    "llama": (
        LLAMA,
        TuningConfig("lora", 4, 8.0, targets=("q_proj", "v_proj", "o_proj", "gate_proj")),
    ),
}


def save(folder, config, layout, state):
    """Make a run of a state."""
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(json.dumps(config.to_dict()))
    identity = {"config": config.to_dict()}
    with RunCheckpoints(folder, config.checkpoint, keeps_first=True) as checkpoints:
        checkpoints.save_frozen(layout, state, identity)
        checkpoints.save(int(state.step), layout, state, identity)
    return folder


def loss_of(model, rows):
    """The mean loss of rows of tokens, over the vocabulary without its padding."""
    said = model(rows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(said.reshape(-1, VOCAB), rows[:, 1:].reshape(-1))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_three_steps_are_those_of_peft_and_what_they_leave_loads_there(case, store, tmp_path):
    model, tuning = CASES[case]
    base = make_run(tmp_path / "base", model, store)
    export_run(base, tmp_path / "hf", store, "float32", GIGABYTE)
    optimizer = OptimizerConfig(learning_rate=1e-2, min_learning_rate=1e-2, clip=0.0)
    config = replace(read_config(base), tuning=tuning, optimizer=optimizer)
    layout = make_layout(config)
    with layout.active():
        weights = start_from_hf(tmp_path / "hf").parameters(layout)
        state = replace(fresh_state(layout, weights), step=jnp.int32(1))
        first = save(tmp_path / "first", config, layout, state)
        step = make_train_step(layout)
        random = np.random.default_rng(1)
        rows = random.integers(0, VOCAB, (STEPS, 1, 2, model.sequence_length + 1), np.int32)
        losses = []
        for each in rows:
            state, metrics = step(state, Batch(jnp.asarray(each)))
            losses.append(float(metrics["loss"]))
        run = save(tmp_path / "run", config, layout, state)

    # peft begins with our A, which it reads from our files, and takes the same steps.
    export_adapter(first, tmp_path / "adapter0")
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "hf"),
        tmp_path / "adapter0",
        is_trainable=True,
    )
    learned = [x for x in theirs.parameters() if x.requires_grad]
    assert sum(x.numel() for x in learned) == sum(
        x.size for x in jax.tree.leaves(layout.adapter_shapes)
    )
    update = torch.optim.AdamW(
        learned,
        lr=optimizer.learning_rate,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
    )
    for each, ours in zip(rows, losses, strict=True):
        loss = loss_of(theirs, torch.from_numpy(each[0]).long())
        assert float(loss.detach()) == pytest.approx(ours, abs=1e-4)
        update.zero_grad()
        loss.backward()
        update.step()
    assert losses[0] != pytest.approx(losses[-1], abs=1e-3)

    # The run as a model for use, its merged export, and its adapter on the base are one model.
    export_adapter(run, tmp_path / "adapter", tmp_path / "hf")
    export_run(run, tmp_path / "merged", store, "float32", GIGABYTE)
    loaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "hf"), tmp_path / "adapter"
    )
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    tokens = rows[0, 0, :, :-1]
    ours = logits(load_model(run)[1], jnp.asarray(tokens))
    before = logits(load_model(base)[1], jnp.asarray(tokens))
    assert np.abs(ours - before).max() > 1e-2  # three steps have changed what it says
    for each in (loaded, merged):
        with torch.no_grad():
            said = each.eval()(torch.from_numpy(tokens).long()).logits.numpy()
        np.testing.assert_allclose(said, ours, atol=1e-4, rtol=0)
    # In bf16 the weights are cast once, with the adapters in them.
    narrow = jax.tree.leaves(load_model(run, jnp.bfloat16)[1])
    wide = jax.tree.leaves(load_model(run)[1])
    for x, y in zip(narrow, wide, strict=True):
        np.testing.assert_array_equal(x, y.astype(jnp.bfloat16))

    other = make_run(tmp_path / "other", replace(model, n_layers=1), store)
    export_run(other, tmp_path / "other_hf", store, "float32", GIGABYTE)
    with pytest.raises(InputError, match=r"another model .*n_layers is 1 there and 2 here"):
        export_adapter(run, tmp_path / "none", tmp_path / "other_hf")
    with pytest.raises(InputError, match=r"has no adapters \(its tuning.method is full"):
        export_adapter(base, tmp_path / "none")
