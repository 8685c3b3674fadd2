"""TLS. Clients check the server's certificate and name, always. A server checks its own certificate when it starts."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from common.errors import UsageError


def tls_context(variable: str, ca_file: Path | None) -> ssl.SSLContext:
    """A context that trusts the authorities in a file, else the system's. Raises UsageError that names the variable."""
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except OSError as error:  # ssl.SSLError is one
        why = "it is no file of certificates (PEM)" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(f"{variable}={ca_file}: {why}") from None


@dataclass(frozen=True)
class ServerFiles:
    """The files of a server, PEM, and the variables that name them.

    Attributes:
        certificate: Its certificate, followed by those of the authorities in between.
        key: The private key, without a passphrase.
        certificate_variable: Names the certificate in errors.
        key_variable: Names the key in errors.
    """

    certificate: Path
    key: Path
    certificate_variable: str
    key_variable: str

    def context(self) -> ssl.SSLContext:
        """The context of a server. Raises UsageError for files that clients could not connect with."""
        self._read()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.certificate, self.key, password=self._refuse_passphrase)
        except ssl.SSLError as error:
            raise UsageError(self._reason(error)) from None
        self._connect(context)
        return context

    def _read(self) -> None:
        for variable, file, label in (
            (self.certificate_variable, self.certificate, b"CERTIFICATE-----"),
            (self.key_variable, self.key, b"PRIVATE KEY-----"),
        ):
            try:
                content = file.read_bytes()
            except OSError as error:
                raise UsageError(f"{variable}={file}: can't be read: {error.strerror}") from None
            if label not in content:
                raise UsageError(f"{variable}={file}: has no {label.decode().strip('-').lower()} (PEM)")

    def _refuse_passphrase(self) -> str:
        raise UsageError(f"{self.key_variable}={self.key}: needs a passphrase: store it without one")

    def _reason(self, error: ssl.SSLError) -> str:
        key = f"{self.key_variable}={self.key}"
        if error.reason == "KEY_VALUES_MISMATCH":
            return (
                f"{key}: is not the key of the certificate in {self.certificate_variable}={self.certificate}"
            )
        return (
            f"{self.certificate_variable}={self.certificate}, {key}: can't be used: {error.reason or error}"
        )

    def _connect(self, context: ssl.SSLContext) -> None:
        """Connects to itself in memory, as a client that trusts the certificate. Raises UsageError if that fails."""
        client_context = ssl.create_default_context(cafile=str(self.certificate))
        client_context.check_hostname = False
        client_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context.wrap_bio(to_client, to_server)
        server = context.wrap_bio(to_server, to_client, server_side=True)
        try:
            while not all([_shakes_hands(client), _shakes_hands(server)]):
                pass
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", None) or error.reason or str(error)
            raise UsageError(f"{self.certificate_variable}={self.certificate}: {why}") from None


def _shakes_hands(side: ssl.SSLObject) -> bool:
    """Whether this side's handshake is over; else it waits for the other side."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
