"""Kafka with TLS and SASL on a real broker: how to get in, and what it says of whoever does not."""

import json
import logging

import pytest

from airflow_provider_connect.connectors.kafka import KafkaSink, KafkaSource, client
from airflow_provider_connect.connectors.kafka.access import Sasl, Tls, _warn, security_properties
from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig, KafkaSourceConfig
from airflow_provider_connect.engine.errors import Fatal, Retryable
from airflow_provider_connect.engine.flow import DataFlow, dataflow
from airflow_provider_connect.engine.plan import Limits
from airflow_provider_connect.engine.worker import Worker
from tests.services.secure_kafka import PASSWORD, STRANGER, STRANGERS_PASSWORD, USER
from tests.services.tls import Authority

ALICE = {"username": USER, "password": PASSWORD}
WRONG = {**ALICE, "password": "wrong"}


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """An authority that the broker does not know."""
    return Authority(tmp_path_factory.mktemp("strangers"))


def certificates(kafka, *, as_files=False, password=None):
    """`tls` with our own certificate."""
    client = kafka.client
    if as_files:
        return {
            "caFile": str(kafka.authority.cert_file),
            "certFile": str(client.cert_file),
            "keyFile": str(client.key_file),
        }
    key = client.encrypted_key(password) if password else client.key
    return {
        "ca": kafka.authority.cert,
        "cert": client.cert,
        "key": key,
        **({"keyPassword": password} if password else {}),
    }


