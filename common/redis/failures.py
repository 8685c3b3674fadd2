"""The kinds of failures of a call to Redis, which decide what follows."""

from ast import literal_eval
from enum import Enum, auto

from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    ClusterDownError,
    ConnectionError,
    InvalidResponse,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)


class Failure(Enum):
    """What follows from a failure."""

    BUSY = auto()
    """The server cannot carry the call out now: the call is repeated."""
    MOVED = auto()
    """This connection can no longer serve, but another may: all are replaced, and the call is repeated."""
    LOGIN = auto()
    """The user or the password is refused. It may be about to change: as MOVED, for a while."""
    UNTRUSTED = auto()
    """The certificate is not trusted."""
    LASTING = auto()
    """The server refuses the call, and will refuse it again."""


# The client has classes for some codes, and removes these codes from the text.
_BUSY = (OutOfMemoryError, TryAgainError)
_BUSY_CODES = ("MISCONF", "BUSY")  # a failed disk, a running script
# An InvalidResponse comes from a server that is no Redis, or after a lost byte.
_MOVED = (ReadOnlyError, MasterDownError, ClusterDownError, ConnectionError, TimeoutError, InvalidResponse)
_MOVED_CODES = ("NOREPLICAS", "UNBLOCKED")  # cut off from its replicas; made a replica during the call
_LOGIN = (AuthenticationError, AuthorizationError, AuthenticationWrongNumberOfArgsError)


def failure_of(error: Exception) -> Failure | None:
    """The kind of an error of the client; None for a bug."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Failure.UNTRUSTED
    if isinstance(error, _LOGIN):
        return Failure.LOGIN
    if isinstance(error, _BUSY):
        return Failure.BUSY
    if isinstance(error, _MOVED):
        return Failure.MOVED
    if isinstance(error, ResponseError):
        text = str(error)
        if text.startswith(_BUSY_CODES):
            return Failure.BUSY
        return Failure.MOVED if text.startswith(_MOVED_CODES) else Failure.LASTING
    if isinstance(error, RuntimeError) and "the handler is closed" in str(error):
        # uvloop raises it for a write to a connection that was reset, and the client does not convert it.
        return Failure.MOVED
    return None


def words_of(error: Exception) -> str:
    """The server's own words, with their code, and without the call that the client may put before them."""
    _, of_pipeline, text = str(error).rpartition(" of pipeline caused error: ")
    if of_pipeline:
        text = str(literal_eval(text)[0])  # the client puts the arguments of the error there
    code = getattr(error, "status_code", None)
    return text if not code or text.startswith(code) else f"{code} {text}"
