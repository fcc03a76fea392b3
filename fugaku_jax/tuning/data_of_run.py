"""The dialogues of a run: made into a store in its directory, once, before its first step."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fugaku_jax.data.build import OnBadLine
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.json_file import read_json
from fugaku_jax.run.configuration import CONFIG_FILE
from fugaku_jax.run.identity import TUNING_FOLDER
from fugaku_jax.run.whole_file import is_full, replace_file, write_json
from fugaku_jax.tuning.build import TuningData, build_dialogues
from fugaku_jax.tuning.chat_template import FUGAKU, ChatTemplate

_STORE, _DATA, _TEMPLATE = "store", "data.json", "chat_template.jinja"
_LARGEST_TEMPLATE = 1 << 20


@dataclass(frozen=True)
class Dialogues:
    """Which dialogues a run is tuned on, and how they are told."""

    data: tuple[Path, ...]
    """JSONL (.gz, .zst) or Parquet files of dialogues: messages, Alpaca's fields, or prompt and
    completion."""
    validation: float = 0.05
    """Fraction of the dialogues, or pairs, to hold out."""
    chat_template: Path | None = None
    """A Jinja file of how a dialogue is told; else the one that came with the model, else
    Fugaku-LLM's."""
    on_bad_line: OnBadLine = "stop"
    """What to do at a line that is no dialogue: stop, or skip and list it."""
    pairs: bool = False
    """Whether a line is a pair of a chosen and a rejected answer."""


def store_of_run(run_dir: Path) -> Path:
    """Return where a run has its store of dialogues."""
    return run_dir / TUNING_FOLDER / _STORE


def template_of_run(run_dir: Path) -> str | None:
    """Return the chat template that a run was tuned with; None if it was not tuned.

    Raises:
        InputError: it cannot be read.
    """
    path = run_dir / TUNING_FOLDER / _TEMPLATE
    return read_template(path) if path.exists() else None


def give_template(run_dir: Path, template: str) -> None:
    """Write the chat template that a run's model was tuned with elsewhere.

    Raises:
        OSError: it cannot be written.
    """
    folder = run_dir / TUNING_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / _TEMPLATE, lambda file: file.write(template.encode()))


def read_template(path: Path) -> str:
    """Read a file of a chat template.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_TEMPLATE + 1)
        if len(data) > _LARGEST_TEMPLATE:
            raise InputError(f"chat template {path}: has more than {_LARGEST_TEMPLATE} bytes.")
        return data.decode()
    except OSError as error:
        raise InputError(f"chat template {path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"chat template {path}: is not UTF-8.") from error


def prepare_dialogues(
    run_dir: Path,
    dialogues: Dialogues,
    tokenizer: Tokenizer,
    row_tokens: int,
    template: str | None = None,
) -> TuningData | None:
    """Make a run's store of dialogues, unless it is there.

    Args:
        run_dir: the run.
        dialogues: which, and how they are told.
        tokenizer: of the model.
        row_tokens: the model's sequence length.
        template: the chat template that came with the model.

    Returns:
        what became of the files; None if the store was there.

    Raises:
        InputError: as `build_dialogues`, or the run has been tuned on others.
    """
    if dialogues.chat_template:
        template = read_template(dialogues.chat_template)
    template = FUGAKU if template is None else template
    folder = run_dir / TUNING_FOLDER
    wanted = {
        "data": [{"path": str(each), "sha256": _sha256(each)} for each in dialogues.data],
        "validation": dialogues.validation,
        "pairs": dialogues.pairs,
        "on_bad_line": dialogues.on_bad_line,
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest(),
        "tokenizer_sha256": tokenizer.sha256,
        "row_tokens": row_tokens,
    }
    there = read_json(folder / _DATA) if (folder / _DATA).exists() else {}
    if there and _decides(there) == _decides(wanted):
        return None
    if there and (run_dir / CONFIG_FILE).exists():
        differing = [name for name in wanted if _decides(there).get(name) != _decides(wanted)[name]]
        raise InputError(
            f"--run-dir {run_dir} was tuned on other dialogues, or told them otherwise (differing: "
            f"{', '.join(differing)}); give another directory, or the same."
        )
    compiled = ChatTemplate(template)
    try:
        give_template(run_dir, template)
        report = build_dialogues(
            str(folder / _STORE),
            dialogues.data,
            tokenizer,
            compiled,
            row_tokens,
            wanted["validation"],
            dialogues.on_bad_line,
            pairs=dialogues.pairs,
        )
        write_json(folder / _DATA, wanted | asdict(report))
    except OSError as error:
        if is_full(error):
            raise
        raise InputError(f"--run-dir {run_dir} cannot be written: {error.strerror}.") from error
    return report


def _decides(content: dict[str, Any]) -> dict[str, Any]:
    """What decides a store's rows: not where its files lay."""
    names = ("validation", "on_bad_line", "chat_template_sha256", "tokenizer_sha256", "row_tokens")
    data = content.get("data")
    files = [each.get("sha256") for each in data] if isinstance(data, list) else None
    decides = {"data": files} | {name: content.get(name) for name in names}
    return decides | {"pairs": content.get("pairs", False)}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"--data {path}: cannot be read: {error.strerror}.") from error
