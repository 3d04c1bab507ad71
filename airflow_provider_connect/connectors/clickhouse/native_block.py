"""Native blocks: Arrow columns in the form in which ClickHouse keeps them, made by Arrow's kernels alone.

Both protocols take it: over HTTP as FORMAT Native, over the native protocol as the data of a query. One block is one
insert, so what belongs to a token never falls apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.codecs._json_text import texts
from airflow_provider_connect.connectors.clickhouse.names import literal, quoted
from airflow_provider_connect.connectors.clickhouse.types import UNIT_SCALES

_INTEGERS = {getattr(pa, name)(): name.replace("uint", "UInt").replace("int", "Int").replace("UInt", "UInt")
             for name in ("int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")}  # fmt: skip
_FIXED = {**_INTEGERS, pa.uint8(): "UInt8", pa.float32(): "Float32", pa.float64(): "Float64", pa.date32(): "Date32"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name, its ClickHouse type, and its values as bytes."""

    name: str
    type: str
    data: bytes

    @property
    def declaration(self) -> str:
        """Name and type, as `input()` wants them."""
        return f"{quoted(self.name)} {self.type}"


@dataclass(frozen=True, slots=True)
class Block:
    """Columns of equal length."""

    columns: tuple[Column, ...]
    rows: int

    def structure(self) -> str:
        """The columns' declarations, as a literal in SQL."""
        return literal(", ".join(column.declaration for column in self.columns))

    def serialized(self, with_kind: bool = False) -> bytes:
        """The block as the Native format has it; `with_kind` as newer versions of the native protocol have it."""
        kind = b"\0" if with_kind else b""
        parts = [varint(len(self.columns)), varint(self.rows)]
        for column in self.columns:
            parts += [_text(column.name), _text(column.type), kind, column.data]
        return b"".join(parts)


def block_of(batches: list[pa.RecordBatch]) -> Block:
    """One block of all these rows; a column that some of them lack is NULL there."""
    table = pa.concat_tables([pa.Table.from_batches([batch]) for batch in batches], promote_options="permissive")
    columns = tuple(
        Column(field.name, *_encoded(pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0),
                                     field))
        for field, column in zip(table.schema, table.columns, strict=True)
    )  # fmt: skip
    return Block(columns, table.num_rows)


def varint(number: int) -> bytes:
    """An unsigned number in LEB128."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _text(text: str) -> bytes:
    data = text.encode()
    return varint(len(data)) + data


def _encoded(values: pa.Array, field: pa.Field) -> tuple[str, bytes]:
    """ClickHouse type and bytes of an array."""
    kind = values.type
    if isinstance(kind, pa.ExtensionType):
        return _encoded(values.storage, pa.field(field.name, kind.storage_type))
    if pa.types.is_dictionary(kind):
        decoded = values.dictionary_decode()
        return _encoded(decoded, pa.field(field.name, decoded.type))
    if pa.types.is_null(kind):
        return "Nullable(String)", b"\1" * len(values) + b"\0" * len(values)
    if pa.types.is_map(kind):
        return _map(values, field)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        type_, data = _encoded(_items(values), kind.value_field)
        return f"Array({type_})", _offsets(values) + data
    if pa.types.is_struct(kind) and kind.num_fields:
        inner = [_encoded(part, part_field) for part, part_field in zip(values.flatten(), kind, strict=True)]
        names = ", ".join(f"{quoted(f.name)} {type_}" for f, (type_, _) in zip(kind, inner, strict=True))
        return f"Tuple({names})", b"".join(data for _, data in inner)
    type_, data = _scalar(values, field)
    if values.null_count:
        return f"Nullable({type_})", _fixed(values.is_null().cast(pa.uint8()), 1) + data
    return type_, data


def _scalar(values: pa.Array, field: pa.Field) -> tuple[str, bytes]:
    kind = values.type
    if kind in _FIXED:
        return _FIXED[kind], _fixed(values, kind.bit_width // 8)
    if pa.types.is_boolean(kind):
        return "Bool", _fixed(values.cast(pa.uint8()), 1)
    if pa.types.is_float16(kind):
        return "Float32", _fixed(values.cast(pa.float32()), 4)
    if pa.types.is_timestamp(kind):
        return f"DateTime64({UNIT_SCALES[kind.unit]}, 'UTC')", _fixed(values.view(pa.int64()), 8)
    if pa.types.is_date64(kind):
        return "Date32", _fixed(values.cast(pa.date32()), 4)
    if pa.types.is_decimal(kind) and kind.scale >= 0:
        wide = kind.precision > 38
        precision = 76 if wide else 38
        exact = values.cast(pa.decimal256(precision, kind.scale) if wide else pa.decimal128(precision, kind.scale))
        return f"Decimal({precision}, {kind.scale})", _fixed(exact, 32 if wide else 16)
    if pa.types.is_duration(kind):
        return "Int64", _fixed(values.view(pa.int64()), 8)
    if pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "String", _strings(values.cast(pa.binary()))
    if pa.types.is_large_binary(kind) or pa.types.is_large_string(kind) or pa.types.is_string(kind):
        return "String", _strings(values.cast(pa.binary()))
    if pa.types.is_time(kind) or pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return "String", _strings(values.cast(pa.string()).cast(pa.binary()))
    return "String", _strings(texts(values, field).cast(pa.binary()))


def _fixed(values: pa.Array, width: int) -> bytes:
    """The values of a fixed width one after the other; what a null holds does not matter."""
    if len(values) == 0:
        return b""
    return bytes(memoryview(values.buffers()[1])[values.offset * width : (values.offset + len(values)) * width])


def _strings(values: pa.Array) -> bytes:
    """Each value with its length before it."""
    if len(values) == 0:
        return b""
    if values.null_count:
        values = pc.fill_null(values, b"")
    lengths = pc.binary_length(values).dictionary_encode()
    prefixes = pa.array([varint(length) for length in lengths.dictionary.to_pylist()], pa.binary())
    joined = pc.binary_join_element_wise(prefixes.take(lengths.indices), values, b"")
    _, offsets, data = joined.buffers()
    ends = pa.Array.from_buffers(pa.int32(), len(joined) + 1, [None, offsets], offset=joined.offset)
    return bytes(memoryview(data)[ends[0].as_py() : ends[-1].as_py()])


def _items(values: pa.Array) -> pa.Array:
    """The items of all lists; a list that is null has none."""
    return values.flatten()


def _offsets(values: pa.Array) -> bytes:
    lengths = pc.fill_null(pc.list_value_length(values), 0).cast(pa.uint64())
    return _fixed(pc.cumulative_sum(lengths), 8) if len(values) else b""


def _map(values: pa.Array, field: pa.Field) -> tuple[str, bytes]:
    kind = values.type
    pair = pa.struct([pa.field("key", kind.key_type), pa.field("value", kind.item_type)])
    lists = values.cast(pa.list_(pair))
    keys, items = lists.flatten().flatten()
    key_type, key_data = _encoded(keys, kind.key_field)
    item_type, item_data = _encoded(items, kind.item_field)
    return f"Map({key_type}, {item_type})", _offsets(lists) + key_data + item_data
