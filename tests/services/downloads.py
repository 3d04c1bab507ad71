"""What the services keep between runs: a cache in which a folder is either complete or absent."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.services.process import Unavailable

MAVEN_SECONDS = 600
DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"


def cache_folder() -> Path:
    """`$CONNECT_TEST_CACHE`, or a folder below `~/.cache`."""
    chosen = os.environ.get("CONNECT_TEST_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "airflow-provider-connect" / "servers"


def cached(name: str, fill: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache, filled by the function when it is not there.

    A fill that fails or is killed leaves no such folder behind. Of several processes one fills, the others wait.
    """
    cache = cache_folder()
    folder = cache / name
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system releases it if this process is killed
        if folder.exists():
            return folder
        for remains in cache.glob(f"{name}.partial-*"):
            shutil.rmtree(remains)
        partial = Path(tempfile.mkdtemp(prefix=f"{name}.partial-", dir=cache))
        try:
            fill(partial)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return folder


def copy_maven_dependencies(pom: str, target: Path) -> None:
    """Put the jars of a Maven project's dependencies into the folder."""
    (target / "pom.xml").write_text(pom)
    _maven(target, "copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=.")


def copy_maven_artifact(coordinates: str, target: Path) -> Path:
    """Put one file of the Maven registry into the folder: `group:artifact:version:type[:classifier]`."""
    before = set(target.iterdir())
    _maven(target, "copy", f"-Dartifact={coordinates}", "-DoutputDirectory=.", "-Dmdep.useBaseVersion=true")
    (file,) = set(target.iterdir()) - before
    return file


def _maven(folder: Path, goal: str, *options: str) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Unavailable("mvn is not installed, which downloads servers from the Maven registry")
    result = subprocess.run(
        [maven, "-q", "-B", "-ntp", f"{DEPENDENCY_PLUGIN}:{goal}", *options],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=MAVEN_SECONDS,
        check=False,
    )
    if result.returncode != 0:
        raise Unavailable(f"mvn could not download:\n{result.stdout[-2000:]}")
