"""The first phase: what can be decided of each document alone."""

import io
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from fugaku_jax.corpora.contamination import EvaluationTexts
from fugaku_jax.corpora.decisions import Decision, write_decisions
from fugaku_jax.corpora.languages import language_of
from fugaku_jax.corpora.normalise import normalise
from fugaku_jax.corpora.personal_data import mask
from fugaku_jax.corpora.plan import PLACE_BITS, CorpusPlan, evaluation_texts
from fugaku_jax.corpora.quality_code import code_fault
from fugaku_jax.corpora.quality_en import english_fault
from fugaku_jax.corpora.quality_ja import japanese_fault
from fugaku_jax.corpora.readers import local_copy, read_documents
from fugaku_jax.corpora.recipe import CorpusInput, EnglishQuality, JapaneseQuality
from fugaku_jax.corpora.signatures import band_hashes, band_records, digest, text_records
from fugaku_jax.data.corpus import BadLine, Document
from fugaku_jax.errors import InputError
from fugaku_jax.run.whole_file import replace_file

_LEVEL = 1  # of zstd, for what is read once more
_NAMED = 5  # documents at most in a sentence

_Stage = Callable[[str], tuple[str | None, str]]


def clean(plan: CorpusPlan, task: int) -> None:
    """Read a part of a file; leave its documents, their decisions and their signatures.

    Raises:
        InputError: a line is no document, or a document has no licence, and the recipe stops there.
    """
    cleaning = _Cleaning(plan, task)
    file, part, parts = plan.parts[task]
    url, text = plan.files[file].url, cleaning.given.text
    with local_copy(url) as path:
        clock = time.process_time()
        for number, item in read_documents(path, part, parts, text):
            cleaning.seconds["read"] += time.process_time() - clock
            if isinstance(item, BadLine):
                cleaning.leave_out(item.sentence.replace(str(path), url))
            else:
                cleaning.take(file << PLACE_BITS | number, item)
            clock = time.process_time()
    cleaning.finish()


