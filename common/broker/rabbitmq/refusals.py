"""Turns the errors of pika into ours: what RabbitMQ refuses, in its own words, and why it can't be reached."""

import re
import ssl
from typing import NamedTuple

import pika
from pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    IncompatibleProtocolError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)
from pika.spec import ACCESS_REFUSED, NOT_ALLOWED, PRECONDITION_FAILED

from common.errors import Refused, RefusedForNow, TooLarge, Unavailable
from common.hosts import Address

# pika raises the Probable* errors for any loss of the connection during the handshake. RabbitMQ's code and words are in
# the text, if it gave any.
_CLOSED_IN_HANDSHAKE = re.compile(r"ConnectionClosedByBroker: \((\d+)\) ['\"](.*)['\"]")
_TOO_LARGE = re.compile(r"message size \d+ is larger than configured max size (\d+)")


def gone(error: AMQPError) -> Unavailable:
    """The connection was lost during a call of pika."""
    return Unavailable(f"RabbitMQ is gone: {error!r}")


def connection_error(error: BaseException, params: pika.ConnectionParameters) -> Unavailable | Refused:
    """Why a connection could not be opened. What RabbitMQ refuses to a connection, its operator may soon allow."""
    where = f"RabbitMQ at {Address(params.host, params.port)}"
    causes = _causes(error)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return RefusedForNow(
                f"{where}: its certificate is not trusted: {cause.verify_message}: check RABBITMQ_CA_FILE"
            )
        if refused := _refused_connection(cause, where, params):
            return refused
    return Unavailable(f"{where} can't be reached: {_why(causes[-1], params)}")


def channel_error(reason: BaseException, doing: str) -> Unavailable | Refused:
    """Why RabbitMQ closed a channel or its connection while it was `doing` something."""
    words = words_of(reason)
    if isinstance(reason, ChannelClosedByBroker):
        if reason.reply_code == ACCESS_REFUSED:
            return Refused(f"RabbitMQ refuses to {doing}: {words}")
        if reason.reply_code == PRECONDITION_FAILED:  # such as a queue limit of the virtual host
            return RefusedForNow(f"RabbitMQ refuses to {doing}: {words}")
    if isinstance(reason, ConnectionClosedByBroker) and reason.reply_code == NOT_ALLOWED:  # a channel limit
        return RefusedForNow(f"RabbitMQ refuses to {doing}: {words}")
    return Unavailable(f"RabbitMQ closed the channel: {words}")


def too_large(reason: BaseException) -> TooLarge | None:
    """The size limit for which RabbitMQ closed a channel, if that is why."""
    words = words_of(reason)
    found = _TOO_LARGE.search(words)
    return None if found is None else TooLarge(f"RabbitMQ refuses a body: {words}", int(found[1]))


def words_of(reason: BaseException) -> str:
    """RabbitMQ's own words, where it closed a connection or a channel."""
    if isinstance(reason, ConnectionClosedByBroker | ChannelClosedByBroker):
        return str(reason.reply_text).rstrip(".")
    return repr(reason)


def _refused_connection(
    cause: BaseException, where: str, params: pika.ConnectionParameters
) -> RefusedForNow | None:
    close = _close(cause)
    if close.code == ACCESS_REFUSED:
        return RefusedForNow(
            f"{where} refuses the login: {close.words}: check RABBITMQ_USER and RABBITMQ_PASSWORD"
        )
    if close.code == NOT_ALLOWED:
        advice = "" if "limit" in close.words else f": check RABBITMQ_VHOST={params.virtual_host}"
        return RefusedForNow(f"{where} refuses the connection: {close.words}{advice}")
    return None


class _Close(NamedTuple):
    """How RabbitMQ closed a connection.

    Attributes:
        code: Its code; None if something else closed the connection.
        words: Its words.
    """

    code: int | None = None
    words: str = ""


def _close(cause: BaseException) -> _Close:
    if isinstance(cause, ProbableAuthenticationError | ProbableAccessDeniedError):
        found = _CLOSED_IN_HANDSHAKE.search(str(cause.args[0])) if cause.args else None
        return _Close(int(found[1]), found[2].replace("\\'", "'").rstrip(".")) if found else _Close()
    if isinstance(cause, AuthenticationError):
        return _Close(int(ACCESS_REFUSED), repr(cause))
    if isinstance(cause, ConnectionClosedByBroker):
        return _Close(cause.reply_code, words_of(cause))
    return _Close()


def _causes(error: BaseException) -> list[BaseException]:
    """An error, and the errors that pika has nested in it."""
    nested = [error]
    for inner in (*error.args, getattr(error, "exception", None), *getattr(error, "exceptions", ())):
        if isinstance(inner, BaseException):
            nested += _causes(inner)
    return nested


def _why(cause: BaseException, params: pika.ConnectionParameters) -> str:
    """The innermost cause of a failed connection, in a few words."""
    if isinstance(cause, ssl.SSLError):
        return f"{cause.reason or cause}: does this port have TLS? (RABBITMQ_TLS)"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    if isinstance(cause, IncompatibleProtocolError):
        return "it ended the connection and spoke no AMQP: has this port TLS? (RABBITMQ_TLS)"
    text = str(cause.args[0]) if cause.args else type(cause).__name__
    if "Timeout while setting up AMQP" in text:
        return f"no AMQP within {params.stack_timeout:.1f} s: is it the port of another server?"
    return text
