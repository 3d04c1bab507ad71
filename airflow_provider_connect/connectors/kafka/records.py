"""Records: librdkafka's messages as Arrow rows, without a Python loop per record."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from operator import itemgetter

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Message

from airflow_provider_connect.connectors.kafka.splits import split_of
from airflow_provider_connect.engine.batch import HEADERS, envelope_schema

_TIMESTAMP = pa.timestamp("ms", tz="UTC")
_WITHOUT_TIMESTAMP = -1
_NEEDS_ESCAPE = re.compile(rb'[\x00-\x1f"\\]')


def envelope(messages: Sequence[Message], topic: str | None, encoding: str, raw: bool = False) -> pa.RecordBatch:
    """The messages (none of them an error) as envelope rows; `raw` puts the metadata around the value.

    `topic` is that of all messages; None if they may be of several.
    """
    keys = pa.array(list(map(Message.key, messages)), pa.binary())
    values = pa.array(list(map(Message.value, messages)), pa.binary())
    partitions = pa.array(list(map(Message.partition, messages)), pa.int32())
    offsets = pa.array(list(map(Message.offset, messages)), pa.int64())
    timestamps = pa.array(list(map(itemgetter(1), map(Message.timestamp, messages))), pa.int64())
    if pc.min(timestamps).as_py() == _WITHOUT_TIMESTAMP:
        timestamps = pc.if_else(pc.equal(timestamps, _WITHOUT_TIMESTAMP), None, timestamps)
    headers = list(map(Message.headers, messages))
    if topic is not None:
        topics = pa.repeat(topic, len(headers))
    else:
        topics = pa.array(list(map(Message.topic, messages)), pa.string())
    if raw:
        values = with_metadata(values, keys, partitions, offsets, timestamps, topics)
    columns = [
        keys,
        values,
        pa.array(headers, HEADERS) if any(headers) else pa.nulls(len(headers), HEADERS),
        topics,
        partitions,
        offsets,
        timestamps.view(_TIMESTAMP),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=envelope_schema(encoding))


def next_offsets(rows: pa.RecordBatch) -> dict[str, int]:
    """For each split in envelope rows the offset after its last one."""
    topics, partitions, offsets = rows.column("topic"), rows.column("partition"), rows.column("offset")
    ends = {end for column in (topics, partitions) for end in pc.run_end_encode(column).run_ends.to_pylist()}
    lasts = [end - 1 for end in sorted(ends)]
    places = zip(*(column.take(pa.array(lasts)).to_pylist() for column in (topics, partitions, offsets)), strict=True)
    return {split_of(topic, partition): offset + 1 for topic, partition, offset in places}


def nothing(encoding: str) -> pa.RecordBatch:
    """No rows, for a stretch of the topic that holds nothing to deliver."""
    schema = envelope_schema(encoding)
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def with_metadata(
    values: pa.Array, keys: pa.Array, partitions: pa.Array, offsets: pa.Array, timestamps: pa.Array, topics: pa.Array
) -> pa.Array:
    """`{"value": <value>, "_metadata": {…}}` per row. A value that is no JSON stays as it is."""
    parts = [
        b'{"value": ',
        values,
        b', "_metadata": {"offset": ',
        _decimal(offsets),
        b', "partition": ',
        _decimal(partitions),
        b', "timestamp": ',
        _decimal(timestamps),
        b', "key": ',
        _json_strings(keys),
        b', "topic": "',
        topics.cast(pa.binary()),  # a topic's name has nothing that JSON would escape
        b'"}}',
    ]
    scalars = [part if isinstance(part, pa.Array) else pa.scalar(part, pa.binary()) for part in parts]
    return pc.binary_join_element_wise(
        *scalars, pa.scalar(b"", pa.binary()), null_handling="replace", null_replacement="null"
    )


def _decimal(numbers: pa.Array) -> pa.Array:
    return numbers.cast(pa.string()).cast(pa.binary())


def _json_strings(keys: pa.Array) -> pa.Array:
    """Keys as JSON strings; what is no UTF-8 in them becomes U+FFFD."""
    if keys.null_count == len(keys):
        return keys
    try:
        text = keys.cast(pa.string())
    except pa.ArrowInvalid:
        text = pa.array([None if key is None else key.decode("utf-8", "replace") for key in keys.to_pylist()])
    if (data := text.buffers()[2]) is not None and _NEEDS_ESCAPE.search(data):  # all keys at once
        quoted = [None if key is None else json.dumps(key, ensure_ascii=False) for key in text.to_pylist()]
        return pa.array(quoted, pa.string()).cast(pa.binary())
    quote = pa.scalar('"')
    return pc.binary_join_element_wise(quote, text, quote, pa.scalar("")).cast(pa.binary())
