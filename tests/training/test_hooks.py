"""A hook of somebody else's, written as docs/hooks.md says, works."""

import re
from pathlib import Path

import pytest

from fugaku_jax.run.metrics import read_metrics
from fugaku_jax.training import loop

DOCUMENT = Path(__file__).parents[2] / "docs" / "hooks.md"


@pytest.mark.slow
def test_the_hooks_of_the_documentation_add_their_figures_to_the_steps_that_they_name(
    change, tmp_path
):
    names = {}
    for example in re.findall("```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        exec(example, names)
    few = change(training={"steps": 4, "validate_every": 0, "sample_tokens": 0})
    hooks = [names["WeightNorm"](every=3), names["HardestRow"]()]
    assert loop.train(few, tmp_path, hooks=hooks) == loop.DONE
    lines = read_metrics(tmp_path)
    norms = {line["step"]: line.get("weight_norm") for line in lines}
    assert norms.pop(3) > 1.0
    assert norms == dict.fromkeys((1, 2, 4))
    assert all(line["loss"] < line["hardest_row_loss"] < 2 * line["loss"] for line in lines)
