"""Random Avro schemas with values, and what the values become as columns."""

import datetime
import decimal
import io
import json
import random
import uuid

import fastavro

TEXTS = ("", "a", "Müller", "日本", "second floor", 'say "hi"\\', "\0", "x" * 300)


class Cases:
    """Makes schemas and values, the same for the same seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.names = 0

    def name(self):
        self.names += 1
        return f"N{self.names}"

    def record(self, depth=0):
        fields = [
            {"name": f"f{index}", "type": self.schema(depth + 1)}
            for index in range(self.random.randint(0 if depth else 1, 5))
        ]
        return {"type": "record", "name": self.name(), "fields": fields}

    def schema(self, depth=0):
        simple = [
            "null", "boolean", "int", "long", "float", "double", "bytes", "string",
            {"type": "enum", "name": self.name(), "symbols": ["A", "B", "C"]},
            {"type": "fixed", "name": self.name(), "size": self.random.choice([0, 1, 7, 16])},
            {"type": "int", "logicalType": "date"},
            {"type": "int", "logicalType": "time-millis"},
            {"type": "long", "logicalType": "time-micros"},
            {"type": "long", "logicalType": "timestamp-millis"},
            {"type": "long", "logicalType": "timestamp-micros"},
            {"type": "long", "logicalType": "local-timestamp-micros"},
            {"type": "string", "logicalType": "uuid"},
            {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 4},
            {"type": "fixed", "name": self.name(), "size": 8, "logicalType": "decimal", "precision": 12, "scale": 2},
            {"type": "bytes", "logicalType": "decimal", "precision": 60, "scale": 10},
        ]  # fmt: skip
        if depth > 3 or self.random.random() < 0.5:
            return self.random.choice(simple)
        kind = self.random.choice(["record", "array", "map", "optional", "optional", "union"])
        if kind == "record":
            return self.record(depth + 1)
        if kind in ("array", "map"):
            return {"type": kind, "items" if kind == "array" else "values": self.schema(depth + 1)}
        if kind == "optional":
            inner = self.schema(depth + 1)
            while isinstance(inner, list) or inner == "null":
                inner = self.schema(depth + 1)
            return self.random.choice([["null", inner], [inner, "null"]])
        return self.random.choice(
            [
                ["null", "int", "long"],
                ["float", "double"],
                ["null", "string", "long", {"type": "array", "items": "int"}],
                ["boolean", "string", self.record(3)],
            ]
        )

    def value(self, schema):
        """(what fastavro writes, what the column holds)"""
        if isinstance(schema, list):
            return self.union(schema)
        kind = schema["type"] if isinstance(schema, dict) else schema
        if isinstance(schema, dict) and "logicalType" in schema:
            return self.logical(schema)
        if kind == "record":
            pairs = {field["name"]: self.value(field["type"]) for field in schema["fields"]}
            return {n: p[0] for n, p in pairs.items()}, {n: p[1] for n, p in pairs.items()}
        if kind == "array":
            pairs = [self.value(schema["items"]) for _ in range(self.random.choice([0, 1, 2, 5]))]
            return [p[0] for p in pairs], [p[1] for p in pairs]
        if kind == "map":
            pairs = {f"k{n}": self.value(schema["values"]) for n in range(self.random.choice([0, 1, 3]))}
            return {n: p[0] for n, p in pairs.items()}, [(n, p[1]) for n, p in pairs.items()]
        return (self.primitive(kind, schema),) * 2

    def union(self, schema):
        branch = self.random.choice(schema)
        if branch == "null":
            return None, None
        written, held = self.value(branch)
        others = [each for each in schema if each != "null"]
        if len(others) == 1:
            return written, held
        if set(map(str, others)) <= {"int", "long"}:
            return written, held
        if set(map(str, others)) <= {"float", "double"}:
            return ("float", written) if branch == "float" else written, held
        names = [each if isinstance(each, str) else each.get("name", each["type"]) for each in others]
        chosen = branch if isinstance(branch, str) else branch.get("name", branch["type"])
        if isinstance(branch, dict) and branch["type"] == "record":
            written = (branch["name"], written)
        return written, {name: held if name == chosen else None for name in names}

    def logical(self, schema):
        logical, pick = schema["logicalType"], self.random
        if logical == "date":
            day = datetime.date(1970, 1, 1) + datetime.timedelta(days=pick.randint(-700_000, 2_900_000))
            return day, day
        if logical == "uuid":
            made = uuid.UUID(int=pick.getrandbits(128))
            return made, str(made)
        if logical == "decimal":
            digits = pick.randint(1, schema["precision"])
            value = decimal.Decimal(pick.choice([-1, 1]) * pick.randrange(10**digits)).scaleb(
                -schema["scale"], decimal.Context(prec=80)
            )
            return value, value
        if logical.startswith("time-"):
            step = 1000 if logical == "time-millis" else 1
            micros = pick.randrange(0, 86_400_000_000, step)
            time = (datetime.datetime.min + datetime.timedelta(microseconds=micros)).time()
            return time, time
        micros = pick.randrange(-60_000_000_000_000_000, 200_000_000_000_000_000)
        micros -= micros % 1000 if logical.endswith("millis") else 0
        zone = None if logical.startswith("local") else datetime.UTC
        moment = datetime.datetime(1970, 1, 1, tzinfo=zone) + datetime.timedelta(microseconds=micros)
        return moment, moment

    def primitive(self, kind, schema):
        pick = self.random
        if kind == "null":
            return None
        if kind == "boolean":
            return pick.random() < 0.5
        if kind in ("int", "long"):
            bits = 31 if kind == "int" else 63
            return pick.choice([0, -1, 63, 64, -64, -65, 2**bits - 1, -(2**bits), pick.getrandbits(bits - 1)])
        if kind == "float":
            return pick.choice([0.0, -1.5, 2.0**100, float(pick.randint(-1000, 1000)) / 8])
        if kind == "double":
            return pick.choice([0.0, -1.5, 1e300, pick.random()])
        if kind == "bytes":
            return pick.randbytes(pick.choice([0, 1, 63, 64, 200]))
        if kind == "string":
            return pick.choice(TEXTS)
        if kind == "enum":
            return pick.choice(schema["symbols"])
        return pick.randbytes(schema["size"])


def written(schema, values):
    """Each value as fastavro writes it."""
    parsed = fastavro.parse_schema(json.loads(json.dumps(schema)))
    found = []
    for value in values:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, value)
        found.append(out.getvalue())
    return found
