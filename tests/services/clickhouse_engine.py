"""Run the ClickHouse that is inside the `chdb-core` wheel as a server, with the `config.xml` of the working directory.

The extension module holds the whole of `clickhouse local`, which opens the genuine HTTP and TCP listeners when asked.
It is loaded by itself: the package around it would start another engine first. Argument: the folder for the data.
"""

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

# The last statement reads until its input ends, which is never: this process holds the other end of the pipe.
SERVE = "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; SELECT count() FROM file('/dev/stdin', LineAsString)"
RTLD_DEEPBIND = 0x8


def main(data: str) -> int:
    """Serve until killed; returns if the listeners do not start."""
    package = importlib.util.find_spec("chdb")
    assert package is not None and package.submodule_search_locations
    library = Path(package.submodule_search_locations[0]) / "_chdb.abi3.so"
    ctypes.CDLL(str(library), mode=sys.getdlopenflags() | RTLD_DEEPBIND)
    spec = importlib.util.spec_from_file_location("_chdb", library)
    assert spec is not None and spec.loader is not None
    engine = importlib.util.module_from_spec(spec)
    sys.modules["_chdb"] = engine
    spec.loader.exec_module(engine)
    reading, _ = os.pipe()
    os.dup2(reading, 0)
    answer = engine.query(SERVE, "TSV", path=data)
    print(answer.error_message() if answer.has_error() else "the server has ended by itself", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
