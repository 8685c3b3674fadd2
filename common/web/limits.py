"""Limits of the HTTP server: how much one client, and all clients together, may take of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on connections and requests; durations in seconds.

    Attributes:
        connections: Open connections. Beyond them the connection that has been idle longest is closed.
        connections_per_address: The same for one client address.
        handshake_s: Time for the TLS handshake.
        first_byte_s: Time from the connection to the first byte of a request.
        head_s: Time from the first byte of a request to the end of its head.
        upgrade_s: Time for the answer to a request for a WebSocket; longer than looking up an API key may take.
        body_pause_s: Longest pause between two reads of a body.
        keep_alive_s: How long an idle connection stays open. Longer than proxies keep theirs, which would otherwise
            reuse a connection that is being closed.
        write_s: An answer of which the client takes nothing for this long ends the connection.
        linger_s: After a refusal, how long the client may go on sending, so that it comes to read the answer.
        grace_s: How long requests may take once the server stops. Docker kills 10 s after SIGTERM.
        last_answers_s: How long requests that are cancelled then may take to answer.
        unacknowledged_s: The kernel gives a client up that acknowledges nothing for this long.
        sweep_s: How often the times above are checked.
        report_s: Refusals are counted, and the counts logged no more often than this.
        head_bytes: Request line and header fields of a request; also its trailer fields.
        head_fields: Header fields of a request.
        target_bytes: Path and query of a request.
        upgrade_field_bytes: A header field of a request for a WebSocket. uvicorn leaves longer ones without an answer.
        unread_bytes: Pipelined requests that wait for their turn. Beyond this, reading pauses.
        held_bytes: Unread answers and unread requests of all connections. Beyond this, connections are cut off, first
            the one that something has been held for longest.
        counted_bytes: A connection that holds less than this does not count.
        linger_bytes: How much is read and thrown away after a refusal.
        send_buffer_bytes: The kernel's buffer for an answer. It is small, so that a slow client is noticed.
        websocket_message_bytes: A message from a WebSocket client.
        websocket_burst_bytes: What a WebSocket client may send at once, pings included. Beyond this it is closed.
        websocket_bytes_per_s: What it may send in the long run: some 40 pings a second.
        websocket_ping_s: Time between pings, and for the pong.
        backlog: Connections that wait to be accepted.
    """

    connections: int = 8_192
    connections_per_address: int = 4_096
    handshake_s: float = 10.0
    first_byte_s: float = 10.0
    head_s: float = 10.0
    upgrade_s: float = 20.0
    body_pause_s: float = 30.0
    keep_alive_s: float = 75.0
    write_s: float = 10.0
    linger_s: float = 2.0
    grace_s: float = 5.0
    last_answers_s: float = 1.0
    unacknowledged_s: float = 30.0
    sweep_s: float = 1.0
    report_s: float = 10.0
    head_bytes: int = 64 * 1024
    head_fields: int = 128
    target_bytes: int = 8_000
    upgrade_field_bytes: int = 8_000
    unread_bytes: int = 64 * 1024
    held_bytes: int = 64 * 1024 * 1024
    counted_bytes: int = 16 * 1024
    linger_bytes: int = 64 * 1024 * 1024
    send_buffer_bytes: int = 256 * 1024
    websocket_message_bytes: int = 4_096
    websocket_burst_bytes: int = 8 * 1024
    websocket_bytes_per_s: int = 256
    websocket_ping_s: float = 20.0
    backlog: int = 4_096
