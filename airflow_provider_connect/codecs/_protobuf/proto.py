"""The text of a .proto file to the descriptor that protoc would make of it; what no message depends on is left out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from google.protobuf import descriptor_pb2 as pb  # type: ignore[import-untyped]

from airflow_provider_connect.engine.errors import FlowError

_TOKEN = re.compile(
    r"""\s+|//[^\n]*|/\*.*?\*/|("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[A-Za-z_.][\w.]*|[-+]?(?:0[xX][\da-fA-F]+|\d[\w.+]*)|.)""",
    re.DOTALL,
)
_SCALARS = {
    name: getattr(pb.FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in (
        *("double", "float", "bool", "string", "bytes", "int32", "int64", "uint32", "uint64", "sint32", "sint64"),
        *("fixed32", "fixed64", "sfixed32", "sfixed64"),
    )
}
_LABELS = {
    "optional": pb.FieldDescriptorProto.LABEL_OPTIONAL,
    "required": pb.FieldDescriptorProto.LABEL_REQUIRED,
    "repeated": pb.FieldDescriptorProto.LABEL_REPEATED,
}


def parse(text: str, name: str) -> pb.FileDescriptorProto:
    """The descriptor of a file of that name. Names of types are as they are written: the pool resolves them.

    FlowError, which tells the line, if it is no proto2 or proto3.
    """
    return _Parser(text, name).file()


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self._file = pb.FileDescriptorProto(name=name, syntax="proto2")
        self._tokens = list(_tokens(text))
        self._at = 0

    def file(self) -> pb.FileDescriptorProto:
        while self._at < len(self._tokens):
            word = self._next()
            if word in ("syntax", "edition"):
                self._expect("=")
                self._file.syntax = self._string()
                if word == "edition" or self._file.syntax not in ("proto2", "proto3"):
                    raise self._wrong("only proto2 and proto3 are supported")
                self._expect(";")
            elif word == "package":
                self._file.package = self._next()
                self._expect(";")
            elif word == "import":
                if self._peek() in ("public", "weak"):
                    self._next()
                self._file.dependency.append(self._string())
                self._expect(";")
            elif word == "message":
                self._message(self._file.message_type.add())
            elif word == "enum":
                self._enum(self._file.enum_type.add())
            elif word in ("option", "service", "extend"):
                self._skip()
            elif word != ";":
                raise self._wrong(f"'{word}' is not expected here")
        return self._file

    # --- declarations

    def _message(self, message: pb.DescriptorProto) -> None:
        message.name = self._next()
        self._expect("{")
        while (word := self._next()) != "}":
            if word == "message":
                self._message(message.nested_type.add())
            elif word == "enum":
                self._enum(message.enum_type.add())
            elif word == "oneof":
                self._oneof(message)
            elif word in ("option", "reserved", "extensions", "extend"):
                self._skip()
            elif word == "map" and self._peek() == "<":
                self._map(message)
            elif word != ";":
                self._field(message, word)
        # protoc, too, puts the made-up oneofs of optional fields last.
        for field in message.field:
            if field.proto3_optional:
                field.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field.name}")

    def _field(self, message: pb.DescriptorProto, word: str, oneof: int | None = None) -> None:
        field = message.field.add(label=pb.FieldDescriptorProto.LABEL_OPTIONAL)
        if word in _LABELS and oneof is None:
            field.label = _LABELS[word]
            field.proto3_optional = word == "optional" and self._file.syntax == "proto3"
            word = self._next()
        if word == "group":
            raise self._wrong("groups are not supported")
        self._typed(field, word)
        field.name = self._next()
        self._expect("=")
        field.number = self._number()
        if oneof is not None:
            field.oneof_index = oneof
        self._options(field)
        self._expect(";")

    def _typed(self, field: pb.FieldDescriptorProto, word: str) -> None:
        if word in _SCALARS:
            field.type = _SCALARS[word]
        else:  # a message or an enum, which the pool finds out
            field.type_name = word

    def _map(self, message: pb.DescriptorProto) -> None:
        self._expect("<")
        key = self._next()
        self._expect(",")
        value = self._next()
        self._expect(">")
        name = self._next()
        entry = message.nested_type.add(name="".join(part.capitalize() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        for number, (each, word) in enumerate((("key", key), ("value", value)), 1):
            optional = pb.FieldDescriptorProto.LABEL_OPTIONAL
            self._typed(entry.field.add(name=each, number=number, label=optional), word)
        self._expect("=")
        field = message.field.add(name=name, number=self._number(), label=pb.FieldDescriptorProto.LABEL_REPEATED)
        field.type_name = entry.name
        self._options(field)
        self._expect(";")

    def _oneof(self, message: pb.DescriptorProto) -> None:
        message.oneof_decl.add(name=self._next())
        index = len(message.oneof_decl) - 1
        self._expect("{")
        while (word := self._next()) != "}":
            if word == "option":
                self._skip()
            elif word != ";":
                self._field(message, word, index)

    def _enum(self, enum: pb.EnumDescriptorProto) -> None:
        enum.name = self._next()
        self._expect("{")
        while (word := self._next()) != "}":
            if word in ("option", "reserved") and self._peek() != "=":
                if self._peek() == "allow_alias":
                    enum.options.allow_alias = True
                self._skip()
            elif word != ";":
                self._expect("=")
                enum.value.add(name=word, number=self._number())
                if self._peek() == "[":
                    self._brackets()
                self._expect(";")

    def _options(self, field: pb.FieldDescriptorProto) -> None:
        """Only what changes how bytes are read: `packed`, and proto2's defaults."""
        if self._peek() != "[":
            return
        words = self._brackets()
        for index, word in enumerate(words[:-2]):
            if words[index + 1] == "=" and word == "packed":
                field.options.packed = words[index + 2] == "true"
            elif words[index + 1] == "=" and word == "default":
                value = words[index + 2]
                field.default_value = str(ast.literal_eval(value)) if value[0] in "\"'" else value

    # --- words

    def _brackets(self) -> list[str]:
        words, depth = [], 0
        while True:
            word = self._next()
            depth += {"[": 1, "]": -1}.get(word, 0)
            words.append(word)
            if depth == 0:
                return words

    def _skip(self) -> None:
        """To the end of a statement or of a block."""
        depth = 0
        while True:
            word = self._next()
            depth += {"{": 1, "}": -1}.get(word, 0)
            if depth == 0 and word in (";", "}"):
                return

    def _peek(self, ahead: int = 0) -> str:
        index = self._at + ahead
        return self._tokens[index][0] if index < len(self._tokens) else ""

    def _next(self) -> str:
        if self._at >= len(self._tokens):
            raise self._wrong("it ends in the middle")
        self._at += 1
        return self._tokens[self._at - 1][0]

    def _expect(self, wanted: str) -> None:
        if (word := self._next()) != wanted:
            raise self._wrong(f"'{wanted}' is expected, not '{word}'")

    def _number(self) -> int:
        word = self._next()
        try:
            return int(word, 8) if re.fullmatch(r"0[0-7]+", word) else int(word, 0)
        except ValueError:
            raise self._wrong(f"a number is expected, not '{word}'") from None

    def _string(self) -> str:
        word = self._next()
        if word[:1] not in ("'", '"'):
            raise self._wrong(f"a text in quotes is expected, not '{word}'")
        return str(ast.literal_eval(word))

    def _wrong(self, why: str) -> FlowError:
        line = self._tokens[max(0, min(self._at, len(self._tokens)) - 1)][1] if self._tokens else 1
        return FlowError(f"the Protobuf schema is wrong in line {line}: {why}")


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for found in _TOKEN.finditer(text):
        if found[1]:
            yield found[1], line
        line += found[0].count("\n")
