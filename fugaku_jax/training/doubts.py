"""What may turn out wrong later, to be said before a run takes its first step."""

from collections.abc import Iterator

from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.run.identity import Start


def doubts(tokenizer: Tokenizer, start: Start | None) -> Iterator[str]:
    """Yield a sentence for each.

    Args:
        tokenizer: of the store.
        start: the weights that the run starts from, if they were not random.
    """
    if start and start.tokenizer is None:
        yield (
            f"{start.origin['path']} has no tokenizer that is known here, so nobody can tell "
            "whether the store was made with the one that its weights know."
        )
    if tokenizer.only_here:
        yield (
            f"the tokenizer of the store {tokenizer.only_here}: `launch/convert.py to-hf` will "
            "refuse this run."
        )
