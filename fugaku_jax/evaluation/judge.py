"""A judge behind an OpenAI-compatible URL: it is asked, and asked again while it is busy."""

import json
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from fugaku_jax.errors import InputError, RunError
from fugaku_jax.json_file import LARGEST, parse_json

ATTEMPTS = 16
"""How often one question is asked before a judge counts as out of reach: for some nine minutes."""
_LONGEST_WAIT = 60.0  # seconds
_PASSES = {408, 409, 425, 429}  # codes below 500 of what may pass


class Judge:
    """A model that is asked over HTTP (`POST URL/chat/completions`).

    Neither proxies nor anything else of the environment is heeded, and no other server is asked
    than the one that was named.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        timeout: float = 300.0,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Name a judge; nothing is sent yet.

        Args:
            url: where the interface begins, mostly ending in `/v1`.
            model: what the server calls the model.
            key: sent as bearer token, if given.
            timeout: most seconds of an answer.
            wait: sleeps for some seconds.

        Raises:
            InputError: the URL is none of HTTP.
        """
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise InputError(f"--judge {url} is no URL; it must begin with http:// or https://.")
        self.model = model
        self._url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout, self._wait = timeout, wait
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)

    def __call__(self, system: str, user: str) -> str:
        """Return what it says, at a temperature of 0; "" if it says nothing.

        What may pass (a server that is busy or restarting, a line that breaks, an answer that is
        none) is tried again, after twice as long each time or as long as the server says.

        Raises:
            InputError: the server refuses the question: a wrong key, or no such model.
            RunError: it could not be reached at any attempt.
        """
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 2048}
        reason = ""
        for attempt in range(ATTEMPTS):
            pause: float = min(_LONGEST_WAIT, 0.5 * 2**attempt)
            try:
                return self._ask(body)
            except HTTPError as error:
                with error:
                    reason = f"{error.code} {error.reason}"
                    if error.code < 500 and error.code not in _PASSES:
                        text = " ".join(error.read(500).decode(errors="replace").split())
                        raise InputError(
                            f"the judge at {self._url} refuses: {reason}. {text}"
                        ) from None
                    asked = error.headers.get("Retry-After", "")
                    if asked.isascii() and asked.isdigit():
                        pause = min(_LONGEST_WAIT, float(asked))
            except (OSError, HTTPException, InputError) as error:
                reason = str(error) or type(error).__name__
            if attempt + 1 < ATTEMPTS:
                self._wait(pause)
        raise RunError(
            f"the judge at {self._url} did not answer, {ATTEMPTS} times over (the last time: "
            f"{reason.rstrip('.')}); what it has judged is kept, and the same command goes on."
        )

    def _ask(self, body: dict[str, Any]) -> str:
        data = json.dumps(body, ensure_ascii=False).encode()
        request = urllib.request.Request(self._url, data, self._headers)
        with self._opener.open(request, timeout=self._timeout) as response:
            answer = parse_json(response.read(LARGEST + 1), "its answer")
        try:
            content = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise InputError("its answer has no choices[0].message.content") from None
        return content if isinstance(content, str) else ""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is a refusal: the key is for the server that was named."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None
