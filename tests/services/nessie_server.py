"""Run Nessie (in memory) with the Iceberg REST catalog, and the S3 that its tables lie in."""

import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.services.downloads import cached, copy_maven_artifact
from tests.services.java import QUICK_START, find_java
from tests.services.process import HOST, ServerProcess, free_port

VERSION = "0.99.0"
OLDEST_JAVA = 21
START_SECONDS = 120.0
HEAP = ("-Xms64m", "-Xmx384m", "-XX:MaxMetaspaceSize=192m")
BUCKET = "warehouse"
ACCESS_KEY, SECRET_KEY = "test-key", "test-secret"

SETTINGS: Mapping[str, str] = {
    "quarkus.http.host": HOST,
    "quarkus.management.host": HOST,
    "quarkus.otel.sdk.disabled": "true",
    "nessie.version.store.type": "IN_MEMORY",
    "nessie.server.default-branch": "main",
    "nessie.catalog.default-warehouse": "warehouse",
    "nessie.catalog.warehouses.warehouse.location": f"s3://{BUCKET}/wh",
    "nessie.catalog.service.s3.default-options.path-style-access": "true",
    "nessie.catalog.service.s3.default-options.region": "us-east-1",
    "nessie.catalog.service.s3.default-options.access-key": "urn:nessie-secret:quarkus:of-tests.s3",
    "of-tests.s3.name": ACCESS_KEY,
    "of-tests.s3.secret": SECRET_KEY,
    # Clients get temporary credentials, as from a real store.
    "nessie.catalog.service.s3.default-options.client-iam.enabled": "true",
    "nessie.catalog.service.s3.default-options.client-iam.assume-role": "arn:aws:iam::123456789012:role/tests",
}


def download() -> Path:
    """The runner's jar, fetched if it is not in the cache."""
    coordinates = f"org.projectnessie.nessie:nessie-quarkus:{VERSION}:jar:runner"
    folder = cached(f"nessie-{VERSION}", lambda folder: copy_maven_artifact(coordinates, folder))
    return next(folder.glob("*.jar"))


class S3Server:
    """moto's S3 and STS, with one bucket. What it holds is lost when it ends."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process = ServerProcess("s3")
        try:
            self._process.start([sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self.port)])
            self._process.wait_until(lambda: answers(f"{self.endpoint}/moto-api/"), START_SECONDS)
            made = urllib.request.Request(f"{self.endpoint}/{BUCKET}", method="PUT")
            urllib.request.urlopen(made, timeout=30).close()
        except BaseException:
            self._process.close()
            raise

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"

    def close(self) -> None:
        """End it."""
        self._process.close()


class NessieServer:
    """Nessie and its S3, of this process, on ports that stay the same over restarts."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self._java, jar = find_java(OLDEST_JAVA), download()
        self.port = free_port()
        self.s3 = S3Server()
        try:
            self._process = ServerProcess("nessie")
        except BaseException:
            self.s3.close()
            raise
        try:
            properties = {
                **SETTINGS,
                "quarkus.http.port": str(self.port),
                "quarkus.management.port": str(free_port()),
                "nessie.catalog.service.s3.default-options.endpoint": f"{self.s3.endpoint}/",
                "nessie.catalog.service.s3.default-options.sts-endpoint": f"{self.s3.endpoint}/",
                **(settings or {}),
            }
            file = self._process.directory / "application.properties"
            file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
            location = f"-Dquarkus.config.locations={file}"
            self._command = [self._java.program, *QUICK_START, *HEAP, location, "-jar", jar]
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Its address, as flows name it."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Start it, the first time or after `kill`, and wait until it answers. It remembers nothing."""
        self._process.start(self._command)
        self._process.wait_until(lambda: answers(f"{self.url}/iceberg/v1/config"), START_SECONDS)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.stop(signal.SIGKILL)

    def close(self) -> None:
        """End it and its S3."""
        self._process.close()
        self.s3.close()


def answers(url: str) -> bool:
    """Whether anything answers there, be it with a refusal."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except OSError:
        return False
    return True
