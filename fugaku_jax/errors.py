"""Exceptions whose text is a sentence for the person at the keyboard."""


class InputError(ValueError):
    """Wrong input: a sentence that says what is wrong, where, and what would be right.

    Every program in `launch/` prints the sentence and exits with code 2, without a traceback.
    """


class RunError(RuntimeError):
    """What ended a program though its input was right: a sentence that says what, and what is safe.

    Every program in `launch/` prints the sentence and exits with code 1, without a traceback.
    """
