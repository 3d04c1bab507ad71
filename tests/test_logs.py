"""Logs: formats, masking, and how often a commit is told."""

import io
import json
import logging
import re

import pytest
from pydantic import BaseModel, SecretStr

from airflow_provider_connect.engine import logs

log = logging.getLogger("airflow_provider_connect.engine.test_logs")


@pytest.fixture
def lines(request):
    """Logs as this format prints them; gives a function that returns the lines printed since the last call."""
    root = logging.getLogger(logs.ROOT)
    before = root.handlers[:], root.level, root.propagate
    stream = io.StringIO()
    logs.configure(getattr(request, "param", "text"), "INFO", stream)

    def printed() -> list[str]:
        text = stream.getvalue()
        stream.seek(0)
        stream.truncate()
        return text.splitlines()

    yield printed
    root.handlers[:], root.level, root.propagate = before


@pytest.fixture(autouse=True)
def forget_secrets(monkeypatch):
    monkeypatch.setattr(logs, "_secrets", type(logs._secrets)())


def test_text_is_key_value_pairs(lines):
    log.info("split claimed", extra={"split": "orders/0", "position": 12, "why": 'a "new" owner'})
    (line,) = lines()
    assert re.match(r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=info logger=airflow_provider_connect\.", line)
    assert line.endswith(r' msg="split claimed" split=orders/0 position=12 why="a \"new\" owner"')


def test_a_line_break_in_a_value_forges_no_line(lines):
    log.warning("refused: %s", "x\nlevel=info msg=forged", extra={"key": "a\r\nb"})
    (line,) = lines()
    assert r"x\nlevel=info" in line
    assert r'key="a\r\nb"' in line


@pytest.mark.parametrize("lines", ["json"], indirect=True)
def test_json_is_one_object_per_line(lines):
    log.info("committed", extra={"records": 5, "split": "ä/0", "checkpoint": {"ä/0": 17}, "lag": None})
    try:
        raise ValueError("boom")
    except ValueError:
        log.exception("lane failed")
    first, second = map(json.loads, lines())
    assert first.items() >= {"level": "info", "msg": "committed", "records": 5, "split": "ä/0", "lag": None}.items()
    assert first["checkpoint"] == {"ä/0": 17}
    assert second["error"].startswith("Traceback") and second["error"].endswith("ValueError: boom")


def test_a_traceback_follows_in_text(lines):
    try:
        raise ValueError("boom")
    except ValueError:
        log.exception("lane failed")
    first, *trace = lines()
    assert 'msg="lane failed"' in first
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1] == "ValueError: boom"


@pytest.mark.parametrize("lines", ["text", "json"], indirect=True)
@pytest.mark.parametrize("secret", ["hunter22", "p@ss w\"rd/ü'%", "-----BEGIN KEY-----\nMIIC\n"])
def test_a_registered_secret_is_masked_everywhere(lines, secret):
    logs.mask(secret)
    try:
        try:
            raise ConnectionError(f"login with {secret} failed")
        except ConnectionError as error:
            raise RuntimeError({"password": secret}) from error
    except RuntimeError:
        log.exception("cannot open %s", secret, extra={"given": secret, "nested": {"deep": [secret]}, secret: 1})
    text = "\n".join(lines())
    assert secret not in text
    assert json.dumps(secret)[1:-1] not in text
    assert "***" in text and "login with ***" in text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://app:s3cr3t@db:5432/x", "postgresql://app:***@db:5432/x"),
        ("postgresql://app:p@ss@db/x and http://u:q@h/", "postgresql://app:***@db/x and http://u:***@h/"),
        ("redis://:s3cr3t@cache", "redis://:***@cache"),
        ("host=db password=s3cr3t user=app", "host=db password=*** user=app"),
        ("host=db password='s3 cr\\'3t' user=app", "host=db password=*** user=app"),
        ("sasl.password=s3cr3t,acks=all", "sasl.password=***,acks=all"),
        ("https://h/?sslpassword=s3cr3t&x=1", "https://h/?sslpassword=***&x=1"),
        ("client_secret=s3cr3t", "client_secret=***"),
        ("postgresql://app@db:5432/x", "postgresql://app@db:5432/x"),
        ("http://localhost:9090/metrics", "http://localhost:9090/metrics"),
        ("10:30:00 user@example.org", "10:30:00 user@example.org"),
        ("password: field required", "password: field required"),
    ],
)
def test_what_looks_like_a_password_is_masked_unregistered(text, masked):
    assert logs.redact(text) == masked


