"""Small dialogues of which each is another."""

from fugaku_jax.tuning.dialogues import Dialogue, Message

NOUNS = ("海", "山", "雪", "川", "猫", "犬", "空", "森", "花", "星")


def question(number: int) -> str:
    """A question that no other number has."""
    return f"{NOUNS[number % 10]}と{NOUNS[number // 10 % 10]}では、{number}番はどちらですか?"


def answer(number: int) -> str:
    """Its answer, of a length of its own."""
    return f"{NOUNS[number // 10 % 10]}です。" * (1 + number % 4) + "😀。" * (number % 3 == 0)


def dialogue(number: int, turns: int = 1) -> Dialogue:
    """A dialogue of some turns."""
    said = []
    for turn in range(turns):
        said += [
            Message("user", question(number + turn)),
            Message("assistant", answer(number + turn)),
        ]
    return Dialogue(f"talk-{number}", tuple(said), "small talk", "CC0-1.0")
