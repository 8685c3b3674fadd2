"""TLS for clients: the server's certificate and name are checked, always."""

import ssl
from pathlib import Path

from common.errors import UsageError


def tls_context(variable: str, ca_file: Path | None) -> ssl.SSLContext:
    """A context that trusts the authorities in a file, else the system's. Raises UsageError that names the variable."""
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except OSError as error:  # ssl.SSLError is one
        why = "it is no file of certificates (PEM)" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(f"{variable}={ca_file}: {why}") from None
