"""What a server takes at most."""

from dataclasses import dataclass

from fugaku_jax.errors import InputError


@dataclass(frozen=True)
class Limits:
    """What a server takes at most."""

    concurrent: int = 256
    """Texts that are continued or wait for a slot; requests for more are answered by 429."""
    max_tokens: int = 4096
    """Tokens that are generated for a choice, whatever is asked for."""
    body_bytes: int = 1 << 20
    """Bytes of a request's body; more is answered by 413 before it is read."""
    timeout_seconds: float = 300.0
    """From a request's first byte to its answer's last; then it is given up."""
    drain_seconds: float = 30.0
    """What answers are still given when the server is told to end."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < float("inf"):
                raise InputError(f"limits.{name} is {value}, but it must be greater than 0.")
