"""Makes of a store what the first version of this program would have written, by its own rules."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fugaku_jax.data.store import Store

SPLITS = ("train", "validation")
COLUMNS = ["id", "source", "licence", "sha256", "start", "length", "bytes"]


def make_format_1(folder: Path) -> None:
    """Rewrites the store in a folder."""
    store, path = Store.open(str(folder)), folder / "store.json"
    fields = json.loads(path.read_text())
    for number, each in enumerate(fields["sets"]):
        for split in SPLITS:
            side, place = each[split], folder / fields["prefix"] / str(number)
            for name in ("tokens_root", "documents_root", "blocks_sha256"):
                del side[name]
            tokens = store.read(number, split, np.array([0]), side["tokens"])[0]
            little_endian = tokens.astype(f"<u{2 if fields['dtype'] == 'uint16' else 4}")
            side["tokens_sha256"] = hashlib.sha256(little_endian.tobytes()).hexdigest()
            table = pa.concat_tables(store.documents(number, split).tables()).select(COLUMNS)
            side["documents_sha256"] = _digest(table)
            pq.write_table(table, place / f"{split}.documents.parquet", compression="zstd")
            for name in (f"{split}.documents", f"{split}.chunks"):
                shutil.rmtree(place / name, ignore_errors=True)
            (place / f"{split}.blocks.json").unlink()
    del fields["sha256"], fields["format"], fields["version"]
    hashed = {name: value for name, value in fields.items() if name != "prefix"}
    sha256 = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()
    head = {"format": "fugaku_jax token store", "version": 1, "sha256": sha256}
    path.write_text(json.dumps(head | fields, indent=1, ensure_ascii=False))


def _digest(table: pa.Table) -> str:
    running = hashlib.sha256()
    for row in table.to_pylist():
        for value in row.values():
            text = ("" if value is None else f"={value}").encode()
            running.update(b"%d:%s" % (len(text), text))
    return running.hexdigest()
