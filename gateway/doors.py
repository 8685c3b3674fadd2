"""Who can come in to a gateway, and whether others can listen on the way."""

import logging
import ssl

from common.errors import UsageError
from common.settings import Settings
from common.tls import ServerFiles
from common.web.guard import is_loopback, name_of

log = logging.getLogger(__name__)


def refuse_open_doors(settings: Settings) -> None:
    """Raises UsageError where others than this machine could come in with no key."""
    if not settings.gateway_auth and not is_loopback(settings.gateway_host):
        raise UsageError(
            f"GATEWAY_AUTH=false is for loopback only, and GATEWAY_HOST={settings.gateway_host} is not:"
            " leave authentication on, or listen on 127.0.0.1"
        )
    names = [name.strip() for name in (settings.gateway_hosts or "").split(",") if name.strip()]
    if not settings.gateway_auth and (others := [name for name in names if not is_loopback(name_of(name))]):
        raise UsageError(
            f"GATEWAY_AUTH=false is for loopback only, and GATEWAY_HOSTS names others ({', '.join(others)}): leave"
            " authentication on, or name localhost, 127.0.0.1 or [::1]"
        )


def gateway_tls(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context of a gateway; None if it has no certificate. Warns if others can read keys and texts on the way.

    Raises UsageError for files that can't be used.
    """
    certificate, key = settings.gateway_tls_cert, settings.gateway_tls_key
    if certificate is not None and key is not None:
        return ServerFiles(certificate, key, "GATEWAY_TLS_CERT", "GATEWAY_TLS_KEY").context()
    if certificate is not None or key is not None:
        missing = "GATEWAY_TLS_KEY" if key is None else "GATEWAY_TLS_CERT"
        raise UsageError(f"{missing} is not set: a certificate and its key belong together")
    if not is_loopback(settings.gateway_host):
        reason = "keys, numbers and texts can be read on the way: set GATEWAY_TLS_CERT and GATEWAY_TLS_KEY"
        log.warning("gateway_without_tls", extra={"host": settings.gateway_host, "reason": reason})
    return None
