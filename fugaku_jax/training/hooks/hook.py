"""What a hook is: something that a run does around its steps, unknown to the trainer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Array

from fugaku_jax.data.batch import Batch
from fugaku_jax.training.state import TrainState


@dataclass
class CompletedStep:
    """A step that the devices have completed, as it goes from hook to hook.

    What a hook changes in it, the hooks after it see.
    """

    number: int
    """The step, counted from 1."""
    batch: Batch
    """What the step read; on the devices."""
    outputs: Mapping[str, Array]
    """What the step gave beside the state; on the devices, and never given away (donated)."""
    figures: dict[str, float]
    """The scalars among `outputs`, read, and what hooks add; recorded as the step's figures."""
    seconds: float
    """From the completion of the step before to this one's, as the host saw them, or from this
    one's start if nothing was in flight before it."""
    is_last: bool
    """Whether the session ends with this step."""
    state: TrainState | None
    """The state after this step if a hook needs it (`Hook.needs_state`) or the step is the last;
    else None: the next step, in flight by now, has taken it over. It is for use until the hook
    returns, and no longer."""
    samples: list[tuple[str, str]] = field(default_factory=list)
    """Prompts and what the model wrote after each; recorded and shown."""
    why_unsound: str = ""
    """If not empty, a clause that says why the state after this step must not be saved."""
    save_asked: bool = False
    """Set it on all processes alike at a step whose state is given, and it is saved."""
    stop_asked: bool = False
    """Set it on all processes alike, and the session ends after the step that is in flight, or, if
    none is, after the next."""


class Hook:
    """Something that happens around the steps of a run; derive from it what you need of it.

    All processes of a run have the same hooks in the same order, and call them at the same steps,
    but for those that only print and write files. What all do together (a collective, or anything
    that runs on the arrays of a mesh) belongs into steps at which the hook needs the state, when no
    step is in flight. What the hooks of all processes decide they must decide from what all know:
    `number`, `outputs` and `figures` of a step are the same everywhere, signals, clocks, files and
    `seconds` are not.

    An error of any method ends the session: `RunError` with a sentence, anything else with a
    traceback. Nothing is saved then, and the step in flight, which the next session repeats, leaves
    no figures.
    """

    needs_losses = False
    """Whether `outputs` is to hold `losses`, `[M, B, T]`: that of each position of the batch."""

    time_is_for: str = "other"
    """What the time counts as in which the devices wait for it; a name of `Seconds`."""

    def start(self, step: int, state: TrainState) -> None:
        """Called once, before the first step, when everything is compiled.

        Args:
            step: steps taken before this session.
            state: what they led to; for use until this returns.
        """

    def needs_state(self, step: int) -> bool:  # noqa: ARG002  # for those that derive from it
        """Tell whether `after_step` is to get the state after this step.

        The next step then waits for the hooks, and the devices with it. It is asked once the step
        is in flight, all hooks having seen the step before it. It must be the same on all
        processes, and be said without changing anything.
        """
        return False

    def after_step(self, done: CompletedStep) -> None:
        """Called after each step, in the order of steps and of hooks, once its figures are known.

        By then the next step is in flight, unless the state is given.
        """

    def stop(self) -> None:
        """Called once, the last hook first, when the session ends, be it by an error.

        It is not called if `start` was not, or failed.
        """


def is_time(step: int, every: int, last: int) -> bool:
    """Tell whether something is due that happens every so many steps (0: never) and at the last."""
    return step == last or bool(every and step % every == 0)
