"""Run Trino, coordinator and worker in one, from the server's archive in the Maven registry."""

import base64
import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.services.downloads import cache_folder, cached, copy_maven_artifact
from tests.services.java import QUICK_START, find_java, unfinished
from tests.services.process import HOST, ServerProcess, free_port

VERSION = "476"  # the last one whose archive is in the registry
JAVA = 24
START_SECONDS = 180.0
PLUGINS = ("memory", "tpch", "iceberg", "password-authenticators", "spooling-filesystem")
"""The more there are, the longer the start takes."""
USER, PASSWORD = "alice", "alice-secret"

FLAGS = (
    "-Xms256m",
    "-Xmx1200m",
    "-XX:ReservedCodeCacheSize=160m",
    "-XX:-OmitStackTraceInFastThrow",
    "-Djdk.attach.allowAttachSelf=true",
    "-Dfile.encoding=UTF-8",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)
SETTINGS: Mapping[str, str] = {
    "coordinator": "true",
    "node-scheduler.include-coordinator": "true",
    "internal-communication.shared-secret": "internal-secret",
    "catalog.management": "dynamic",
    "query.max-memory-per-node": "256MB",
    "memory.heap-headroom-per-node": "256MB",
    # It keeps what it knows of statements that have ended, which are large here, and its heap is small.
    "query.max-history": "10",
    "query.min-expire-age": "5s",
    "task.info.max-age": "10s",
    # By HTTP nobody has to say who they are; by HTTPS they must.
    "http-server.authentication.allow-insecure-over-http": "true",
}
CATALOGS: Mapping[str, Mapping[str, str]] = {
    "memory": {"connector.name": "memory", "memory.max-data-per-node": "128MB"},
    "tpch": {"connector.name": "tpch", "tpch.splits-per-node": "2"},
    # Tables are real; only which ones there are is kept in files, for want of a catalog server.
    "iceberg": {
        "connector.name": "iceberg",
        "iceberg.catalog.type": "TESTING_FILE_METASTORE",
        "hive.metastore.catalog.dir": "local:///warehouse",
        "fs.native-local.enabled": "true",
        "local.location": "{data}",
    },
}


def download() -> Path:
    """The folder of the server with the plugins that we use, fetched if it is not in the cache."""
    return cached(f"trino-{VERSION}", _unpack)


def _unpack(folder: Path) -> None:
    archive = copy_maven_artifact(f"io.trino:trino-server:{VERSION}:tar.gz", folder)
    # All of it, and then the rest away: what several plugins need is hard links between them.
    subprocess.run(["tar", "-xzf", archive, "-C", folder, "--strip-components=1"], check=True)
    archive.unlink()
    for plugin in (folder / "plugin").iterdir():
        if plugin.name not in PLUGINS:
            shutil.rmtree(plugin)


class TrinoServer:
    """A Trino of this process, on ports that stay the same over restarts.

    `key_and_certificate` (a PEM file with both) makes it listen by HTTPS too, where it takes the password of `USER`,
    and tokens that are signed with the keys at `jwks_url`. `spooling` are settings of an object store through which it
    hands out large results.
    """

    def __init__(
        self,
        key_and_certificate: Path | None = None,
        jwks_url: str | None = None,
        spooling: Mapping[str, str] | None = None,
    ) -> None:
        self._java = find_java(JAVA)
        self._installation = download()
        # The archive is bound to the Java machine that wrote it and to the place of the jars.
        self._archive = cache_folder() / f"trino-{VERSION}-java-{self._java.version}.jsa"
        self.port, self.https_port = free_port(), free_port()
        self._process = ServerProcess("trino")
        try:
            self._etc = self._process.directory / "etc"
            (self._etc / "catalog").mkdir(parents=True)
            self._data.mkdir()
            self._write_settings(key_and_certificate, jwks_url, spooling)
            self.start()
        except BaseException:
            self._process.close()
            raise

    @property
    def url(self) -> str:
        """Where clients reach it by HTTP, without a password."""
        return f"http://{HOST}:{self.port}"

    @property
    def https_url(self) -> str:
        """Where clients reach it by HTTPS, if it has a certificate."""
        return f"https://localhost:{self.https_port}"

    @property
    def directory(self) -> Path:
        """Where its files are, among them `server.log`."""
        return self._process.directory

    @property
    def _data(self) -> Path:
        return self._process.directory / "data"

    def start(self) -> None:
        """Start it, the first time or after `stop` or `kill`, and wait until it takes statements."""
        command = [self._java.program, *QUICK_START, *FLAGS, *self._java.archive_flags(self._archive)]
        command += [
            "-cp",
            f"{self._installation}/lib/*",
            "-Dnode.environment=test",
            "-Dnode.id=test-1",
            f"-Dnode.data-dir={self._process.directory}",
            f"-Dlog.levels-file={self._etc / 'log.properties'}",
            f"-Dconfig={self._etc / 'config.properties'}",
            "io.trino.server.TrinoServer",
        ]
        self._process.start([str(part) for part in command])
        self._process.wait_until(lambda: self._process.has_logged("SERVER STARTED"), START_SECONDS)

    def stop(self) -> None:
        """Stop in good order."""
        self._process.stop(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it with SIGKILL; tables of the catalog `iceberg` stay for `start`."""
        self._process.stop(signal.SIGKILL)

    def close(self) -> None:
        """End it and remove its files."""
        if not self._archive.exists() and self._process.exit_code() is None:
            self.stop()
            written = unfinished(self._archive)
            if written.exists():
                written.rename(self._archive)
        self._process.close()

    def _write_settings(
        self, certificate: Path | None, jwks_url: str | None, spooling: Mapping[str, str] | None
    ) -> None:
        properties = {
            **SETTINGS,
            "discovery.uri": self.url,
            "http-server.http.port": str(self.port),
            "plugin.dir": str(self._installation / "plugin"),
        }
        if certificate is not None:
            properties |= {
                "http-server.https.enabled": "true",
                "http-server.https.port": str(self.https_port),
                "http-server.https.keystore.path": str(certificate),
                "http-server.authentication.type": "PASSWORD" if jwks_url is None else "JWT,PASSWORD",
                "password-authenticator.config-files": str(self._etc / "password-authenticator.properties"),
            }
            self._write("password-authenticator.properties", self._password_file())
        if jwks_url is not None:
            properties["http-server.authentication.jwt.key-file"] = jwks_url
            properties["http-server.authentication.jwt.principal-field"] = "preferred_username"
        if spooling is not None:
            properties["protocol.spooling.enabled"] = "true"
            properties["protocol.spooling.shared-secret-key"] = base64.b64encode(os.urandom(32)).decode()
            self._write("spooling-manager.properties", {"spooling-manager.name": "filesystem", **spooling})
        self._write("config.properties", properties)
        self._write("log.properties", {"io.trino": "INFO"})
        for name, catalog in CATALOGS.items():
            filled = {key: value.format(data=self._data) for key, value in catalog.items()}
            self._write(f"catalog/{name}.properties", filled)

    def _password_file(self) -> dict[str, str]:
        salt = os.urandom(16)
        digest = hashlib.pbkdf2_hmac("sha1", PASSWORD.encode(), salt, 1000, 20)
        file = self._etc / "password.db"
        file.write_text(f"{USER}:1000:{salt.hex()}:{digest.hex()}\n")
        return {"password-authenticator.name": "file", "file.password-file": str(file)}

    def _write(self, name: str, properties: Mapping[str, str]) -> None:
        (self._etc / name).write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
