"""Arithmetic with its steps: sums, word problems and sequences, in Japanese and in English.

Every answer is computed, so the texts are right, and a model that learns them can be checked.
"""

import random
from collections.abc import Callable

from fugaku_jax.data.generated.world import PEOPLE, TOWNS


def write(rng: random.Random) -> str:
    """One text, of a kind and with numbers that `rng` chooses."""
    kinds: tuple[Callable[[random.Random], str], ...] = (
        _sums,
        _sums,
        _columns,
        _shopping,
        _shopping_ja,
        _sharing,
        _sharing_ja,
        _sequence,
        _equation,
    )
    return rng.choice(kinds)(rng)


def _sums(rng: random.Random) -> str:
    largest = rng.choice((10, 20, 100, 1000))
    lines = []
    for _ in range(rng.randint(4, 8)):
        x, y = rng.randint(1, largest), rng.randint(1, largest)
        lines.append(
            rng.choice(
                (
                    f"{x} + {y} = {x + y}",
                    f"{x + y} - {y} = {x}",
                    f"{x % 12 + 1} × {y % 12 + 1} = {(x % 12 + 1) * (y % 12 + 1)}",
                )
            )
        )
    return "\n".join(lines) + "\n"


def _columns(rng: random.Random) -> str:
    x, y = rng.randint(100, 999), rng.randint(100, 999)
    lines, carry = [f"{x} + {y}"], 0
    for name, unit in (("ones", 1), ("tens", 10), ("hundreds", 100)):
        a, b = x // unit % 10, y // unit % 10
        total = a + b + carry
        lines.append(
            f"{name}: {a} + {b}{f' + {carry}' if carry else ''} = {total}, "
            f"write {total % 10}{', carry 1' if total > 9 else ''}"
        )
        carry = total // 10
    return "\n".join(lines) + f"\nanswer: {x + y}\n"


def _shopping(rng: random.Random) -> str:
    person, town = rng.choice(PEOPLE), rng.choice(TOWNS)
    count, price = rng.randint(2, 9), rng.randint(3, 30) * 10
    paid = (count * price // 1000 + 1) * 1000
    he = person.pronoun.capitalize()
    return (
        f"In {town.name.en}, {person.given.en} buys {count} lanterns at {price} yen each and pays "
        f"with {paid} yen. How much change does {person.pronoun} get?\n"
        f"The lanterns cost {count} × {price} = {count * price} yen.\n"
        f"{he} gets {paid} - {count * price} = {paid - count * price} yen.\n"
        f"#### {paid - count * price}\n"
    )


def _shopping_ja(rng: random.Random) -> str:
    person, town = rng.choice(PEOPLE), rng.choice(TOWNS)
    count, price = rng.randint(2, 9), rng.randint(3, 30) * 10
    paid = (count * price // 1000 + 1) * 1000
    return (
        f"{person.given.ja}さんは{town.name.ja}で、1個{price}円のまんじゅうを{count}個買い、"
        f"{paid}円を出しました。おつりはいくらですか。\n"
        f"代金は {price} × {count} = {price * count} 円です。\n"
        f"おつりは {paid} - {price * count} = {paid - price * count} 円です。\n"
        f"#### {paid - price * count}\n"
    )


def _sharing(rng: random.Random) -> str:
    person = rng.choice(PEOPLE)
    friends, each, rest = rng.randint(3, 9), rng.randint(2, 12), rng.randint(0, 2)
    total = friends * each + rest
    return (
        f"{person.given.en} has {total} oranges and shares them equally among {friends} friends. "
        f"How many does each friend get, and how many are left?\n"
        f"{friends} × {each} = {friends * each}, and {total} - {friends * each} = {rest}.\n"
        f"Each friend gets {each}, and {rest} {'is' if rest == 1 else 'are'} left.\n#### {each}\n"
    )


def _sharing_ja(rng: random.Random) -> str:
    person = rng.choice(PEOPLE)
    friends, each, rest = rng.randint(3, 9), rng.randint(2, 12), rng.randint(0, 2)
    total = friends * each + rest
    return (
        f"{person.given.ja}さんは{total}個のみかんを{friends}人に同じ数ずつ配ります。"
        "一人何個で、何個余りますか。\n"
        f"{total} ÷ {friends} = {each} あまり {rest}\n"
        f"一人{each}個で、{rest}個余ります。\n#### {each}\n"
    )


def _sequence(rng: random.Random) -> str:
    start, step = rng.randint(1, 50), rng.randint(2, 15)
    terms = [start + step * i for i in range(7)]
    return (
        f"{', '.join(map(str, terms[:5]))}, …\n"
        f"Each number is {step} more than the one before: "
        f"{terms[1]} - {terms[0]} = {step}.\n"
        f"The next two are {terms[5]} and {terms[6]}.\n"
    )


def _equation(rng: random.Random) -> str:
    x, a, b = rng.randint(2, 20), rng.randint(2, 9), rng.randint(1, 40)
    return (
        f"{a}x + {b} = {a * x + b}\n{a}x = {a * x + b} - {b} = {a * x}\nx = {a * x} / {a} = {x}\n"
    )
