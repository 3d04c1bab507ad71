"""Run Keycloak from the distribution in the Maven registry, with the realm of `keycloak_realm.json`."""

import hashlib
import shutil
import signal
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from tests.services.downloads import cached, copy_maven_artifact
from tests.services.java import QUICK_START, Java, find_java
from tests.services.process import HOST, ServerProcess, free_port

VERSION = "26.7.3"
JAVA = 21
START_SECONDS = 240.0
REALM_FILE = Path(__file__).with_name("keycloak_realm.json")
DATABASE = "keycloakdb.mv.db"
FLAGS = (
    "-Xms64m",
    "-Xmx384m",
    "-XX:MaxMetaspaceSize=256m",
    "-Dfile.encoding=UTF-8",
    "-Duser.language=en",
    "-Djava.util.concurrent.ForkJoinPool.common.threadFactory="
    "io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
    "--add-opens=java.base/java.security=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--enable-native-access=ALL-UNNAMED",
)
BUILD = ("build", "--db=dev-file", "--health-enabled=true", "--cache=local")


def download() -> Path:
    """The folder of the distribution, fetched and built for our settings if it is not in the cache."""
    return cached(f"keycloak-{VERSION}", _unpack_and_build)


def _unpack_and_build(folder: Path) -> None:
    archive = copy_maven_artifact(f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip", folder)
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    archive.unlink()
    home = folder / f"keycloak-{VERSION}"
    process = ServerProcess("keycloak-build")
    try:
        process.run(_command(find_java(JAVA), home, home, *BUILD), timeout=START_SECONDS)
    finally:
        process.close()


def _realm() -> Path:
    """The folder with a database that holds the realm: making it takes longer than any later start."""
    version = hashlib.sha256(REALM_FILE.read_bytes()).hexdigest()[:12]
    return cached(f"keycloak-{VERSION}-realm-{version}", _import_realm)


def _import_realm(folder: Path) -> None:
    server = KeycloakServer(prepared=False)
    try:
        server.stop()
        shutil.copy2(server.home / "data" / "h2" / DATABASE, folder)
    finally:
        server.close()


def _command(java: Java, installation: Path, home: Path, *arguments: str) -> list[str]:
    """kc.sh without the shell, whose place in between would keep signals from Java."""
    flags = [*QUICK_START, *FLAGS, f"-Dkc.home.dir={home}", f"-Djboss.server.config.dir={home / 'conf'}"]
    libraries = str(installation / "lib" / "quarkus-run.jar")
    return [str(java.program), *flags, "-cp", libraries, "io.quarkus.bootstrap.runner.QuarkusEntryPoint", *arguments]


class KeycloakServer:
    """A Keycloak of this process, on ports that stay the same over restarts.

    `certificate` (files of a PEM certificate chain and its key) makes it listen by HTTPS too. Without `prepared` it
    makes its database from the realm file at its first start, instead of taking a copy of one that was made so before.
    """

    def __init__(self, certificate: tuple[Path, Path] | None = None, *, prepared: bool = True) -> None:
        self._java = find_java(JAVA)
        self._installation = download() / f"keycloak-{VERSION}"
        database = _realm() / DATABASE if prepared else None
        self.port, self.https_port, self._health_port = free_port(), free_port(), free_port()
        self._certificate = certificate
        self._process = ServerProcess("keycloak")
        try:
            self.home = self._process.directory / "home"
            (self.home / "data" / "h2").mkdir(parents=True)
            (self.home / "data" / "import").mkdir()
            for part in ("conf", "lib", "providers", "themes"):
                (self.home / part).symlink_to(self._installation / part)
            if database is not None:
                shutil.copy2(database, self.home / "data" / "h2")
            else:
                shutil.copy2(REALM_FILE, self.home / "data" / "import")
            self.start()
        except BaseException:
            self._process.close()
            raise

    @property
    def url(self) -> str:
        """Where clients reach it by HTTP."""
        return f"http://{HOST}:{self.port}"

    @property
    def https_url(self) -> str:
        """Where clients reach it by HTTPS, if it has a certificate."""
        return f"https://localhost:{self.https_port}"

    @property
    def directory(self) -> Path:
        """Where its files are, among them `server.log`."""
        return self._process.directory

    def start(self) -> None:
        """Start it, the first time or after `stop` or `kill`, and wait until it hands out tokens."""
        arguments = [
            "start",
            "--optimized",
            "--http-enabled=true",
            f"--http-host={HOST}",
            f"--http-port={self.port}",
            f"--http-management-port={self._health_port}",
            "--http-management-scheme=http",
            "--hostname-strict=false",
            *([] if (self.home / "data" / "h2" / DATABASE).exists() else ["--import-realm"]),
        ]
        if self._certificate is not None:
            chain, key = self._certificate
            arguments += [
                f"--https-port={self.https_port}",
                f"--https-certificate-file={chain}",
                f"--https-certificate-key-file={key}",
            ]
        self._process.start(_command(self._java, self._installation, self.home, *arguments))
        self._process.wait_until(self._is_ready, START_SECONDS)

    def stop(self) -> None:
        """Stop in good order."""
        self._process.stop(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.stop(signal.SIGKILL)

    def close(self) -> None:
        """End it and remove its files."""
        self._process.close()

    def _is_ready(self) -> bool:
        # What it logs as its start is too early: it answers 503 for some seconds more.
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self._health_port}/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
