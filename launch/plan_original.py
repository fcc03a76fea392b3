"""`plan.py original`: Fugaku-LLM's own runs under the step-time model, and what would be faster."""

from typing import Annotated

import tyro
from machines import load_machine
from recipes import load_recipe
from rich.console import Console
from rich.table import Table

from fugaku_jax.planning.assumptions import AFTER, BEFORE, OURS
from fugaku_jax.planning.levers import SENSITIVITIES, levers, sensitivities
from fugaku_jax.planning.published import (
    FITTED,
    HELD_OUT,
    RUNS,
    fit,
    modelled_step,
    modelled_tflops,
)
from fugaku_jax.planning.ranking import rank
from fugaku_jax.planning.step_work import Precision

RECIPE = "fugaku_llm_13b"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")


def plan_original(again: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False) -> None:
    """Model the original's runs, what they depend on, and the way to the best layout of ours.

    Args:
        again: Fit the constants of its earlier software anew, and show them.
    """
    console, machine, config = Console(), load_machine("fugaku"), load_recipe(RECIPE)
    before = fit(BEFORE, machine, FITTED) if again else BEFORE
    if again:
        console.print(before)
    runs = Table("run", "measured TFLOP/s a node", "modelled", "ratio", "")
    for run in RUNS:
        found = modelled_tflops(run, machine, before)
        role = "held out" if run in HELD_OUT else "fitted"
        runs.add_row(
            run.name, f"{run.tflops:.3f}", f"{found:.3f}", f"{found / run.tflops:.2f}", role
        )
    step = modelled_step(config, machine, AFTER)
    parts = Table("13B on 48x6x48, modelled", "seconds")
    for kind, seconds in sorted(step.breakdown.items(), key=lambda item: -item[1]):
        parts.add_row(kind, f"{seconds:.2f}")
    parts.add_row("step", f"{step.seconds:.2f}")
    ends = Table("assumption", "between", "step, modelled s")
    for name, (low, high) in sensitivities(config, machine).items():
        first, last = SENSITIVITIES[name]
        ends.add_row(name, f"{first:g} … {last:g}", f"{low:.1f} … {high:.1f}")
    console.print(runs, parts, ends)
    for precision in PRECISIONS:
        ranking = rank(
            config, machine, config.mesh.shape, 13_824, OURS, precisions=(precision,), most=1
        )
        pulled = Table(f"lever, to the best layout in {precision}", "step, modelled s", "saved")
        for lever in levers(config, ranking.best[0].config, machine):
            pulled.add_row(lever.name, f"{lever.seconds:.2f}", f"{lever.saved:.2f}")
        console.print(pulled)
