"""Bytes that resemble a good file: bits flipped, parts cut out, moved or joined, sizes gone mad.

JSON is also changed as what it says: a value, a key or a whole branch is another one.
"""

import json
import random
import struct
from typing import Any

NUMBERS = (
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32,
    2**62,
    2**63,
    2**64 - 1,
)
"""Sizes that readers stumble over."""
WORDS = (
    *(b"\x00", b"\xff", b"\n", b"\r\n", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":"),
    *(b"\xef\xbb\xbf", b"\xe3\x81", "むかし".encode(), b"\xed\xa0\x80", b"\\ud800", b"\\u0000"),
    *(
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-0",
        b"null",
        b"true",
        b"9" * 25,
        b"[" * 200,
        b'{"a":' * 80,
    ),
    *(b"../", b"/etc/passwd", b"%s%n", b"a" * 300),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**18),
    *(0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), 10**25),
    *("", "a", "../a", "/", "..", "\0", "むかし", "x" * 400, "F32", "1", "\ud800"),
    *([], [[]], [0], [-1], [2**62, 4], ["a"], [None], {}, {"a": 1}, {"": None}, [[[[]]]]),
)


def mutated(seeds: list[bytes], good: int, is_json: bool, draw: random.Random) -> bytes:
    """Return one of the seeds, of which so many are good files, changed in one to eight places."""
    data = draw.choice(seeds[:good] if draw.random() < 0.7 else seeds)
    if is_json and draw.random() < 0.6:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            pass  # a seed that an earlier change has made
        else:
            for _ in range(draw.choice((1, 1, 1, 2, 4))):
                value = changed(value, draw)
            return json.dumps(value, ensure_ascii=draw.random() < 0.5).encode(
                errors="surrogatepass"
            )
    changing = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 1, 2, 3, 8))):
        draw.choice(CHANGES)(changing, seeds, draw)
    return bytes(changing)


def changed(value: Any, draw: random.Random) -> Any:
    """Return a value of JSON with another one somewhere in it."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.1:
        return _other(value, draw)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, how = draw.choice(keys), draw.random()
    if isinstance(value, list):
        if how < 0.1:
            return value[:key] + value[key + 1 :]
        if how < 0.2:
            return value + [value[key]] * draw.choice((1, 1, 300))
        return [changed(x, draw) if n == key else x for n, x in enumerate(value)]
    if how < 0.1:
        return {name: x for name, x in value.items() if name != key}
    if how < 0.2:
        other = draw.choice([*keys, "", "a", "むかし", "x" * 400, "../a", "__metadata__"])
        return value | {other: value[key]}
    return {name: changed(x, draw) if name == key else x for name, x in value.items()}


def _other(value: Any, draw: random.Random) -> Any:
    if type(value) in (int, float) and draw.random() < 0.5:
        return draw.choice((-value, value + 1, value - 1, value * 2, value * 10**6, float(value)))
    if isinstance(value, str) and draw.random() < 0.5:
        return draw.choice((value[:-1], value + "a", value * 2, value.upper(), f"{value}/../a"))
    return [value] if draw.random() < 0.1 else draw.choice(VALUES)


def _place(data: bytearray, draw: random.Random) -> int:
    # Headers and footers decide most.
    end = len(data) if draw.random() < 0.6 else min(len(data), 64)
    place = draw.randrange(end + 1)
    return place if draw.random() < 0.8 else len(data) - place


def _flip(data: bytearray, _: list[bytes], draw: random.Random) -> None:
    if data:
        data[_place(data, draw) % len(data)] ^= 1 << draw.randrange(8)


def _set(data: bytearray, _: list[bytes], draw: random.Random) -> None:
    if data:
        data[_place(data, draw) % len(data)] = draw.choice(
            (0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256))
        )


def _cut(data: bytearray, _: list[bytes], draw: random.Random) -> None:
    place = _place(data, draw)
    del data[place : place + draw.choice((1, 2, 4, 16, len(data)))]


def _repeat(data: bytearray, _: list[bytes], draw: random.Random) -> None:
    place = _place(data, draw)
    part = bytes(data[place : place + draw.choice((1, 4, 16, 64))])
    data[place:place] = part * draw.choice((1, 1, 2, 100))


def _insert(data: bytearray, _: list[bytes], draw: random.Random) -> None:
    place = _place(data, draw)
    data[place:place] = draw.choice(WORDS)


def _join(data: bytearray, seeds: list[bytes], draw: random.Random) -> None:
    other = draw.choice(seeds)
    start = draw.randrange(len(other) + 1)
    place = _place(data, draw)
    part = other[start : start + draw.choice((4, 16, 64, len(other)))]
    data[place : place + draw.choice((0, len(part)))] = part


def _size(data: bytearray, _: list[bytes], draw: random.Random) -> None:
    place, number = _place(data, draw), draw.choice((*NUMBERS, len(data), len(data) + 1))
    kind = draw.choice("BHIQ")
    packed = struct.pack(draw.choice("<>") + kind, number % (1 << 8 * struct.calcsize(f"<{kind}")))
    data[place : place + len(packed)] = packed


def _varint(data: bytearray, _: list[bytes], draw: random.Random) -> None:
    """A length as protobuf and Thrift write it."""
    number, packed = draw.choice(NUMBERS), bytearray()
    while number > 127:
        packed.append(number & 127 | 128)
        number >>= 7
    place = _place(data, draw)
    data[place : place + draw.choice((1, len(packed) + 1))] = bytes([*packed, number])


CHANGES = (_flip, _flip, _set, _set, _cut, _repeat, _insert, _join, _size, _varint)
