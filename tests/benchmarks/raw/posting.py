"""Inserts into ClickHouse over one HTTP connection, as bare as they can be."""

import http.client
from urllib.parse import urlencode

BLOCK_ROWS = 50_000


class Poster:
    """A connection that posts bodies to one INSERT."""

    def __init__(self, host: str, port: int, statement: str) -> None:
        self._connection = http.client.HTTPConnection(host, port)
        options = {"query": statement, "date_time_input_format": "best_effort"}
        self._path = f"/?{urlencode(options)}"

    def post(self, body: bytes) -> None:
        """Send a body and wait until the server has written it."""
        self._connection.request("POST", self._path, body)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(text.decode())
