"""One figure of a model at a task, as every way of grading gives it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskScore:
    """One figure of a model at a task."""

    task: str
    metric: str
    value: float
    standard_error: float | None
    """Of the value; None where none is known."""
    items: int
    """Questions, judgments, pairs or tokens that it is of."""
    contaminated: float | None = None
    """Share of the task's items that stand in what the model learned from; None: not known."""
    clean: float | None = None
    """The value of the other items; None if that is not known or there are none."""

    def spelled(self) -> str:
        """Return the figure as a person reads it, `0.43 ± 0.05 of 100, 3.0% contaminated`."""
        error = "" if self.standard_error is None else f" ± {self.standard_error:.4f}"
        text = f"{self.value:.4f}{error} of {self.items:,}"
        if self.contaminated is None:
            return text
        clean = "" if self.clean is None else f" ({self.clean:.4f} clean)"
        return f"{text}, {self.contaminated:.1%} contaminated{clean}"
