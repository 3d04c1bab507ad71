"""The systems behind the reference connectors, as the contracts want them: in memory, and in a SQLite file."""

import json

import pyarrow as pa
import pytest

from airflow_provider_connect.engine.batch import COLUMNS, documents
from airflow_provider_connect.testing.memory import ListLog, ListSource, MemoryTarget
from airflow_provider_connect.testing.sink import Record, rows_of
from airflow_provider_connect.testing.sqlite import SqliteSinkConfig, stored_values


class InLists:
    """A log of three splits; `kind` reads it."""

    kind = ListSource
    names = ("0", "1", "2")

    def set_up(self, folder):
        self.log = ListLog({name: [] for name in self.names})
        self.count = 0

    @pytest.fixture(autouse=True)
    def _system(self, tmp_path):
        self.set_up(tmp_path)

    def make(self):
        return self.kind(self.log)

    def make_unreachable(self):
        log = ListLog({"0": []})
        log.reachable = False
        return self.kind(log)

    def produce(self, count):
        produced = {name: [] for name in self.names}
        for _ in range(count):
            self.count += 1
            name = self.names[self.count % len(self.names)]
            value = f'{{"id": {self.count}}}'.encode()
            produced[name].append(value)
            self.log.append(name, value)
        return produced


class InMemory:
    """A `MemoryTarget`; `kind` writes it."""

    poison = Record(666, "poison")

    def set_up(self, folder):
        self.target = MemoryTarget()
        self.target.poison[self.rows([self.poison], "json").column("value")[0].as_py()] = "smells"

    @pytest.fixture(autouse=True)
    def _system(self, tmp_path):
        self.set_up(tmp_path)

    def make(self):
        return self.kind(self.target)

    def make_unreachable(self):
        target = MemoryTarget()
        target.reachable = False
        return self.kind(target)

    def rows(self, records, format):
        rows = rows_of(records, "json")
        if format == COLUMNS:
            return rows.select(["value"]).replace_schema_metadata(None)
        return rows if format == "json" else documents(rows.column("value"), format)

    def stored(self):
        return [Record(**json.loads(value)) for value in self.target.values()]


class InSqlite:
    """A SQLite file; `kind` writes it."""

    def set_up(self, folder):
        self.path = folder / "target.db"
        self.kind(SqliteSinkConfig(path=str(self.path)))._connect("rwc").close()

    @pytest.fixture(autouse=True)
    def _system(self, tmp_path):
        self.set_up(tmp_path)

    def make(self):
        return self.kind(SqliteSinkConfig(path=str(self.path)))

    def make_unreachable(self):
        return self.kind(SqliteSinkConfig(path=str(self.path.parent / "not" / "there.db")))

    def poison_rows(self, format):
        good = self.rows([Record(1), Record(2)], format).column("value").to_pylist()
        return documents(pa.array([good[0], None, good[1]], pa.binary()), format)

    def stored(self):
        try:
            return [Record(**json.loads(value)) for value in stored_values(str(self.path))]
        except Exception as error:
            if "no such table" in str(error):  # nobody has opened a sink yet
                return []
            raise
