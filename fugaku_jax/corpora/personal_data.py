"""Mail addresses, telephone, payment card and My Numbers, masked in a text.

A number is masked if its form says what it is: a telephone's begins as Japan's numbering plan has
it and is as long as that says, or is written internationally; a card's and a My Number have a check
digit, and the latter its name before it. Dates, prices, versions, ISBNs, postal codes and product
numbers are none of these. Own code: datatrove's masks know no Japanese numbers, and no full-width
digits.
"""

import re
from collections import Counter

_MAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_+-])?[@＠]"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![\w-])",
    re.A,
)
_HYPHENS = "-‐‑‒–—−ー－"
_DIGIT = "0-9０-９"
# Digits with what may stand between them: most texts hold few, and only they are looked at closely.
# What must not stand before them is asked last, so that the search itself is for one set of signs.
_RUN = re.compile(
    rf"[+＋(（{_DIGIT}](?<![{_DIGIT}A-Za-z_.,#/¥￥$].)(?<![{_DIGIT}A-Za-z][{_HYPHENS}].)"
    rf"[{_DIGIT}() （）　.\{_HYPHENS}]{{8,}}(?<=[{_DIGIT}])"
    rf"(?![A-Za-z_%％円年月日時分]|[.,:/\{_HYPHENS}][{_DIGIT}])"
)
_TO_ASCII = str.maketrans(
    "０１２３４５６７８９＋（）　" + _HYPHENS, "0123456789+() " + "-" * len(_HYPHENS)
)
# Japan's plan (総務省 電気通信番号計画): mobile and IP telephones have eleven digits, services
# begin with 0120, 0800, 0570 or 0990, and geographic numbers have ten.
_FORMS = {
    "international": r"\+[1-9](?:[-. ()]{0,2}\d){8,14}",
    "mobile": r"0[5-9]0[- ]?\d{4}[- ]?\d{4}|\(0[5-9]0\) ?\d{4}[- ]?\d{4}",
    "service": r"0(?:120|800|570|990)(?:-\d{2,3}-\d{3,4}|\d{6,7})",
    "geographic": r"0[1-9]\d{0,3}(?:-\d{1,4}-| \d{1,4} |\(\d{1,4}\) ?)\d{4}"
    r"|\(0[1-9]\d{0,3}\) ?\d{1,4}[- ]?\d{4}",
    "american": r"(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-.])[2-9]\d{2}[-.]\d{4}",
    "card": r"[2-6]\d{3}(?P<gap>[- ]?)\d{4}(?P=gap)\d{4}(?P=gap)\d{4}"
    r"|3[47]\d{2}[- ]?\d{6}[- ]?\d{5}",
    "mine": r"\d{4}[- ]?\d{4}[- ]?\d{4}",
}
_NUMBER = re.compile(
    r"(?<![\d.-])(?:" + "|".join(f"(?P<{name}>{form})" for name, form in _FORMS.items()) + ")"
    r"(?![\d]|[.-]\d)"
)
_MY_NUMBER_NEAR = re.compile("マイナンバー|個人番号|my ?number", re.I)
_NEAR = 20  # characters before a My Number in which its name stands

MASKS = {"mail address": "<MAIL>", "telephone number": "<PHONE>"}
MASKS |= {"card number": "<CARD>", "My Number": "<MYNUMBER>"}


def mask(text: str) -> tuple[str, list[str]]:
    """Return a text with its personal data masked, and how many: `2 mail address`."""
    found: Counter[str] = Counter()

    def masked_run(run: re.Match[str]) -> str:
        before = run.string[max(run.start() - _NEAR, 0) : run.start()]
        parts, end = [], 0
        for match in _NUMBER.finditer(run[0].translate(_TO_ASCII)):
            kind = _kind(match, before)
            if kind is not None:
                found[kind] += 1
                parts += [run[0][end : match.start()], MASKS[kind]]
                end = match.end()
        return "".join([*parts, run[0][end:]])

    if "@" in text or "＠" in text:
        text, number = _MAIL.subn(MASKS["mail address"], text)
        found["mail address"] += number
    text = _RUN.sub(masked_run, text)
    return text, [f"{found[kind]} {kind}" for kind in MASKS if found[kind]]


def _kind(match: re.Match[str], before: str) -> str | None:
    digits = [int(each) for each in match[0] if each.isdigit()]
    if match["card"]:
        return "card number" if _luhn(digits) else None
    if match["mine"]:
        named = _MY_NUMBER_NEAR.search(before)
        return "My Number" if named and _is_my_number(digits) else None
    if match["geographic"] and len(digits) != 10:
        return None
    return "telephone number"


def _luhn(digits: list[int]) -> bool:
    """Whether a card's check digit is right (ISO/IEC 7812-1, annex B)."""
    doubled = (sum(divmod(2 * each, 10)) for each in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_my_number(digits: list[int]) -> bool:
    """Whether a My Number's check digit is right (総務省令第八十五号, 2014, article 5)."""
    rest = sum(d * (n + 1 if n <= 6 else n - 5) for n, d in enumerate(digits[-2::-1], 1)) % 11
    return digits[-1] == (0 if rest <= 1 else 11 - rest)
