"""The reference connectors join the contracts like any other."""

import pytest

from airflow_provider_connect.testing.memory import ListLog, ListSource
from airflow_provider_connect.testing.source import SourceContract


class TestListSource(SourceContract):
    @pytest.fixture(autouse=True)
    def _log(self):
        self.log = ListLog({"0": [], "1": [], "2": []})
        self.count = 0

    def make(self):
        return ListSource(self.log)

    def make_unreachable(self):
        log = ListLog({"0": []})
        log.reachable = False
        return ListSource(log)

    def produce(self, count):
        produced = {split: [] for split in self.log.splits()}
        for _ in range(count):
            self.count += 1
            split = str(self.count % 3)
            value = f'{{"id": {self.count}}}'.encode()
            produced[split].append(value)
            self.log.append(split, value)
        return produced


class TestListSourceWithOneSplit(TestListSource):
    @pytest.fixture(autouse=True)
    def _log(self):
        self.log = ListLog({"only": []})
        self.count = 0

    def produce(self, count):
        values = [f'{{"id": {self.count + nth}}}'.encode() for nth in range(count)]
        self.count += count
        self.log.append("only", *values)
        return {"only": values}
