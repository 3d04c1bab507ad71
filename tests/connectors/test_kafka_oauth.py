"""Kafka with OAUTHBEARER: tokens of Keycloak, on a broker that ends a session with its token."""

import json
import logging
import time

import pytest

from airflow_provider_connect.connectors.kafka import KafkaSource, client
from airflow_provider_connect.connectors.kafka.config import KafkaSourceConfig
from airflow_provider_connect.engine.errors import Fatal, Retryable
from airflow_provider_connect.engine.flow import dataflow
from tests.engine.flows import Running
from tests.services.keycloak import (
    CONNECTOR,
    CONNECTOR_SECRET,
    SHORTLIVED,
    SHORTLIVED_SECONDS,
    SHORTLIVED_SECRET,
    Keycloak,
)


def tokens(url, client_id=SHORTLIVED, secret=SHORTLIVED_SECRET, **more):
    return {"mechanism": "oauthbearer", "tokenEndpointURL": url, "clientID": client_id, "clientSecret": secret, **more}


def check(kafka, listener, sasl, topic="t", **more):
    settings = {"brokers": kafka.address(listener), "topic": topic, "sasl": sasl, **more}
    return KafkaSource(KafkaSourceConfig.model_validate(settings)).check()


def test_a_token_lets_us_in_also_over_tls_and_from_an_endpoint_with_its_own_authority(
    oauth_kafka, keycloak_server, monkeypatch
):
    monkeypatch.setattr(client, "CHECK_SECONDS", 30.0)  # the broker has yet to fetch the keys
    topic, keycloak = oauth_kafka.plain.create_topic(), Keycloak(keycloak_server.https_url)
    trusted = {"endpointCa": oauth_kafka.authority.cert, "scope": "profile"}
    assert "has 1 partition" in check(oauth_kafka, "OAUTH", tokens(keycloak.token_url, **trusted), topic)
    trusted = {"endpointCa": str(oauth_kafka.authority.cert_file)}
    tls = {"ca": oauth_kafka.authority.cert}
    assert "has 1 partition" in check(oauth_kafka, "OAUTHTLS", tokens(keycloak.token_url, **trusted), topic, tls=tls)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            lambda plain, own: tokens(plain, secret="wrong"),
            r"OAUTHBEARER token.*check `sasl` \(tokenEndpointURL, clientID",
        ),
        (lambda plain, own: tokens(f"{plain}/no"), r"check `sasl` \(tokenEndpointURL"),
        (lambda plain, own: tokens(own), r"check `sasl` \(tokenEndpointURL.*endpointCa\)"),
        (lambda plain, own: tokens(plain, CONNECTOR, CONNECTOR_SECRET), "needs an ACL"),
        (lambda plain, own: {"username": "u", "password": "p"}, r"`sasl.mechanism`"),
    ],
)
def test_who_gets_no_token_or_a_useless_one_hears_it(oauth_kafka, keycloak, keycloak_server, how, message, caplog):
    sasl = how(keycloak.token_url, Keycloak(keycloak_server.https_url).token_url)
    with caplog.at_level(logging.CRITICAL), pytest.raises(Fatal, match=message) as raised:
        check(oauth_kafka, "OAUTH", sasl)
    assert SHORTLIVED_SECRET not in str(raised.value)


def test_a_token_endpoint_that_is_down_may_come_back(oauth_kafka, monkeypatch, caplog):
    monkeypatch.setattr(client, "CHECK_SECONDS", 1.0)
    down = r"OAUTHBEARER token.*check `sasl\.tokenEndpointURL`, and whether it is up"
    with caplog.at_level(logging.CRITICAL), pytest.raises(Retryable, match=down):
        check(oauth_kafka, "OAUTH", tokens("http://127.0.0.1:1/token"))


@pytest.mark.slow
def test_a_flow_outlives_its_tokens(oauth_kafka, keycloak):
    kafka = oauth_kafka.plain
    source, target, name = kafka.create_topic(), kafka.create_topic(), kafka.unique_name("flow")
    access = {"brokers": oauth_kafka.address("OAUTH"), "sasl": tokens(keycloak.token_url)}
    flow = dataflow(
        name, source=("kafka", {**access, "topic": source}), sink=("kafka", {**access, "topic": target, "batchSize": 1})
    )
    produced = 0
    until = time.monotonic() + 2.2 * SHORTLIVED_SECONDS
    with Running(flow.plan()):
        while time.monotonic() < until:
            kafka.produce(source, [json.dumps({"n": produced}).encode()])
            produced += 1
            time.sleep(0.5)
        deadline = time.monotonic() + 20
        while len(kafka.consume_all(target)) < produced and time.monotonic() < deadline:
            time.sleep(0.2)
    assert [json.loads(record.value)["n"] for record in kafka.consume_all(target)] == list(range(produced))
