"""A TCP proxy that loses, holds and delays traffic when a test says so."""

import contextlib
import socket
import struct
import threading
import time
from enum import Enum

HOST = "127.0.0.1"
CHUNK = 65536
DRAIN_SECONDS = 10.0
# With a linger time of zero, close() resets the connection: what a crashed peer or a firewall looks like.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Cut(Enum):
    """When a connection is cut, relative to the request which a test waits for."""

    BEFORE = "the request never reaches the server"
    AFTER = "the server has answered, the answer never reaches the client"


class TcpProxy:
    """Forwards connections to a server; use it as a context manager."""

    def __init__(self, upstream: tuple[str, int], port: int = 0) -> None:
        self.upstream = upstream
        self.host = HOST
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = False
        self._delay = 0.0
        self._trap: tuple[bytes, Cut] | None = None
        self._trapped = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._listener = socket.create_server((HOST, port))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name=f"proxy-{self.port}", daemon=True).start()

    def __enter__(self) -> "TcpProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """`host:port` for clients."""
        return f"{self.host}:{self.port}"

    @property
    def connection_count(self) -> int:
        """How many connections are open now."""
        with self._lock:
            return len(self._connections)

    def cut(self) -> None:
        """Reset all connections; new ones are accepted."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.reset()

    def refuse(self) -> None:
        """Reset all connections, and new ones at once, until `resume`: the server looks down."""
        self._refusing = True
        self.cut()

    def pause(self) -> None:
        """Hold all traffic in both directions, without an error for anybody, until `resume`: a black hole."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forward again: undoes `pause`, `refuse` and `delay`."""
        self._refusing = False
        self._delay = 0.0
        self._flowing.set()

    def delay(self, seconds: float) -> None:
        """Hold each piece of data for so long, in both directions."""
        self._delay = seconds

    def cut_after_request(self, marker: bytes) -> None:
        """Let the next request containing the marker reach the server, wait for its answer, then lose the answer.

        When the client sees its connection reset, the server has processed the request. Happens once.
        """
        self._set_trap(marker, Cut.AFTER)

    def cut_before_request(self, marker: bytes) -> None:
        """Reset the connection on which the next request with the marker comes, without forwarding it. Happens once."""
        self._set_trap(marker, Cut.BEFORE)

    def wait_for_cut(self, timeout: float = 30) -> bool:
        """Wait until the marker of `cut_after_request` or `cut_before_request` has come by and the cut is done."""
        return self._trapped.wait(timeout)

    def close(self) -> None:
        """Stop listening and reset all connections."""
        self._refusing = True
        # A close alone would leave the thread in accept(), and with it the port in use.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._flowing.set()

    def _set_trap(self, marker: bytes, moment: Cut) -> None:
        self._trapped.clear()
        self._trap = (marker, moment)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self.upstream)
            except OSError:
                _reset(client)
                continue
            connection = _Connection(self, client, server)
            with self._lock:
                self._connections.add(connection)
            connection.start()

    # For _Connection:

    def hold(self) -> None:
        """Wait as long as traffic is held or delayed."""
        if self._delay:
            time.sleep(self._delay)
        self._flowing.wait()

    def spring_trap(self, data: bytes) -> Cut | None:
        """Whether the connection that sends this data has to be cut; true for one connection only."""
        with self._lock:
            if self._trap is None or self._trap[0] not in data:
                return None
            (_, moment), self._trap = self._trap, None
            return moment

    def trap_length(self) -> int:
        """How many bytes the marker has, 0 without one."""
        trap = self._trap
        return len(trap[0]) if trap else 0

    def forget(self, connection: "_Connection", cut_on_demand: bool) -> None:
        """The connection has ended."""
        with self._lock:
            self._connections.discard(connection)
        if cut_on_demand:
            self._trapped.set()


class _Connection:
    """One client, its connection to the server, and a thread for each direction."""

    def __init__(self, proxy: TcpProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._answer_lost = False
        self._cut_on_demand = False

    def start(self) -> None:
        for target in (self._forward_requests, self._forward_answers):
            threading.Thread(target=target, name=f"proxy-{self._proxy.port}", daemon=True).start()

    def reset(self) -> None:
        _reset(self._client)
        _reset(self._server)
        self._proxy.forget(self, self._cut_on_demand)

    def _forward_requests(self) -> None:
        seen = b""
        with contextlib.suppress(OSError):
            while data := self._client.recv(CHUNK):
                self._proxy.hold()
                moment = self._proxy.spring_trap(seen + data)
                if moment is Cut.BEFORE:
                    self._cut_on_demand = True
                    break
                self._answer_lost = moment is Cut.AFTER
                self._server.sendall(data)
                if self._answer_lost:
                    return  # the other direction sees the answer come and then makes the cut
                # The marker may be split over two pieces of data.
                keep = self._proxy.trap_length() - 1
                seen = (seen + data)[-keep:] if keep > 0 else b""
        self.reset()

    def _forward_answers(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._server.recv(CHUNK):
                if self._answer_lost:
                    self._lose_answers()
                    break
                self._proxy.hold()
                if not self._answer_lost:
                    self._client.sendall(data)
        self.reset()

    def _lose_answers(self) -> None:
        """Read until the server hangs up: then it has processed all that it got, whatever these answers belong to."""
        self._cut_on_demand = True
        with contextlib.suppress(OSError):
            self._server.settimeout(DRAIN_SECONDS)
            self._server.shutdown(socket.SHUT_WR)
            while self._server.recv(CHUNK):
                pass


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    # Wakes a thread that waits in recv() on it; close() alone would not.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
    with contextlib.suppress(OSError):
        connection.close()
