"""Run Kafka as a single KRaft node from the jars of the Maven registry."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.services.downloads import cache_folder, cached, copy_maven_dependencies
from tests.services.java import QUICK_START, find_java, unfinished
from tests.services.process import HOST, ServerProcess, free_port

VERSION = "4.4.0"
START_SECONDS = 120.0
CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"
HEAP = ("-Xms64m", "-Xmx384m", "-XX:MaxMetaspaceSize=160m")

# kafka-tools-api is declared by Kafka but not published, and not needed to run a broker. The log4j binding is what
# makes the broker write a log at all.
POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>connect.test</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
      <exclusions>
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>kafka-tools-api</artifactId></exclusion>
      </exclusions>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.5</version>
    </dependency>
  </dependencies>
</project>
"""

LOGGING = """\
status=error
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c{1} %m%n
rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
"""

SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    # A killed broker may come back only when the controller has missed its heartbeats for so long.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "2",
    "log.cleaner.dedupe.buffer.size": "8388608",
}


@dataclass(frozen=True)
class Listener:
    """A port on which the broker listens, and how clients talk to it there."""

    name: str
    protocol: str = "PLAINTEXT"
    port: int = field(default_factory=free_port)
    advertised_port: int | None = None
    """The port that clients are told to use, if a proxy stands in between."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of this listener alone, named without their prefix `listener.name.<name>.`"""


def server_properties(listeners: Sequence[Listener], data: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """The broker's configuration; the first listener is the one the broker uses itself."""
    controller = Listener("CONTROLLER")
    properties = {
        **SETTINGS,
        "log.dirs": str(data),
        "controller.quorum.voters": f"1@{HOST}:{controller.port}",
        "inter.broker.listener.name": listeners[0].name,
        "listeners": ",".join(f"{x.name}://{HOST}:{x.port}" for x in (*listeners, controller)),
        "advertised.listeners": ",".join(f"{x.name}://{HOST}:{x.advertised_port or x.port}" for x in listeners),
        "listener.security.protocol.map": ",".join(f"{x.name}:{x.protocol}" for x in (*listeners, controller)),
    }
    for listener in listeners:
        for name, value in listener.settings.items():
            properties[f"listener.name.{listener.name.lower()}.{name}"] = value
    return {**properties, **settings}


def download() -> Path:
    """The folder with Kafka's jars, fetched if it is not in the cache."""
    return cached(f"kafka-{VERSION}", lambda folder: copy_maven_dependencies(POM, folder))


class KafkaServer:
    """A Kafka broker of this process, on ports that stay the same over restarts."""

    def __init__(
        self,
        listeners: Sequence[Listener] = (),
        settings: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        """`flags`: more arguments for Java."""
        self._flags = (*HEAP, *flags)
        self.listeners = tuple(listeners) or (Listener("PLAINTEXT"),)
        self._java = find_java()
        self._libraries = download()
        # The archive is bound to the Java machine that wrote it and to the place of the jars.
        self._archive = cache_folder() / f"kafka-{VERSION}-java-{self._java.version}.jsa"
        self._process = ServerProcess("kafka")
        try:
            data = self._process.directory / "data"
            self._properties = self._write("server.properties", server_properties(self.listeners, data, settings or {}))
            self._logging = self._process.directory / "log4j2.properties"
            self._logging.write_text(LOGGING)
            self._format()
            self.start()
        except BaseException:
            self._process.close()
            raise

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect: the first listener."""
        return f"{HOST}:{self.listeners[0].port}"

    @property
    def directory(self) -> Path:
        """Where its files are, among them `server.log`."""
        return self._process.directory

    def start(self) -> None:
        """Start the broker, the first time or after `stop` or `kill`, and wait until it takes requests."""
        flags = self._java.archive_flags(self._archive)
        self._process.start([*self._java_command(*self._flags, *flags), "kafka.Kafka", self._properties])
        self._process.wait_until(lambda: self._process.has_logged("Kafka Server started"), START_SECONDS)

    def stop(self) -> None:
        """Stop in good order, which takes some seconds."""
        self._process.stop(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the broker with SIGKILL; its data stays for `start`."""
        self._process.stop(signal.SIGKILL)

    def close(self) -> None:
        """End the broker and remove its data."""
        if not self._archive.exists() and self._process.exit_code() is None:
            self.stop()
            written = unfinished(self._archive)
            if written.exists():
                written.rename(self._archive)
        self._process.close()

    def _format(self) -> None:
        """Make the data folder that a broker wants to find."""
        tool = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._properties)]
        self._process.run([*self._java_command("-Xshare:auto"), *tool])

    def _java_command(self, *flags: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self._logging}"
        return [str(self._java.program), *QUICK_START, *flags, logging, "-cp", f"{self._libraries}/*"]

    def _write(self, name: str, properties: Mapping[str, str]) -> Path:
        path = self._process.directory / name
        path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        return path
