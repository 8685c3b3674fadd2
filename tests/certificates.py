"""Certificates for tests, made by openssl."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from common.tls import ServerFiles

# A certificate that expired in 2021, and its key: not every openssl can make one.
EXPIRED = Path(__file__).with_name("expired.pem")


@dataclass(frozen=True)
class Certificate:
    """A certificate for localhost that is its own authority.

    Attributes:
        certificate: Its file.
        key: The file of its key.
    """

    certificate: Path
    key: Path

    @property
    def files(self) -> ServerFiles:
        """As a gateway has them."""
        return ServerFiles(self.certificate, self.key, "GATEWAY_TLS_CERT", "GATEWAY_TLS_KEY")


def make_certificate(folder: Path, name: str = "server") -> Certificate:
    """Makes one that lasts a day."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost"
    )
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    files = ["-addext", names, "-keyout", str(made.key), "-out", str(made.certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return made
