"""A table of ClickHouse to PostgreSQL: TabSeparated goes into COPY FROM STDIN unread; one transaction per lane."""

import argparse
import http.client
from functools import partial
from urllib.parse import urlencode

import psycopg
from psycopg import sql

from tests.benchmarks.raw import lanes


def lane(index: int, count: int, *, host: str, port: int, table: str, dsn: str, target: str) -> int:
    connection = http.client.HTTPConnection(host, port)

    def ask(query: str) -> http.client.HTTPResponse:
        connection.request("POST", f"/?{urlencode({'query': query})}")
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(answer.read().decode())
        return answer

    low, high = (int(text) for text in ask(f"SELECT min(id), max(id) + 1 FROM {table}").read().split())
    size = high - low
    first, end = low + size * index // count, low + size * (index + 1) // count
    answer = ask(f"SELECT * FROM {table} WHERE id >= {first} AND id < {end} ORDER BY id FORMAT TabSeparated")
    with psycopg.connect(dsn) as sink, sink.cursor() as cursor:
        sink.execute("SET TimeZone = 'UTC'")
        with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(target))) as copy:
            while block := answer.read(131_072):
                copy.write(block)
        return cursor.rowcount


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("--dsn", "--target", "--host", "--table"):
        parser.add_argument(name, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--lanes", type=int, default=2)
    arguments = vars(parser.parse_args())
    lane_count = arguments.pop("lanes")
    lanes.run(partial(lane, **arguments), lane_count)
