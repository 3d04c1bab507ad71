"""Airflow connections to a secured Kafka: ours, as its form fills it, and those of Airflow's own Kafka provider."""

import json

import pytest
from airflow.sdk._shared.secrets_masker import redact

from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.get_provider_info import connection_types
from airflow_provider_connect.hooks.kafka import KafkaHook
from airflow_provider_connect.hooks.lookup import airflow_lookup
from tests.services.secure_kafka import PASSWORD, USER


@pytest.fixture
def define(monkeypatch):
    """Define an Airflow connection; returns its id."""

    def define(**parts):
        monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps(parts))
        return "mine"

    return define


def test_the_form_has_tls_and_sasl_with_their_secrets_masked():
    (ours,) = [found for found in connection_types() if found["connection-type"] == "connect_kafka"]
    fields = ours["conn-fields"]
    masked = {name for name, field in fields.items() if field["schema"].get("format") == "password"}
    assert masked >= {"private_key", "key_password", "client_secret"}
    assert {"tls", "ca", "cert", "insecure_skip_verify", "sasl_mechanism", "oauth_endpoint"} <= set(fields) - masked
    assert set(fields["sasl_mechanism"]["schema"]["enum"]) == {"plain", "scram-sha-256", "scram-sha-512", "oauthbearer"}
    assert not any("default" in field["schema"] for field in fields.values()), (
        "a saved form must not switch anything on"
    )


def test_a_connection_by_user_and_password_over_tls(secure_kafka, define):
    conn_id = define(
        conn_type="connect_kafka",
        host=secure_kafka.address("SASLTLS"),
        login=USER,
        password=PASSWORD,
        extra={"sasl_mechanism": "scram-sha-512", "ca": secure_kafka.authority.cert},
    )
    good, message = KafkaHook(conn_id).test_connection()
    assert good, message
    topic = secure_kafka.plain.create_topic()
    producer = KafkaHook(conn_id).producer()
    producer.produce(topic, b"hello")
    assert producer.flush(30) == 0
    assert [record.value for record in secure_kafka.plain.consume_all(topic)] == [b"hello"]


def test_a_connection_by_certificate(secure_kafka, define):
    client = secure_kafka.client
    own = {"cert": client.cert, "private_key": client.encrypted_key("geheim!"), "key_password": "geheim!"}
    conn_id = define(
        conn_type="connect_kafka",
        host=secure_kafka.address("MTLS"),
        extra={"tls": True, "ca": str(secure_kafka.authority.cert_file), **own},
    )
    good, message = KafkaHook(conn_id).test_connection()
    assert good, message
    airflow_lookup(conn_id)
    assert "geheim!" not in redact("the password is geheim!")


def test_a_wrong_password_says_what_to_check(secure_kafka, define):
    conn_id = define(conn_type="connect_kafka", host=secure_kafka.address("SASL"), login=USER, password="geheimnis")
    good, message = KafkaHook(conn_id).test_connection()
    assert not good
    assert "check `sasl`" in message
    assert "geheimnis" not in message


def test_a_connection_of_airflows_own_provider(secure_kafka, define, tmp_path):
    extra = {
        "bootstrap.servers": secure_kafka.address("SASLTLS"),
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": USER,
        "sasl.password": PASSWORD,
        "ssl.ca.location": str(secure_kafka.authority.cert_file),
        "group.id": "theirs",
        "auto.offset.reset": "latest",
        "enable.auto.commit": False,
        "socket.timeout.ms": 10000,
    }
    hook = KafkaHook(define(conn_type="kafka", extra=extra))
    good, message = hook.test_connection()
    assert good, message
    config = hook.config()
    assert config.properties["socket.timeout.ms"] == 10000
    assert PASSWORD not in repr(config)


def test_properties_beside_the_fields_of_our_own_connection(secure_kafka, define):
    extra = {
        "tls": True,
        "ca": secure_kafka.authority.cert,
        "properties": {"client.rack": "a"},
        "team": "unknown to us",
    }
    hook = KafkaHook(define(conn_type="connect_kafka", host=secure_kafka.address("TLS"), extra=extra))
    good, message = hook.test_connection()
    assert good, message
    assert hook.config().properties == {"client.rack": "a"}


def test_one_thing_in_two_ways_is_refused(define):
    extra = {"bootstrap.servers": "k:9092", "sasl.username": "u"}
    with pytest.raises(FlowError, match=r"'properties\.sasl\.username' and 'sasl' are two ways to say the same"):
        KafkaHook(define(conn_type="kafka", login="u", password="p", extra=extra)).config()
