"""Text in one form of Unicode, without characters that say nothing."""

import re
import unicodedata
from typing import Literal

# Controls but tab and newline, byte-order marks, what has no width, and soft hyphens. Joiners stay:
# emoji and Indian scripts need them.
_SILENT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u2060\ufeff]")
_LINE_END = re.compile("\r\n?|[\x85\u2028\u2029]")
_TRAILING = re.compile(r"[ \t\u3000]+$", re.M)
_BLANK = re.compile(r"\n{4,}")


def normalise(text: str, form: Literal["NFC", "NFKC"]) -> str:
    """Return a text in a form of Unicode's, with `\\n` as the only end of a line.

    Silent characters, spaces at the ends of lines, blank lines beyond two and those at both ends
    of the text are left out. Source of the forms: Unicode Standard Annex 15.
    """
    if not unicodedata.is_normalized(form, text):
        text = unicodedata.normalize(form, text)
    text = _LINE_END.sub("\n", text) if _LINE_END.search(text) else text
    text = _SILENT.sub("", text) if _SILENT.search(text) else text
    if " \n" in text or "\u3000\n" in text or "\t\n" in text:
        text = _TRAILING.sub("", text)
    if "\n\n\n\n" in text:
        text = _BLANK.sub("\n\n\n", text)
    return text.strip("\n \t")
