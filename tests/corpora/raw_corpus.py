"""Documents, made up, for the tests of corpora."""

import gzip
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

QUESTION = (
    "太郎は毎朝りんごを三個ずつ収穫し、二日に一度だけ市場へ五個を売りに行きます。残りは何個ですか？"
)
NATURAL = "太郎は毎朝りんごを三個ずつ食べ、二日に一度だけ市場へ行く。残りは母に渡した。"
ENGLISH_QUESTION = (
    "A baker makes seven trays of rolls each morning and sells four of them before noon, "
    "how many trays are left for the afternoon?"
)


def story(seed: int, sentences: int = 40) -> str:
    """Japanese in form, of words without a sense: it passes all rules for the web."""
    rng = random.Random(seed)

    def kanji() -> str:
        return "".join(chr(rng.randrange(0x4E00, 0x8000)) for _ in range(2))

    def kana() -> str:
        return "".join(chr(rng.randrange(0x3042, 0x3093)) for _ in range(3))

    lines = []
    for i in range(sentences):
        lines.append(f"{kanji()}の{kanji()}は{kanji()}から{kana()}まで{kana()}{kana()}を")
        lines.append(f"{kanji()}に{kana()}した。" + "\n" * (i % 4 == 3))
    return "".join(lines)


def english(seed: int) -> str:
    """An English text that passes Gopher's rules."""
    rng = random.Random(seed)
    words = [
        "the",
        "river",
        "and",
        "a",
        "lamp",
        "of",
        "that",
        "house",
        "have",
        "with",
        "to",
        "be",
        "road",
        "letters",
        "north",
        "winter",
    ]
    return "\n".join(" ".join(rng.choices(words, k=14)) + f" {i}." for i in range(12))


def jsonl(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    """Write rows, in gzip if the ending says so."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def row(identity: str, text: str, **fields: object) -> dict[str, object]:
    """A document of a file."""
    return {"id": identity, "text": text, "licence": "CC0-1.0", **fields}


def warc(pages: Sequence[tuple[str, str]], compressed: bool = True) -> bytes:
    """A WARC of HTML pages, given as (URL, text)."""
    data = io.BytesIO()
    writer = WARCWriter(data, gzip=compressed)
    for url, text in pages:
        html = f"<html><body><main><p>{text}</p></main></body></html>".encode()
        headers = [("Content-Type", "text/html; charset=utf-8")]
        http = StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1")
        record = writer.create_warc_record(
            url, "response", payload=io.BytesIO(html), http_headers=http
        )
        writer.write_record(record)
    return data.getvalue()


def wet(pages: Sequence[tuple[str, str]], compressed: bool = True) -> bytes:
    """A WET of the texts of pages, as Common Crawl makes them of a WARC."""
    data = io.BytesIO()
    writer = WARCWriter(data, gzip=compressed)
    for url, text in pages:
        payload = io.BytesIO(text.encode())
        record = writer.create_warc_record(
            url, "conversion", payload=payload, warc_content_type="text/plain"
        )
        writer.write_record(record)
    return data.getvalue()


def write_corpus(folder: Path) -> None:
    """A folder for the recipe `small`, with things planted and look-alikes beside them."""
    first = [row(f"story/{i}", story(i)) for i in range(150)]
    first += [
        row("short", "短い。"),
        row("chinese", "我们今天在学校学习了很多新的知识，老师说明天还要继续努力。" * 30),
        row(
            "mail",
            story(500) + "連絡は taro@example.co.jp まで。電話は０３－１２３４－５６７８です。",
        ),
        row(
            "no-mail",
            story(501) + "版は10.0.19041.1234で、2024-01-15に出た。ISBN 978-4-00-310101-8。",
        ),
        row("question", story(502) + QUESTION),
        row("natural", story(503) + NATURAL),
    ]
    near = story(3, 300)
    second = [
        row("copy", story(7)),  # of ja/a, in another file
        row("original", near),
        row("near", near.replace("した", "なる", 1)),
        row("other", story(3, 299) + story(900, 150)),
        row("story/4", story(200)),  # a name that is taken
    ]
    jsonl(folder / "ja" / "a.jsonl.gz", first)
    jsonl(folder / "ja" / "b.jsonl", second)
    pages = [(f"https://example.com/{i}", story(300 + i)) for i in range(3)]
    (folder / "pages").mkdir()
    (folder / "pages" / "p.warc.gz").write_bytes(warc(pages))
    rows = [row(f"en/{i}", english(i)) for i in range(8)]
    rows += [row("en/question", english(50) + "\n" + ENGLISH_QUESTION)]
    rows += [row("en/natural", english(51) + "\nA baker makes seven trays of bread each morning.")]
    rows += [row("en/french", "Le chat est sur la table et il dort toute la journée. " * 20)]
    jsonl(folder / "en" / "e.jsonl", rows)
    code = "\n".join(f"def f{i}(x):\n    return x + {i}" for i in range(30))
    rows = [row("code/1", code), row("code/2", "# Generated by a tool. DO NOT EDIT\n" + code)]
    jsonl(folder / "code" / "c.jsonl", rows)
    questions = [{"question": QUESTION}, {"question": ENGLISH_QUESTION}]
    jsonl(folder / "eval" / "questions.jsonl", questions)
