"""A hook of somebody else's, written as docs/hooks.md says, works."""

import re
from pathlib import Path

import pytest

from fugaku_jax.run.metrics import read_metrics
from fugaku_jax.training import loop

DOCUMENT = Path(__file__).parents[2] / "docs" / "hooks.md"


@pytest.mark.slow
def test_the_hook_of_the_documentation_adds_its_figure_to_the_steps_that_it_names(change, tmp_path):
    (example,) = re.findall("```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names = {}
    exec(example, names)
    few = change(training={"steps": 4, "validate_every": 0, "sample_tokens": 0})
    assert loop.train(few, tmp_path, hooks=[names["WeightNorm"](every=3)]) == loop.DONE
    norms = {line["step"]: line.get("weight_norm") for line in read_metrics(tmp_path)}
    assert norms.pop(3) > 1.0
    assert norms == dict.fromkeys((1, 2, 4))
