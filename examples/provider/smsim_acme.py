"""A provider for Acme, a made-up SMS service: PROVIDER=acme."""

import aiohttp
from pydantic import HttpUrl, SecretStr

from common.messages import Outcome
from common.settings import EnvironmentSettings, Settings, read_settings
from sender.providers.port import OutgoingMessage, PermanentError, Result, TemporaryError
from sender.providers.responses import result_of


class AcmeSettings(EnvironmentSettings, env_prefix="ACME_"):
    """ACME_URL and ACME_TOKEN, from the environment or `.env`."""

    url: HttpUrl
    token: SecretStr


class AcmeProvider:
    """Posts each message to Acme, which answers 200 with a status of its own."""

    def __init__(self, acme: AcmeSettings, timeout_s: float) -> None:
        self._url = str(acme.url)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the sender's slots are the limit
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            headers={"Authorization": f"Bearer {acme.token.get_secret_value()}"},
        )

    async def send(self, message: OutgoingMessage) -> Result:
        sms = {"reference": message.id, "recipient": message.to, "body": message.text}
        try:
            async with self._session.post(self._url, json=sms) as response:
                if response.status != 200:
                    return result_of(response.status, response.headers)
                answer = await response.json()
        except aiohttp.ClientConnectorError as error:
            raise TemporaryError("no connection") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TemporaryError("no response", ambiguous=True) from error
        if answer["status"] == "rejected":
            raise PermanentError(answer["cause"])
        return Result(Outcome.SENT)

    async def close(self) -> None:
        await self._session.close()


def create(settings: Settings) -> AcmeProvider:
    """Builds the provider, in the running event loop."""
    return AcmeProvider(read_settings(AcmeSettings), settings.provider_timeout)
