"""What dies at every line in the crash test of the Kafka sink, in forks of an interpreter that has no client yet."""

import pyarrow as pa

from airflow_provider_connect.connectors.kafka import KafkaTransactionalSink
from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig
from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.connector import SinkContext
from airflow_provider_connect.testing.sink_rows import Record, numbered, rows_of


def without_time(records, format="json"):
    """The contract's rows; their timestamps are the ids, but a topic takes none that are hours ahead."""
    rows = rows_of(records, format)
    at = rows.schema.get_field_index("timestamp")
    return rows.set_column(at, rows.schema.field(at), pa.nulls(len(rows), rows.schema.field(at).type))


def deliver(attempt, *, brokers, topic, flow, split):
    """A worker that goes on from the stored position: two commits of two rows, with an abort in between."""
    config = KafkaSinkConfig(brokers=brokers, topic=topic, checkpoint_topic=f"{topic}.checkpoints")
    sink = KafkaTransactionalSink(config)
    sink.open(SinkContext(flow))
    position = int(sink.claim([split]).get(split, 0))

    def write(records):
        sink.write(Batch(without_time(records), Checkpoint()))

    for start in (position, position + 2):
        write([Record(-1, "aborted")])
        sink.abort()
        for number in (start, start + 1):
            write(numbered(number, number + 1))
            sink.flush()
        sink.commit(Checkpoint({split: start + 2}))
    sink.release([split])
    sink.close()
