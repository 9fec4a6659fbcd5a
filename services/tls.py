"""Certificates: who a process is to the others, and whom it takes for one of them.

Files are PEM. A certificate renewed on disk is shown from the next connection on; a channel keeps the one it was made
with until its process starts again. Knows no service and no setting.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from services.errors import SecretsInvalid
from services.logs import get_logger

__all__ = ["Certificates"]

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files of one identity, checked by `load`."""

    certificate: Path
    key: Path
    ca: Path | None = None
    """Who must have signed the other side's certificate; None asks the other side for none."""
    peer_name: str = ""
    """DNS name the other side's certificate carries; empty means the host it is reached at."""

    @classmethod
    def load(cls, certificate: Path, key: Path, ca: Path | None = None, peer_name: str = "") -> Certificates:
        """Check the files. Raises SecretsInvalid, which names the one at fault."""
        loaded = cls(certificate, key, ca, peer_name)
        loaded.check()
        return loaded

    def check(self) -> None:
        """Raise SecretsInvalid unless all files can be read and belong together."""
        for path in (self.certificate, self.key, *([self.ca] if self.ca else [])):
            _read(path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key, password="")  # a key that wants one is refused
        except (ssl.SSLError, ValueError) as fault:
            raise SecretsInvalid(
                f"{self.certificate} and {self.key} are not a certificate and its key in PEM, without a password"
            ) from fault
        if self.ca is None:
            return
        try:
            context.load_verify_locations(self.ca)
        except ssl.SSLError as fault:
            raise SecretsInvalid(f"{self.ca} holds no certificate in PEM") from fault

    def for_server(self) -> grpc.ServerCredentials:
        """Return what a gRPC port listens with; with a `ca` it takes only clients whose certificate that one signed."""
        files = _Watched(self)
        return grpc.dynamic_ssl_server_credentials(
            files.configuration,
            files.newest,  # type: ignore[arg-type]  # None says that nothing has changed
            require_client_authentication=self.ca is not None,
        )

    def for_channel(self) -> grpc.ChannelCredentials:
        """Return what a channel to another service is opened with."""
        assert self.ca is not None, "a channel must know whom to trust"
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))

    def channel_options(self) -> list[tuple[str, str]]:
        """Return the channel arguments that go with `for_channel`."""
        return [("grpc.ssl_target_name_override", self.peer_name)] if self.peer_name else []


class _Watched:
    """Reads the files again when they have changed; asked by gRPC at each handshake, from a thread of its own."""

    def __init__(self, files: Certificates) -> None:
        self._files = files
        self._stamp = self._stamped()
        self.configuration = self._configured()

    def newest(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the configuration of changed files, None when what is there still holds or cannot be used."""
        try:
            stamp = self._stamped()
            if stamp == self._stamp:
                return None
            self._files.check()
            configuration = self._configured()
        except (OSError, SecretsInvalid) as fault:
            log.warning("certificate_not_renewed", detail=str(fault))
            return None
        self._stamp = stamp
        log.info("certificate_renewed", certificate=str(self._files.certificate))
        return configuration

    def _configured(self) -> grpc.ServerCertificateConfiguration:
        files = self._files
        ca = _read(files.ca) if files.ca else None
        return grpc.ssl_server_certificate_configuration([(_read(files.key), _read(files.certificate))], ca)

    def _stamped(self) -> tuple[tuple[int, int], ...]:
        paths = [path for path in (self._files.certificate, self._files.key, self._files.ca) if path]
        return tuple((found.st_mtime_ns, found.st_ino) for found in map(os.stat, paths))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise SecretsInvalid(f"{path} cannot be read: {fault.strerror}") from fault