class _Cleaning:
    """What a task has gathered so far."""

    def __init__(self, plan: CorpusPlan, task: int) -> None:
        self.plan, self.task, self.given = plan, task, plan.input_of(task)
        self.evaluation = evaluation_texts(plan.recipe.evaluation, plan.root)
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()
        self.decisions: list[Decision] = []
        self.without_licence: list[str] = []
        self.kept: dict[str, list[Any]] = {"sizes": [], "text": [], "id": []}
        self.band_orders: list[int] = []
        self.bands: list[Any] = []
        self.documents = io.BytesIO()
        self.writer = zstandard.ZstdCompressor(level=_LEVEL).stream_writer(
            self.documents, closefd=False
        )

    def leave_out(self, sentence: str) -> None:
        """Note a line that is no document. Raises InputError if the recipe stops there."""
        if self.plan.recipe.on_bad_line == "stop":
            raise InputError(sentence)
        where, _, reason = sentence.partition(": ")
        self.counts["bad lines"] += 1
        self.decisions.append(Decision(where, self.given.source, "read", "dropped", reason))

    def take(self, order: int, item: Document) -> None:
        """Clean one document and keep it, or say why not."""
        source = item.source or self.given.source or self.plan.files[order >> PLACE_BITS].name
        licence = item.licence or self.given.licence
        if licence is None and self.plan.recipe.require_licence:
            self.without_licence.append(item.id)
            return
        self.counts["documents"] += 1
        self.counts["bytes"] += len(item.text.encode())
        changes: list[str] = []
        text = item.text
        for stage, function in _stages(self.plan, self.given, self.evaluation):
            clock = time.process_time()
            result, reason = function(text)
            self.seconds[stage] += time.process_time() - clock
            if reason:
                action = "dropped" if result is None else "changed"
                self.decisions.append(Decision(item.id, source, stage, action, reason))
                changes.append(reason)
            if result is None:
                return
            text = result
        self._keep(order, text, item.id, source, licence, "; ".join(changes))

    def _keep(self, order: int, text: str, identity: str, source: str, *rest: str | None) -> None:
        clock = time.process_time()
        fields = dict(zip(("licence", "decisions"), rest, strict=True))
        record = {"id": identity, "text": text, "source": source, **fields}
        self.writer.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        data = text.encode()
        sizes = (order, len(data), len(text))
        for name, value in (
            ("sizes", sizes),
            ("text", digest(data)),
            ("id", digest(identity.encode())),
        ):
            self.kept[name].append(value)
        self.seconds["write"] += time.process_time() - clock
        if near := self.plan.recipe.near_duplicates:
            clock = time.process_time()
            hashes = band_hashes(text, near)
            if hashes is not None:
                self.band_orders.append(order)
                self.bands.append(hashes)
            self.seconds["near-duplicates"] += time.process_time() - clock

    def finish(self) -> None:
        """Write all that was gathered; the mark comes last.

        Raises:
            InputError: documents have no licence.
        """
        if missing := self.without_licence:
            names = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
            raise InputError(
                f"input {self.given.name}: {len(missing)} documents have no licence, and the "
                f"recipe demands one: {names}; give the input a `licence`."
            )
        self.writer.close()
        name = f"{self.task:06d}"
        sizes = np.array(self.kept["sizes"], np.uint64).reshape(-1, 3)
        _write_array(self.plan.work("clean", f"{name}.sizes.npy"), sizes)
        orders = sizes[:, 0].tolist()
        folder = self.plan.work("clean")
        _write(folder / f"{name}.jsonl.zst", self.documents.getvalue())
        write_decisions(folder / f"{name}.parquet", self.decisions)
        for key in ("text", "id"):
            _write_array(folder / f"{name}.{key}.npy", text_records(self.kept[key], orders))
        if near := self.plan.recipe.near_duplicates:
            records = band_records(self.bands, self.band_orders, near.bands)
            _write_array(folder / f"{name}.bands.npy", records)
        counted = {"counts": dict(self.counts), "seconds": dict(self.seconds)}
        self.plan.set_mark("clean", self.task, **counted)


def _stages(
    plan: CorpusPlan, given: CorpusInput, evaluation: EvaluationTexts | None
) -> list[tuple[str, _Stage]]:
    """The stages of an input in order; each gives a text, None if it is dropped, and a reason."""
    form, limits = plan.recipe.normalisation, given.quality

    def normalised(text: str) -> tuple[str | None, str]:
        after = normalise(text, form)
        return (after or None), "" if after == text else "normalised" if after else "empty"

    def in_language(text: str) -> tuple[str | None, str]:
        language, how = language_of(text)
        if language in (*given.languages, "und"):
            return text, ""
        return None, f"language {language} ({how}), not {' or '.join(given.languages)}"

    def good(text: str) -> tuple[str | None, str]:
        if isinstance(limits, JapaneseQuality):
            fault = japanese_fault(text, limits)
        elif isinstance(limits, EnglishQuality):
            fault = english_fault(text, limits)
        else:
            fault = code_fault(text, limits) if limits else None
        return (None, fault) if fault else (text, "")

    def uncontaminated(text: str) -> tuple[str | None, str]:
        found = evaluation.found_in(text) if evaluation else None
        return (None, f"holds {found}") if found else (text, "")

    def masked(text: str) -> tuple[str | None, str]:
        after, kinds = mask(text)
        return after, f"masked {', '.join(kinds)}" if kinds else ""

    stages: list[tuple[str, _Stage]] = [("normalise", normalised)]
    stages += [("language", in_language)] if given.languages else []
    stages += [("quality", good)] if limits else []
    stages += [("contamination", uncontaminated)] if evaluation else []
    return stages + ([("personal data", masked)] if given.mask else [])


def _write(path: Path, data: bytes) -> None:
    replace_file(path, lambda file: file.write(data))


def _write_array(path: Path, array: np.ndarray) -> None:
    replace_file(path, lambda file: np.save(file, array, allow_pickle=False))
