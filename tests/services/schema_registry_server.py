"""Run Apicurio Registry, which answers Confluent's API, from the archive that the Maven registry has of it."""

import signal
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.services.downloads import cache_folder, cached, copy_maven_artifact
from tests.services.java import QUICK_START, find_java, unfinished
from tests.services.process import HOST, ServerProcess, free_port
from tests.services.tls import Certificate

VERSION = "3.3.3"
ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
START_SECONDS = 120.0
HEAP = ("-Xms64m", "-Xmx320m", "-XX:MaxMetaspaceSize=256m")
API = "/apis/ccompat/v7"


@dataclass(frozen=True)
class Authentication:
    """Where the registry has user names and passwords looked up: an OpenID Connect provider, whose clients they are."""

    issuer: str
    token_url: str
    client_id: str
    client_secret: str


def download() -> Path:
    """The folder of the unpacked archive, fetched when it is not in the cache yet."""

    def fill(folder: Path) -> None:
        archive = copy_maven_artifact(ARTIFACT, folder)
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        archive.unlink()

    return cached(f"apicurio-{VERSION}", fill)


class SchemaRegistryServer:
    """A registry that keeps its schemas in memory: gone with `stop` and `kill`."""

    def __init__(self, certificate: Certificate | None = None, authentication: Authentication | None = None) -> None:
        self._java = find_java(21)
        self._program = download() / "quarkus-run.jar"
        self.port, self.tls_port = free_port(), free_port()
        # The archive is bound to the Java machine that wrote it and to the place of the jars.
        self._archive = cache_folder() / f"apicurio-{VERSION}-java-{self._java.version}.jsa"
        self._certificate, self._authentication = certificate, authentication
        self._process = ServerProcess("schema-registry")
        try:
            folder = self._process.directory / "config"
            folder.mkdir()
            lines = (f"{key}={value}\n" for key, value in self._properties().items())
            (folder / "application.properties").write_text("".join(lines))
            self.start()
        except BaseException:
            self._process.close()
            raise

    @property
    def url(self) -> str:
        """Where Confluent's API answers."""
        return f"http://{HOST}:{self.port}{API}"

    @property
    def tls_url(self) -> str:
        """The same with TLS, where there is a certificate."""
        return f"https://{HOST}:{self.tls_port}{API}"

    def start(self) -> None:
        """Start it, the first time or after `stop` or `kill`, and wait until it answers."""
        where = f"-Dquarkus.config.locations={self._process.directory / 'config' / 'application.properties'}"
        flags = (*QUICK_START, *HEAP, *self._java.archive_flags(self._archive), where)
        self._process.start([str(self._java.program), *flags, "-jar", str(self._program)])
        self._process.wait_until(self._answers, START_SECONDS)

    def stop(self) -> None:
        """Stop in good order."""
        self._process.stop(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.stop(signal.SIGKILL)

    def close(self) -> None:
        """End it and remove its files."""
        if not self._archive.exists() and self._process.exit_code() is None:
            self.stop()
            written = unfinished(self._archive)
            if written.exists():
                written.rename(self._archive)
        self._process.close()

    def _properties(self) -> dict[str, str]:
        found = {
            "quarkus.http.host": HOST,
            "quarkus.http.port": str(self.port),
            "quarkus.http.ssl-port": str(self.tls_port),
            "quarkus.http.insecure-requests": "enabled",
            "quarkus.management.host": HOST,
            "quarkus.management.port": str(free_port()),
            "apicurio.storage.kind": "sql",
            "apicurio.storage.sql.kind": "h2",
            "apicurio.storage.sql.h2.url": f"jdbc:h2:mem:registry_{self.port}",
        }
        if self._certificate is not None:
            found["quarkus.http.ssl.certificate.files"] = str(self._certificate.cert_file)
            found["quarkus.http.ssl.certificate.key-files"] = str(self._certificate.key_file)
        if (provider := self._authentication) is not None:
            found |= {
                "quarkus.oidc.tenant-enabled": "true",
                "quarkus.oidc.auth-server-url": provider.issuer,
                "quarkus.oidc.token-path": provider.token_url,
                "quarkus.oidc.client-id": provider.client_id,
                "quarkus.oidc.credentials.secret": provider.client_secret,
                "apicurio.authn.basic-client-credentials.enabled": "true",
            }
        return found

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=5) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            return error.code == 401
        except OSError:
            return False
