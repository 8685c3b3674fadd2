"""Signs callbacks as Standard Webhooks do (https://www.standardwebhooks.com), with a secret for each API key.

A key's secret is made from CALLBACK_SECRET and the key's id, so none is stored. A receiver that knows the secret of its
own key can't sign for another. Callers of the operator's own (GATEWAY_API_KEY, and all without authentication) have
CALLBACK_SECRET itself.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from common.errors import UsageError
from common.settings import Settings
from common.web.keys.authenticator import OF_THE_OPERATOR
from common.web.keys.strength import check_secret

PREFIX = "whsec_"


class Signer:
    """Signs with the first secret, and with the others while receivers change to it.

    Args:
        secrets: CALLBACK_SECRET, and CALLBACK_SECRET_PREVIOUS if that is set.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = [_bytes_of(secret) for secret in secrets]

    def headers(self, owner: str | None, webhook_id: str, *, at_s: int, body: bytes) -> dict[str, str]:
        """The headers of a callback. `owner` is the id of the API key that the message came with."""
        signed = b"%s.%d." % (webhook_id.encode(), at_s) + body
        digests = [hmac.digest(_secret_of(owner, secret), signed, hashlib.sha256) for secret in self._secrets]
        return {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(at_s),
            "webhook-signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
        }

    def secret_of(self, owner: str) -> str:
        """The secret of an API key's receivers, as libraries for Standard Webhooks take it."""
        return PREFIX + base64.b64encode(_secret_of(owner, self._secrets[0])).decode()


def signer_of(settings: Settings) -> Signer | None:
    """The signer of the settings; None if callbacks are off. Raises UsageError for a secret that is too short."""
    if settings.callback_secret is None:
        return None
    secrets = {"CALLBACK_SECRET": settings.callback_secret.get_secret_value()}
    if settings.callback_secret_previous is not None:
        secrets["CALLBACK_SECRET_PREVIOUS"] = settings.callback_secret_previous.get_secret_value()
    for name, secret in secrets.items():
        check_secret(name, _bytes_of(secret, name))
    return Signer(list(secrets.values()))


def _secret_of(owner: str | None, secret: bytes) -> bytes:
    if owner is None or owner in OF_THE_OPERATOR:
        return secret
    return hmac.digest(secret, b"callbacks of " + owner.encode(), hashlib.sha256)


def _bytes_of(secret: str, name: str = "CALLBACK_SECRET") -> bytes:
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise UsageError(f"{name}: what follows {PREFIX} is not base64") from None