def test_spellings_of_a_secret_in_urls_and_json():
    logs.mask('a b/c"d')
    assert logs.redact('a b/c"d a%20b%2Fc%22d a+b%2Fc%22d a b/c\\"d') == "*** *** *** ***"


def test_the_longer_of_two_secrets_is_masked_whole():
    logs.mask("abcd")
    logs.mask("abcdefgh")
    assert logs.redact("abcdefgh abcd") == "*** ***"


@pytest.mark.parametrize("short", ["", "abc", None])
def test_what_is_too_short_to_be_secret_is_left(short):
    logs.mask(short)
    assert logs.redact("abcd abc") == "abcd abc"


def test_secrets_of_a_configuration(lines):
    class Sasl(BaseModel):
        username: str
        password: SecretStr

    class Kafka(BaseModel):
        sasl: Sasl
        more: dict[str, list[SecretStr]]
        none: SecretStr | None = None

    config = Kafka(
        sasl=Sasl(username="username1", password=SecretStr("password1")), more={"x": [SecretStr("password2")]}
    )
    logs.mask_secrets_of(config)
    log.info("%s; username1 password1 password2", config)
    (line,) = lines()
    assert line.endswith('; username1 *** ***"')
    assert "password1" not in line


def test_the_filter_masks_for_a_handler_of_somebody_else():
    logs.mask("hunter22")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(logs.MaskSecrets())
    handler.setFormatter(logging.Formatter("%(message)s %(given)s"))
    other = logging.getLogger("test_logs.other")
    other.addHandler(handler)
    other.propagate = False
    try:
        raise ValueError("hunter22 in a traceback")
    except ValueError:
        other.exception("hunter22 in %s", ["hunter22"], extra={"given": "hunter22"}, stack_info=True)
    text = stream.getvalue()
    assert text.startswith("*** in ['***'] ***\n")
    assert "ValueError: *** in a traceback" in text
    assert "hunter22" not in re.sub(r"^ +.*raise ValueError.*$|^ +other\.exception.*$", "", text, flags=re.M)


def test_configure_again_replaces_what_was_there(lines):
    again = io.StringIO()
    logs.configure("text", "WARNING", again)
    log.info("not told")
    log.warning("told once")
    assert lines() == []
    assert len(again.getvalue().splitlines()) == 1


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def test_commits_are_told_once_a_second_and_lose_nothing(lines):
    clock = Clock()
    commits = logs.CommitLog(log, clock=clock, flow="orders", lane=0)
    for _ in range(100):
        clock.now += 0.05
        commits.committed(10, 2000)
    clock.now += 0.05
    commits.close()
    commits.close()
    told = lines()
    assert 5 <= len(told) <= 7
    assert sum(int(re.search(r" records=(\d+)", line)[1]) for line in told) == 1000
    assert sum(int(re.search(r" commits=(\d+)", line)[1]) for line in told) == 100
    assert all("flow=orders lane=0" in line for line in told)
    assert "records_per_s=200" in told[2]


def test_at_debug_every_commit_is_told(lines):
    logging.getLogger(logs.ROOT).setLevel("DEBUG")
    commits = logs.CommitLog(log, flow="orders")
    for _ in range(5):
        commits.committed(1, 1)
    assert len(lines()) == 5
