"""kill -9 of a worker that decodes or encodes with a schema registry, at random moments: each record exactly once."""

from __future__ import annotations

import json

import pytest

from tests.avro_cases import written
from tests.crash.test_kill import PER_COMMIT, SMALL_READS, assert_each_once
from tests.crash.victim import kill_repeatedly, write_flow

KILLS = 5
ROUND = 4_000
SCHEMA = {
    "type": "record",
    "name": "R",
    "fields": [{"name": "id", "type": "long"}, {"name": "text", "type": ["null", "string"], "default": None}],
}

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]


def values(number):
    return [{"id": i, "text": f"record {i}" if i % 2 else None} for i in range(number * ROUND, (number + 1) * ROUND)]


@pytest.mark.parametrize("target", ["postgresql", "kafka"])
def test_avro(target, kafka, schema_registry, postgresql, tmp_path):
    """From Avro to a typed table; from JSON to Avro."""
    topic, other, table = kafka.create_topic(4), kafka.create_topic(4), postgresql.unique_name("killed")
    brokers = [kafka.bootstrap_servers]
    avro = {"brokers": brokers, "format": "avro", "schemaRegistry": {"url": schema_registry.url}}
    if target == "postgresql":
        postgresql.execute(f"CREATE TABLE {table} (id bigint, text text)")
        frame = b"\0" + schema_registry.register(f"{topic}-value", SCHEMA).to_bytes(4, "big")
        source = {"type": "kafka", "kafka": {**avro, "topic": topic}}
        rows = {"connectionString": postgresql.dsn, "table": table, **PER_COMMIT}
        sink = {"type": "postgresql", "postgresql": rows}
    else:
        source = {"type": "kafka", "kafka": {"brokers": brokers, "topic": topic}}
        sink = {"type": "kafka", "kafka": {**avro, "topic": other, **PER_COMMIT}}

    def feed(number):
        made = values(number)
        if target == "postgresql":
            kafka.produce(
                topic, [(str(v["id"]).encode(), frame + b) for v, b in zip(made, written(SCHEMA, made), strict=True)]
            )
        else:
            kafka.produce(topic, [(str(value["id"]).encode(), json.dumps(value).encode()) for value in made])

    flow = write_flow(tmp_path, kafka.unique_name("avro"), source, sink, **SMALL_READS)
    assert kill_repeatedly(flow, feed, KILLS, seed=11) == KILLS
    if target == "postgresql":
        ids = [i for (i,) in postgresql.execute(f"SELECT id FROM {table}")]
        wrong = postgresql.execute(
            f"SELECT count(*) FROM {table} WHERE text IS DISTINCT FROM CASE WHEN id % 2 = 1 THEN 'record ' || id END"
        )
        postgresql.execute(f"DROP TABLE {table}")
        assert wrong == [(0,)]
    else:
        found = kafka.consume_all(other)
        assert all(record.value[:1] == b"\0" for record in found)
        ids = [int(record.key) for record in found]
    assert_each_once(ids, (KILLS + 1) * ROUND)
