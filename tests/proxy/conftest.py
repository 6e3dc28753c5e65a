"""nginx with docs/nginx.conf, on ports of its own, with a certificate made for the test."""

import os
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.server import ROOT, free_port
from tests.waiting import wait_until

NAME = "chat.example.org"
# Around what the file says: everything that nginx would else look for outside of the test's directory.
MAIN = """
{user}
daemon off;
pid nginx.pid;
error_log main.log;
events {{}}
http {{
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
    {site}
}}
"""


class Nginx:
    """`port` by TLS, `plain_port` without; `context` trusts its certificate."""

    def __init__(self, directory: Path, upstream: str) -> None:
        self.directory = directory
        self.port, self.plain_port = free_port(), free_port()
        self.host = f"{NAME}:{self.port}"
        self.url = f"https://{self.host}"
        self.process: subprocess.Popen | None = None
        self.context = ssl.create_default_context(cadata=certify(directory))
        site = (ROOT / "docs" / "nginx.conf").read_text()
        for there, here in {
            "server 127.0.0.1:8000 ": f"server {upstream} ",
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "/etc/ssl/": f"{directory}/",
            "/var/log/nginx/": f"{directory}/",
        }.items():
            assert there in site
            site = site.replace(there, here)
        user = "user root;" if os.getuid() == 0 else ""
        (directory / "nginx.conf").write_text(MAIN.format(user=user, site=site))

    def start(self) -> "Nginx":
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")
        assert program, "nginx is not here; install it (`make test` does where it may)"
        command = [program, "-p", str(self.directory), "-c", "nginx.conf", "-e", "main.log"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(lambda: self.process.poll() is not None or (self.directory / "nginx.pid").exists(), what="nginx")
        assert self.process.poll() is None, self.logs
        return self

    @property
    def logs(self) -> str:
        return "".join(path.read_text() for path in sorted(self.directory.glob("*.log")))

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)


def certify(directory: Path) -> str:
    """Writes key and certificate for NAME; returns the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (directory / f"{NAME}.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain),
    )
    (directory / f"{NAME}.pem").write_bytes(certificate.public_bytes(pem))
    return certificate.public_bytes(pem).decode()


@pytest.fixture(scope="module")
def make_nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Nginx]]:
    """`make_nginx("127.0.0.1:8000")`: in front of what listens there."""
    made: list[Nginx] = []

    def make(upstream: str) -> Nginx:
        made.append(Nginx(tmp_path_factory.mktemp("nginx"), upstream))
        return made[-1].start()

    yield make
    for nginx in made:
        nginx.stop()
