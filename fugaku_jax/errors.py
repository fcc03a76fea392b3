"""What a person hears of in one sentence, without a traceback."""


class InputError(ValueError):
    """Wrong input: a sentence that says what is wrong, where, and what would be right.

    Every program in `launch/` prints the sentence and exits with code 2, without a traceback.
    """


class RunError(RuntimeError):
    """A fault that can be foreseen but not put right here: a full disk, weights that diverged.

    The sentence says what happened and which state is safe. Every program in `launch/` prints it
    and exits with code 1, without a traceback.
    """
