"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler: processes that can be killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import json
import secrets
import signal
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tools.cluster.api import Api
from tools.cluster.network import API_SERVICE, GATEWAY, SERVICE_RANGE

API_PORT, ETCD_PORT = 6443, 2379
SERVER = f"https://{GATEWAY}:{API_PORT}"
START_S = 180.0
_TERM_S = 10.0


@dataclass
class ControlPlane:
    """The four servers."""

    binaries: Path
    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    _processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    @property
    def authority(self) -> Path:
        """Certificate of the authority that signed the API server's."""
        return self.folder / "ca.crt"

    @property
    def kubeconfig(self) -> Path:
        """Credentials of an administrator."""
        return self.folder / "admin.kubeconfig"

    async def start(self) -> None:
        """Start everything and wait until the API server is ready. Raises TimeoutError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_certificates(self.folder)
        (self.folder / "tokens.csv").write_text(f'{self.token},admin,admin,"system:masters"\n')
        self.kubeconfig.write_text(_kubeconfig(self.authority, self.token))
        await self.start_one("etcd")
        await self.start_one("kube-apiserver")
        async with Api.connect(SERVER, self.authority, self.token) as api:
            await api.wait_ready(START_S)
        # These give up when there is no API server to speak to.
        await self.start_one("kube-controller-manager")
        await self.start_one("kube-scheduler")

    async def start_one(self, name: str) -> None:
        """Start one server."""
        log = (self.folder / f"{name}.log").open("ab")
        with contextlib.closing(log):
            self._processes[name] = await asyncio.create_subprocess_exec(
                *self._commands()[name], stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL
            )

    async def kill(self, name: str) -> None:
        """Kill one server without warning."""
        process = self._processes.pop(name)
        process.kill()
        await process.wait()

    async def stop(self) -> None:
        """Stop everything, the last started first."""
        for process in reversed(self._processes.values()):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
                try:
                    async with asyncio.timeout(_TERM_S):
                        await process.wait()
                except TimeoutError:
                    process.kill()
                    await process.wait()
        self._processes.clear()

    def _commands(self) -> dict[str, list[str]]:
        at, made = self.folder, str(self.binaries)
        etcd = f"http://127.0.0.1:{ETCD_PORT}"
        account_key = f"{at}/service-account.key"
        told = [f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1"]
        return {
            "etcd": [
                *(f"{made}/etcd", f"--data-dir={at}/etcd", f"--listen-client-urls={etcd}"),
                *(f"--advertise-client-urls={etcd}", "--listen-peer-urls=http://127.0.0.1:2380"),
                # The cluster ends with this run: what it holds need not survive the machine.
                *("--unsafe-no-fsync", "--log-level=warn"),
            ],
            "kube-apiserver": [
                *(f"{made}/kube-apiserver", f"--etcd-servers={etcd}", f"--bind-address={GATEWAY}"),
                *(f"--advertise-address={GATEWAY}", f"--secure-port={API_PORT}", "--insecure-port=0"),
                *(f"--tls-cert-file={at}/server.crt", f"--tls-private-key-file={at}/server.key"),
                *(f"--token-auth-file={at}/tokens.csv", "--authorization-mode=RBAC", "--anonymous-auth=true"),
                *("--service-account-issuer=https://cuelight.simulation", f"--service-account-key-file={account_key}"),
                *(f"--service-account-signing-key-file={account_key}", f"--service-cluster-ip-range={SERVICE_RANGE}"),
                *("--endpoint-reconciler-type=none", "--profiling=false"),
            ],
            "kube-controller-manager": [
                *(f"{made}/kube-controller-manager", *told, f"--root-ca-file={self.authority}", "--port=0"),
                *(f"--service-account-private-key-file={account_key}", "--node-monitor-grace-period=20s"),
                *(
                    "--horizontal-pod-autoscaler-sync-period=2s",
                    "--horizontal-pod-autoscaler-downscale-stabilization=2s",
                ),
            ],
            "kube-scheduler": [f"{made}/kube-scheduler", *told, "--port=0"],
        }


def _kubeconfig(authority: Path, token: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "sim", "cluster": {"server": SERVER, "certificate-authority": str(authority)}}],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": "sim", "context": {"cluster": "sim", "user": "admin"}}],
            "current-context": "sim",
        }
    )


def _write_certificates(folder: Path) -> None:
    """An authority, the API server's certificate by it, and the key that signs service accounts."""
    now = datetime.datetime.now(datetime.UTC)
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cuelight simulation")])
    hosts = [ipaddress.ip_address(host) for host in (GATEWAY, API_SERVICE, "127.0.0.1")]
    names = [x509.DNSName(name) for name in ("kubernetes", "kubernetes.default", "kubernetes.default.svc")]

    def signed(subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> x509.Certificate:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
        made = made.not_valid_after(now + datetime.timedelta(days=2))
        made = made.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        if not is_authority:
            made = made.add_extension(
                x509.SubjectAlternativeName([*map(x509.IPAddress, hosts), *names]), critical=False
            )
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        made = made.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        if is_authority:
            made = made.add_extension(_authority_usage(), critical=True)
        return made.sign(authority_key, hashes.SHA256())

    server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    (folder / "ca.crt").write_bytes(_pem(signed(issuer, authority_key, is_authority=True)))
    (folder / "server.crt").write_bytes(_pem(signed(server_name, server_key, is_authority=False)))
    (folder / "server.key").write_bytes(_key_pem(server_key))
    account_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "service-account.key").write_bytes(_key_pem(account_key))


def _authority_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
