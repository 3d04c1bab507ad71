"""Run Airflow itself: scheduler, API server, DAG processor, triggerer and local workers on a database of their own."""

import json
import os
import secrets
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.services.process import HOST, ServerFailed, ServerProcess, free_port

USER = "admin"
START_SECONDS = 240.0
COMPONENTS = ("metadatabase", "scheduler", "dag_processor", "triggerer")
FINAL_STATES = ("success", "failed")


def airflow_environment(home: Path, dags: Path) -> dict[str, str]:
    """Settings with which `airflow` commands use this folder and nothing of the user's own installation."""
    return {
        # `airflow standalone` starts its components by name.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


class AirflowServer:
    """`airflow standalone` with a generated password, on free ports of 127.0.0.1, with SQLite."""

    def __init__(self, home: Path, dags: Path, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.password = secrets.token_urlsafe(12)
        self._token = ""
        home.mkdir(parents=True, exist_ok=True)
        passwords = home / "simple_auth_manager_passwords.json.generated"
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps({USER: self.password}))
        settings = {
            **airflow_environment(home, dags),
            "AIRFLOW__API__HOST": HOST,
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        }
        self._process = ServerProcess("airflow", environment={**settings, **environment})
        try:
            self._process.start([sys.executable, "-m", "airflow", "standalone"], stop_signal=signal.SIGTERM)
            self._process.wait_until(self.healthy, START_SECONDS)
        except BaseException:
            self.close()
            raise

    @property
    def log(self) -> Path:
        """What all components print."""
        return self._process.log

    def healthy(self) -> bool:
        """Whether every component is up."""
        try:
            status = self._call("GET", "/api/v2/monitor/health", token="")
        except (OSError, ServerFailed):
            return False
        return all(status.get(component, {}).get("status") == "healthy" for component in COMPONENTS)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """A request to the REST API below `/api/v2`, signed in; ServerFailed, with what it says, if it is refused."""
        return self.call(method, f"/api/v2{path}", body)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The same for any path of the server."""
        if not self._token:
            login = {"username": USER, "password": self.password}
            self._token = self._call("POST", "/auth/token", login, token="")["access_token"]
        return self._call(method, path, body, token=self._token)

    def wait_for_dag(self, dag_id: str, timeout: float = 90) -> None:
        """Wait until the DAG processor has found the DAG."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.api("GET", f"/dags/{dag_id}")
                return
            except ServerFailed as error:
                if time.monotonic() > deadline:
                    raise ServerFailed(f"{error}\nimport errors: {self.api('GET', '/importErrors')}") from None
            time.sleep(1)

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Unpause the DAG and start a run; returns its id."""
        self.api("PATCH", f"/dags/{dag_id}", {"is_paused": False})
        return str(
            self.api("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf or {}})["dag_run_id"]
        )

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float = 180) -> str:
        """Wait for the end of a run; returns its state."""
        deadline = time.monotonic() + timeout
        while (state := str(self.api("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])) not in FINAL_STATES:
            if time.monotonic() > deadline:
                raise ServerFailed(f"run {run_id} of {dag_id} is still {state} after {timeout} s")
            time.sleep(1)
        return state

    def close(self) -> None:
        """End all components. The home folder stays."""
        self._process.close()

    def _call(self, method: str, path: str, body: Any = None, *, token: str, tries: int = 3) -> Any:
        request = urllib.request.Request(f"{self.url}{path}", method=method)
        request.add_header("Accept", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.INTERNAL_SERVER_ERROR and method != "POST" and tries > 1:
                time.sleep(1)  # SQLite, which this Airflow runs on, may be locked by another of its components
                return self._call(method, path, body, token=token, tries=tries - 1)
            raise ServerFailed(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from None
        return json.loads(text) if text else None
