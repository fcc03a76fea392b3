"""A model of ours as lm-evaluation-harness asks one: likelihoods of texts, and what follows them.

The harness (https://github.com/EleutherAI/lm-evaluation-harness) is the extra `grade`. Texts become
tokens as everywhere here, with what stands before every text; requests are cut from the left where
they are longer than the model, as the harness's own `hf` model does.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval import utils
from lm_eval.api.model import TemplateLM

from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.likelihoods import Likelihoods
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.engine import Engine
from fugaku_jax.models.gpt import GPT

_LONGEST_ANSWER = 256  # tokens, as the harness has it
Asked = tuple[tuple[str, str], list[int], list[int]]


class HarnessModel(TemplateLM):
    """A model that the harness can ask."""

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        first_token: int | None,
        dtype: str,
        slots: int = 32,
    ) -> None:
        """Take a model.

        Args:
            model: the model.
            tokenizer: its tokenizer.
            first_token: what stands before every text; None for nothing.
            dtype: type of the arithmetic.
            slots: most texts that are continued at once.
        """
        super().__init__()
        self._model, self._pieces, self._first, self._dtype = model, tokenizer, first_token, dtype
        self._slots, self._likelihoods = slots, Likelihoods(model, dtype)
        self._length = model.config.sequence_length

    @property
    def eot_token_id(self) -> int:
        return self._pieces.end_of_document

    @property
    def prefix_token_id(self) -> int:
        """What an empty context becomes."""
        return self._pieces.end_of_document if self._first is None else self._first

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return a text's tokens, with what stands before every text unless that is not wanted."""
        before = [] if add_special_tokens is False or self._first is None else [self._first]
        return [*before, *self._pieces.encode(string)]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the logarithm of each whole text's probability, every token predicted once.

        What stands before every text is predicted too, after itself, as by the harness's `hf`.
        """
        windows: list[Asked] = []
        owners = []
        for owner, request in enumerate(requests):
            cut = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._length,
                context_len=1,
            )
            for window in map(utils.make_disjoint_window, cut):
                windows.append((("", ""), list(window[0]), list(window[1])))
                owners.append(owner)
        sums = np.zeros(len(requests))
        found = self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)
        np.add.at(sums, owners, [value for value, _ in found])
        return sums.tolist()

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what follows each text, up to a stop string, greedily or by chance."""
        del disable_tqdm
        slots = max(1, min(self._slots, len(requests)))
        engine = Engine(self._model, self._pieces, self._first, self._dtype, slots)
        asked = [self._asked(engine, *request.args) for request in requests]
        return [row.text for row in engine.answers(asked)]

    def _asked(
        self, engine: Engine, context: str, how: dict[str, Any]
    ) -> tuple[list[int], Options]:
        until = how.get("until") or ()
        most = int(how.get("max_gen_toks", _LONGEST_ANSWER))
        temperature = float(how.get("temperature", 0.0)) if how.get("do_sample") else 0.0
        stop = tuple(filter(None, [until] if isinstance(until, str) else until))
        if most >= self._length:
            raise InputError(
                f"max_gen_toks is {most}, but the model has {self._length} positions in all."
            )
        tokens = engine.tokens(context)[most - self._length :]
        return tokens, Options(most, temperature, stop=stop)

    def _loglikelihood_tokens(
        self, requests: Sequence[Asked], disable_tqdm: bool = False, **how: Any
    ) -> list[tuple[float, bool]]:
        del disable_tqdm, how
        return self._likelihoods([(before, following) for _, before, following in requests])
