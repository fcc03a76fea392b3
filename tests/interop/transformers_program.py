"""What `transformers` makes of model directories: run under another version of it, or imported."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

NEW_TOKENS = 6


def read(folder: Path, texts: list[str]) -> dict[str, Any]:
    """Read a model directory, use it as its users do, and save it once more."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    called = tokenizer(texts[0], return_tensors="pt")
    ids = [tokenizer(text)["input_ids"] for text in texts]

    def new_tokens(*some: str) -> list[list[int]]:
        batch = tokenizer(list(some), padding=True, return_tensors="pt")
        exactly = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
        rows = model.generate(**batch, **exactly, do_sample=False)
        return rows[:, -NEW_TOKENS:].tolist()

    with torch.no_grad():
        logits = model(**called).logits[0].tolist()
    user = [{"role": "user", "content": texts[0]}]
    chat = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    saved = folder.with_name(f"{folder.name}-saved-{transformers.__version__}")
    model.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    return {
        "version": transformers.__version__,
        "inputs": sorted(called),
        "ids": ids,
        "decoded": [tokenizer.decode(row, skip_special_tokens=True) for row in ids],
        "logits": logits,
        "together": new_tokens(*texts),
        "alone": [new_tokens(text)[0] for text in texts],
        "chat": tokenizer(chat, add_special_tokens=False)["input_ids"],
        "saved": saved.name,
    }


def takes_the_stored_head(folder: Path) -> bool:
    """Tell whether the output matrix is that of the files rather than the embedding."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    return not torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)


def main() -> None:
    """Read what the arguments name: texts as JSON, a folder whose head differs, and others."""
    texts, differing, *folders = sys.argv[1:]
    found = {folder: read(Path(folder), json.loads(texts)) for folder in folders}
    print(json.dumps(found | {"stored head": takes_the_stored_head(Path(differing))}))


if __name__ == "__main__":
    main()
