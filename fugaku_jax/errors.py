"""The one exception that means: the person at the keyboard can put this right."""


class InputError(ValueError):
    """Wrong input: a sentence that says what is wrong, where, and what would be right.

    Every program in `launch/` prints the sentence and exits with code 2, without a traceback.
    """