WAYS = {
    "tls": lambda kafka: ("TLS", {"tls": {"ca": kafka.authority.cert}}),
    "tls by host name": lambda kafka: ("TLS", {"tls": {"ca": str(kafka.authority.cert_file)}}),
    "certificates": lambda kafka: ("MTLS", {"tls": certificates(kafka)}),
    "certificate files": lambda kafka: ("MTLS", {"tls": certificates(kafka, as_files=True)}),
    "encrypted key": lambda kafka: ("MTLS", {"tls": certificates(kafka, password="open sesame")}),
    "plain": lambda kafka: ("SASL", {"sasl": ALICE}),
    "scram-256": lambda kafka: ("SASL", {"sasl": {**ALICE, "mechanism": "scram-sha-256"}}),
    "plain over tls": lambda kafka: ("SASLTLS", {"tls": {"ca": kafka.authority.cert}, "sasl": ALICE}),
    "scram-512 over tls": lambda kafka: (
        "SASLTLS",
        {"tls": {"ca": kafka.authority.cert}, "sasl": {**ALICE, "mechanism": "SCRAM-SHA-512"}},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_there_are_many_ways_to_get_in(secure_kafka, way):
    listener, how = WAYS[way](secure_kafka)
    host = "localhost" if "host name" in way else "127.0.0.1"
    settings = {"brokers": secure_kafka.address(listener, host), "topic": secure_kafka.plain.create_topic(), **how}
    assert "has 1 partition" in KafkaSource(KafkaSourceConfig.model_validate(settings)).check()


@pytest.mark.parametrize("way", ["encrypted key", "scram-256", "plain over tls"])
def test_a_flow_gets_in_at_both_ends(secure_kafka, way):
    kafka = secure_kafka.plain
    source, target = kafka.create_topic(), kafka.create_topic()
    kafka.produce(source, [b'{"n": 1}', b'{"n": 2}'])
    listener, how = WAYS[way](secure_kafka)
    access = {"brokers": secure_kafka.address(listener), **how}
    flow = dataflow(
        kafka.unique_name("flow"),
        source=("kafka", {**access, "topic": source}),
        sink=("kafka", {**access, "topic": target}),
    )
    assert Worker(flow.plan(), Limits(mode="drain")).run().records == 2
    assert [record.value for record in kafka.consume_all(target)] == [b'{"n": 1}', b'{"n": 2}']


REFUSED = [
    ("SASL", lambda k, s: {"sasl": WRONG}, Fatal, r"Invalid username or password.*`sasl`"),
    (
        "SASLTLS",
        lambda k, s: {
            "tls": {"ca": k.authority.cert},
            "sasl": {**ALICE, "mechanism": "scram-sha-256", "password": "x"},
        },
        Fatal,
        r"invalid credentials.*`sasl` \(mechanism, username, password\)",
    ),
    ("TLS", lambda k, s: {"tls": {"ca": s.cert}}, Fatal, r"certificate verify failed.*check `tls\.ca`"),
    ("TLS", lambda k, s: {"tls": {}}, Fatal, r"certificate verify failed.*check `tls\.ca`"),
    (
        "ELSEWHERE",
        lambda k, s: {"tls": {"ca": k.authority.cert}},
        Fatal,
        r"certificate verify failed.*for the host names in `brokers`",
    ),
    (
        "MTLS",
        lambda k, s: {"tls": {"ca": k.authority.cert}},
        Fatal,
        r"want a client certificate.*`tls\.cert` and `tls\.key`",
    ),
    (
        "MTLS",
        lambda k, s: {"tls": {"ca": k.authority.cert, "cert": (c := s.client("eve")).cert, "key": c.key}},
        Fatal,
        r"want a client certificate that they know",
    ),
    (
        "MTLS",
        lambda k, s: {"tls": {"ca": k.authority.cert, "cert": k.client.cert, "key": s.key}},
        Fatal,
        r"`tls\.key` is not the key of `tls\.cert`",
    ),
    (
        "MTLS",
        lambda k, s: {"tls": {**certificates(k, password="right"), "keyPassword": "wrong"}},
        Fatal,
        r"check `tls\.keyPassword`",
    ),
    ("TLS", lambda k, s: {"tls": {"ca": "/no/such/file.pem"}}, Fatal, r"check `tls\.ca`: it must be PEM, or the path"),
    (
        "MTLS",
        lambda k, s: {"tls": {**certificates(k), "key": "not PEM"}},
        Fatal,
        r"check `tls\.key`: it must be PEM",
    ),
    (
        "MTLS",
        lambda k, s: {"tls": {**certificates(k), "cert": "not PEM"}},
        Fatal,
        r"check `tls\.cert`: it must be PEM",
    ),
    ("TLS", lambda k, s: {}, Retryable, r"it may want TLS or SASL.*`tls`.*`sasl`.*`brokers`"),
    ("SASL", lambda k, s: {}, Retryable, r"it may want TLS or SASL.*`tls`.*`sasl`.*`brokers`"),
    ("SASLTLS", lambda k, s: {"sasl": ALICE}, Retryable, r"it may want TLS.*`tls`"),
    ("SASLTLS", lambda k, s: {"tls": {"ca": k.authority.cert}}, Retryable, r"it may want TLS or SASL"),
    ("PLAINTEXT", lambda k, s: {"tls": {"ca": k.authority.cert}}, Retryable, r"may speak no TLS: check `tls`"),
    ("PLAINTEXT", lambda k, s: {"sasl": ALICE}, Fatal, r"takes no SASL: check `sasl`"),
    ("SASL", lambda k, s: {"sasl": {"username": STRANGER, "password": STRANGERS_PASSWORD}}, Fatal, r"needs an ACL"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_who_does_not_get_in_hears_which_field_to_look_at(secure_kafka, strangers, number, caplog, monkeypatch):
    monkeypatch.setattr(client, "CHECK_SECONDS", 1.5)
    listener, how, kind, message = REFUSED[number]
    settings = {"brokers": secure_kafka.address(listener), "topic": "t", **how(secure_kafka, strangers)}
    with caplog.at_level(logging.CRITICAL), pytest.raises(kind, match=message) as raised:
        KafkaSource(KafkaSourceConfig.model_validate(settings)).check()
    assert PASSWORD not in str(raised.value)
    assert "PRIVATE KEY" not in str(raised.value)


def test_a_sink_hears_the_same(secure_kafka):
    settings = {"brokers": secure_kafka.address("SASL"), "topic": "t", "sasl": {**ALICE, "password": "wrong"}}
    with pytest.raises(Fatal, match=r"check `sasl`"):
        KafkaSink(KafkaSinkConfig.model_validate(settings)).check()


def test_verification_can_be_switched_off_and_the_log_warns(secure_kafka, strangers, caplog):
    topic, brokers = secure_kafka.plain.create_topic(), secure_kafka.address("ELSEWHERE")
    _warn.cache_clear()
    config = KafkaSourceConfig.model_validate(
        {"brokers": brokers, "topic": topic, "tls": {"ca": strangers.cert, "insecureSkipVerify": True}}
    )
    with caplog.at_level(logging.WARNING):
        assert "answers" in KafkaSource(config).check()
        assert "answers" in KafkaSource(config).check()
    warned = [record.getMessage() for record in caplog.records if "insecureSkipVerify" in record.getMessage()]
    assert len(warned) == 1, "once per process and cluster"
    assert brokers in warned[0]


def test_every_secret_of_the_specification_comes_from_a_connection(secure_kafka, monkeypatch, tmp_path):
    """The sample of the specification, with what its Kubernetes Secrets hold as Airflow connections."""
    kafka = secure_kafka.plain
    topic, target, group = kafka.create_topic(), kafka.create_topic(), kafka.unique_name("group")
    kafka.produce(topic, [b'{"n": 1}'])
    client = secure_kafka.client
    secrets = {
        "brokers": f"127.0.0.1:1,{secure_kafka.address('SASLTLS')}",
        "mtls": secure_kafka.address("MTLS"),
        "topic": topic,
        "target": target,
        "consumerGroup": group,
        "username": USER,
        "password": PASSWORD,
        "ca.crt": secure_kafka.authority.cert,
        "ca.path": str(secure_kafka.authority.cert_file),
        "client.crt": client.cert,
        "client.key": str(client.key_file),
    }
    connection = json.dumps({"conn_type": "generic", "extra": secrets})
    monkeypatch.setenv("AIRFLOW_CONN_TEAM.KAFKA_CREDENTIALS", connection)
    monkeypatch.setenv("AIRFLOW_CONN_KAFKA_CREDENTIALS", connection)
    manifest = """
apiVersion: dataflow.dataflow.io/v1
kind: DataFlow
metadata: {name: NAME}
spec:
  source:
    type: kafka
    kafka:
      brokersSecretRef: {name: kafka-credentials, key: brokers}
      topicSecretRef: {name: kafka-credentials, key: topic}
      consumerGroupSecretRef: {name: kafka-credentials, key: consumerGroup}
      sasl:
        mechanism: scram-sha-256
        usernameSecretRef: {name: kafka-credentials, key: username}
        passwordSecretRef: {name: kafka_credentials, namespace: team, key: password}
      tls:
        caSecretRef: {name: kafka-credentials, key: ca.path}
  sink:
    type: kafka
    kafka:
      brokersSecretRef: {name: kafka-credentials, key: mtls}
      topicSecretRef: {name: kafka-credentials, key: target}
      tls:
        caSecretRef: {name: kafka-credentials, key: ca.crt}
        certSecretRef: {name: kafka-credentials, key: client.crt}
        keySecretRef: {name: kafka-credentials, key: client.key}
""".replace("NAME", kafka.unique_name("flow"))
    flow = DataFlow.load(manifest)
    assert Worker(flow.plan(), Limits(mode="drain")).run().records == 1
    assert [record.value for record in kafka.consume_all(target)] == [b'{"n": 1}']
    assert kafka.committed_offsets(topic, group) == {0: 1}


# --- without a broker


def test_tls_is_spoken_once_anything_is_said_about_it():
    assert security_properties(None, None) == {}
    assert security_properties(Tls(), None)["security.protocol"] == "SSL"
    assert security_properties(Tls(enabled=False, ca="x"), None) == {}
    assert security_properties(Tls(enabled=False), Sasl(username="u", password="p"))["security.protocol"] == (
        "SASL_PLAINTEXT"
    )


def test_tokens_are_asked_for_by_librdkafka(strangers):
    sasl = Sasl.model_validate(
        {
            "mechanism": "OAUTHBEARER",
            "tokenEndpointURL": "https://k/token",
            "username": "id",
            "clientSecret": "secret",
            "scope": "kafka",
            "extensions": {"logicalCluster": "lkc-1", "identityPoolId": "pool-1"},
            "endpointCa": strangers.cert,
        }
    )
    assert security_properties(None, sasl) == {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": "https://k/token",
        "sasl.oauthbearer.client.id": "id",
        "sasl.oauthbearer.client.secret": "secret",
        "sasl.oauthbearer.scope": "kafka",
        "sasl.oauthbearer.extensions": "logicalCluster=lkc-1,identityPoolId=pool-1",
        "https.ca.pem": strangers.cert,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"username": "u"}, "mechanism 'plain' needs 'password'"),
        ({"mechanism": "scram-sha-512"}, "needs 'username' and 'password'"),
        ({"mechanism": "oauthbearer"}, "needs 'tokenEndpointURL' and 'clientID' and 'clientSecret'"),
        (
            {"mechanism": "oauthbearer", "tokenEndpointURL": "keycloak/token", "clientID": "a", "clientSecret": "b"},
            "URL",
        ),
        ({"username": "u", "password": "p", "tokenEndpointURL": "https://k"}, "'tokenEndpointURL' is for mechanism"),
    ],
)
def test_what_a_mechanism_needs(settings, message):
    with pytest.raises(ValueError, match=message):
        Sasl.model_validate(settings)
