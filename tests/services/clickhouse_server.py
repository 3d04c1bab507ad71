"""Run ClickHouse from the `chdb-core` wheel, with its HTTP and its native port."""

import importlib.util
import signal
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

from tests.services import clickhouse_engine
from tests.services.process import HOST, ServerFailed, ServerProcess, Unavailable, free_port

START_SECONDS = 60.0
USERS: Mapping[str, str] = {"default": "", "reader": "s3cret @/:", "nobody": "none"}
READ_ONLY = {"reader"}
FORBIDDEN = {"nobody"}
"""Accounts that may log in and nothing else."""

_CONFIG = """<clickhouse>
  <listen_host>{host}</listen_host>
  <http_port>{http_port}</http_port>
  <tcp_port>{native_port}</tcp_port>
  <display_name>{name}</display_name>
  <keep_alive_timeout>30</keep_alive_timeout>
  <timezone>UTC</timezone>
  <users_config>{users}</users_config>
  <default_profile>default</default_profile>
  <mark_cache_size>67108864</mark_cache_size>
  <logger><level>warning</level><log>{log}</log><errorlog>{log}</errorlog></logger>
</clickhouse>
"""
_USERS = """<clickhouse>
  <profiles><default></default><readonly><readonly>1</readonly></readonly></profiles>
  <users>{users}</users>
  <quotas><default/></quotas>
</clickhouse>
"""
_USER = (
    "<{name}><password>{password}</password><networks><ip>::/0</ip></networks><profile>{profile}</profile>"
    "<quota>default</quota>{grants}</{name}>"
)


class ClickHouseServer:
    """A ClickHouse server of this process, on ports that stay the same over restarts."""

    def __init__(self) -> None:
        if importlib.util.find_spec("chdb") is None:
            raise Unavailable("ClickHouse: the package chdb-core is not installed; `make venv` does that")
        self.http_port, self.native_port = free_port(), free_port()
        self._name = f"connect-test-{uuid.uuid4().hex}"
        self._process = ServerProcess("clickhouse")
        try:
            self._configure(self._process.directory)
            self.start()
        except BaseException:
            self._process.close()
            raise

    @property
    def address(self) -> str:
        """Host, HTTP port and native port, as `CONNECT_TEST_CLICKHOUSE` has them."""
        return f"{HOST}:{self.http_port}:{self.native_port}"

    @property
    def directory(self) -> Path:
        """Where its files are, among them `server.log`."""
        return self._process.directory

    def start(self) -> None:
        """Start the server, the first time or after `stop` or `kill`, and wait until it answers."""
        data = self._process.directory / "data"
        command = [sys.executable, clickhouse_engine.__file__, data]
        self._process.start(command, stop_signal=signal.SIGKILL)
        self._process.wait_until(self._answers, START_SECONDS)

    def stop(self) -> None:
        """Stop in good order."""
        self._process.stop(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        self._process.stop(signal.SIGKILL)

    def close(self) -> None:
        """End the server and remove its data."""
        self._process.close()

    def _configure(self, folder: Path) -> None:
        users = folder / "users.xml"
        users.write_text(
            _USERS.format(
                users="".join(
                    _USER.format(
                        name=name,
                        password=escape(password),
                        profile="readonly" if name in READ_ONLY else "default",
                        grants="<grants><query>GRANT SHOW DATABASES ON *.*</query></grants>"
                        if name in FORBIDDEN
                        else "",
                    )
                    for name, password in USERS.items()
                )
            )
        )
        (folder / "config.xml").write_text(
            _CONFIG.format(
                host=HOST,
                http_port=self.http_port,
                native_port=self.native_port,
                name=self._name,
                users=users,
                log=folder / "clickhouse.log",
            )
        )

    def _answers(self) -> bool:
        """Whether it is our server that answers, and not another one on the same port."""
        try:
            answer = urllib.request.urlopen(f"http://{HOST}:{self.http_port}/?query=SELECT+1", timeout=2)
        except urllib.error.HTTPError as refused:
            raise ServerFailed(f"ClickHouse answers with {refused.code}: {refused.read()[:500]!r}") from refused
        except OSError:
            return False
        with answer:
            return bool(answer.headers.get("X-ClickHouse-Server-Display-Name") == self._name)
