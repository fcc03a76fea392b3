"""Figures and texts as people read them."""

import math
import unicodedata


def printable(text: str) -> str:
    """`text` with every control character but newline and tab shown as U+FFFD.

    A model with byte fallback can write any character, also one that would garble a terminal or
    that HTML does not allow.
    """
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"
        else char
        for char in text
    )


def duration(seconds: float | int) -> str:
    """Seconds as people write them: `42 s`, `3:07 min`, `5:03:07 h`, `2 d 5 h`."""
    if not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours}:{minute:02}:{second:02} h"
    return f"{minutes}:{second:02} min" if minutes else f"{second} s"


def size(count: float | int) -> str:
    """Bytes in at most three digits: `950 B`, `12.3 kB`, `15.0 GB`."""
    text = amount(count)
    digits, sign = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    return f"{digits} {'G' if sign == 'B' else sign}B"


def amount(value: float | int) -> str:
    """A count in at most three digits and a sign for thousands: `950`, `12.3k`, `4.56M`, `1.2T`."""
    for size, sign in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            scaled = value / size
            places = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{places}f}{sign}"
    return f"{value:.3g}"
