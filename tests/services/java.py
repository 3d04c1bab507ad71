"""Find the Java machine and choose flags with which a server starts quickly on it."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.services.process import Unavailable

OLDEST = 17
# A test server lives for minutes: the optimising compiler and the parallel collectors would cost more than they gain.
QUICK_START = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")


@dataclass(frozen=True)
class Java:
    """A Java machine."""

    program: Path
    version: str

    def archive_flags(self, archive: Path) -> tuple[str, ...]:
        """Flags to load the classes from the archive, or to write it when the machine ends in good order."""
        if archive.exists():
            return (f"-XX:SharedArchiveFile={archive}", "-Xshare:auto", "-Xlog:disable", "-Xlog:all=error:stderr")
        return (f"-XX:ArchiveClassesAtExit={unfinished(archive)}", "-Xlog:disable", "-Xlog:all=error:stderr")


def unfinished(archive: Path) -> Path:
    """The name under which this process writes the archive."""
    return archive.with_name(f"{archive.name}.{os.getpid()}")


def find_java() -> Java:
    """The one of `JAVA_HOME`, else the one of `PATH`."""
    home = os.environ.get("JAVA_HOME")
    program = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if program is None:
        raise Unavailable("java is not installed (or JAVA_HOME is wrong)")
    answer = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "((\d+)[^"]*)"', answer)
    if match is None or int(match[2]) < OLDEST:
        raise Unavailable(f"java {OLDEST} or newer is needed, {program} says: {answer.strip()[:200]}")
    return Java(Path(program), match[1])
