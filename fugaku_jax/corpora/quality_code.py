"""Whether source code is worth training on, by the rules of Codex and StarCoder.

Sources: Chen et al., Evaluating Large Language Models Trained on Code (2021), section 3.1; Li et
al., StarCoder (2023), section 3.1. Own code: a few counts, which no library has on their own.
"""

import re

from fugaku_jax.corpora.recipe import CodeQuality

_GENERATED = re.compile(
    r"auto-?(matically )?generated|generated (by|from|code)|do not (edit|modify)", re.I
)


def code_fault(text: str, limits: CodeQuality) -> str | None:
    """Return why a file does not pass, with value and threshold; None if it does."""
    lines = text.split("\n")
    longest = max(map(len, lines))
    if longest > limits.longest_line:
        return f"longest line {longest} characters > {limits.longest_line}"
    mean = len(text) / len(lines)
    if mean > limits.mean_line:
        return f"mean line {mean:.1f} characters > {limits.mean_line:g}"
    alphanumeric = sum(map(str.isalnum, text)) / max(len(text), 1)
    if alphanumeric < limits.alphanumeric:
        return f"letters and digits {alphanumeric:.3f} < {limits.alphanumeric:g}"
    if found := _GENERATED.search("\n".join(lines[:5])):
        return f"says that it is generated: {found[0]}"
    return None
