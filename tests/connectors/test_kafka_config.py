"""Configuration of the Kafka connector: what is accepted, what librdkafka is told, what a wrong one says."""

import pytest
from confluent_kafka import KafkaError, KafkaException
from pydantic import ValidationError

from airflow_provider_connect.connectors.kafka import KafkaSink, KafkaTransactionalSink, sink
from airflow_provider_connect.connectors.kafka.client import Trouble, common_properties, consumer_properties
from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig, KafkaSourceConfig
from airflow_provider_connect.connectors.kafka.errors import classified
from airflow_provider_connect.engine.errors import Fatal, Fenced, InvalidRecord, Retryable

PEM = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n"


def source(**settings):
    return KafkaSourceConfig.model_validate({"brokers": ["k:9092"], "topic": "t", **settings})


@pytest.mark.parametrize("brokers", ["k1:9092, k2:9092", ["k1:9092", "k2:9092"]])
def test_brokers_are_a_list_or_text(brokers):
    assert source(brokers=brokers).brokers == ["k1:9092", "k2:9092"]


def test_a_stock_airflow_connection_is_understood():
    config = KafkaSourceConfig.model_validate(
        {
            "topic": "t",
            "properties": {
                "bootstrap.servers": "k1:9092,k2:9092",
                "group.id": "g",
                "auto.offset.reset": "latest",
                "enable.auto.commit": "false",
                "security.protocol": "SASL_SSL",
                "client.rack": "a",
            },
        }
    )
    assert (config.brokers, config.consumer_group, config.start) == (["k1:9092", "k2:9092"], "g", "newest")
    assert config.properties == {"security.protocol": "SASL_SSL", "client.rack": "a"}
    sink_config = KafkaSinkConfig.model_validate(
        {"topic": "t", "properties": {"bootstrap.servers": "k", "group.id": "g"}}
    )
    assert sink_config.properties == {}


def test_tls_and_sasl_become_librdkafka_properties(tmp_path):
    path = tmp_path / "ca.pem"
    path.write_text(PEM)
    config = source(
        tls={"caFile": str(path), "cert": PEM, "key": KEY, "keyPassword": "p"},
        sasl={"mechanism": "SCRAM-SHA-512", "username": "u", "password": "geheimnis"},
    )
    found = common_properties(config)
    assert found["security.protocol"] == "SASL_SSL"
    assert (found["ssl.ca.pem"], found["ssl.certificate.pem"], found["ssl.key.pem"]) == (PEM, PEM, KEY)
    assert found["ssl.key.password"] == "p"
    assert found["enable.ssl.certificate.verification"] is True
    assert found["ssl.endpoint.identification.algorithm"] == "https"
    assert (found["sasl.mechanism"], found["sasl.username"], found["sasl.password"]) == (
        "SCRAM-SHA-512",
        "u",
        "geheimnis",
    )
    assert "geheimnis" not in repr(config) and "PRIVATE KEY" not in repr(config)


def test_verification_is_only_off_when_asked():
    assert common_properties(source(tls={}))["enable.ssl.certificate.verification"] is True
    assert common_properties(source(tls={"insecureSkipVerify": True}))["enable.ssl.certificate.verification"] is False
    assert "security.protocol" not in common_properties(source())
    assert common_properties(source(sasl={"username": "u", "password": "p"}))["security.protocol"] == "SASL_PLAINTEXT"


def test_the_group_protocol_decides_which_properties_there_are():
    classic = consumer_properties(source(assignment="range"), "g", Trouble())
    assert classic["partition.assignment.strategy"] == "range"
    modern = consumer_properties(source(groupProtocol="consumer"), "g", Trouble())
    assert not {"partition.assignment.strategy", "session.timeout.ms"} & set(modern)
    assert modern["isolation.level"] == classic["isolation.level"] == "read_committed"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"brokers": []}, "brokers"),
        ({"brokers": " , "}, "brokers"),
        ({"topic": "a:b"}, "topic"),
        ({"topic": ""}, "topic"),
        ({"format": "avro"}, "format 'avro' needs 'schemaRegistry', or else 'avroSchema' or 'avroSchemaFile'"),
        ({"format": "bytes", "rawMode": True}, "rawMode wraps values, but format is"),
        ({"start": "middle"}, "start"),
        ({"properties": {"isolation.level": "read_uncommitted"}}, "'isolation.level' cannot be set"),
        ({"properties": {"enable.auto.commit": "true"}}, "'enable.auto.commit' cannot be set"),
        ({"properties": {"sasl.username": "a"}, "sasl": {"username": "a", "password": "b"}}, "keep one"),
        ({"tls": {"ca": "a", "caFile": "b"}}, "'ca' and 'caFile'"),
        ({"tls": {"cert": "a"}}, "needs both 'cert' and 'key'"),
        ({"sasl": {"mechanism": "gssapi", "username": "u", "password": "p"}}, "mechanism"),
        ({"consumerGroups": "g"}, "consumerGroups"),
    ],
)
def test_a_wrong_source_says_what_is_wrong(settings, message):
    with pytest.raises(ValidationError) as raised:
        source(**settings)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transactionTimeoutSeconds": 5}, "must be longer than batchFlushIntervalSeconds"),
        ({"guarantee": "at-most-once"}, "guarantee"),
        ({"properties": {"acks": "1"}}, "'acks' cannot be set"),
        ({"properties": {"transactional.id": "x"}}, "'transactional.id' cannot be set"),
        ({"compression": "zip"}, "compression"),
    ],
)
def test_a_wrong_sink_says_what_is_wrong(settings, message):
    with pytest.raises(ValidationError) as raised:
        KafkaSinkConfig.model_validate({"brokers": "k", "topic": "t", **settings})
    assert message in str(raised.value)


def test_the_guarantee_chooses_the_class():
    exactly = KafkaSinkConfig(brokers="k", topic="t")
    at_least = KafkaSinkConfig(brokers="k", topic="t", guarantee="at-least-once")
    assert sink.choose(exactly) is KafkaTransactionalSink is KafkaSink.choose(exactly)
    assert sink.choose(at_least) is KafkaSink


def test_a_property_that_librdkafka_does_not_know_is_fatal(kafka):
    made = KafkaSink(
        KafkaSinkConfig(brokers=kafka.bootstrap_servers, topic=kafka.create_topic(), properties={"a.b": 1})
    )
    with pytest.raises(Fatal, match=r"a\.b"):
        made.check()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError._FENCED, Fenced),
        (KafkaError.INVALID_PRODUCER_EPOCH, Fenced),
        (KafkaError.MSG_SIZE_TOO_LARGE, InvalidRecord),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Fatal),
        (KafkaError.SASL_AUTHENTICATION_FAILED, Fatal),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, Fatal),
        (KafkaError._TIMED_OUT, Retryable),
        (KafkaError.NOT_LEADER_FOR_PARTITION, Retryable),
        (KafkaError._TRANSPORT, Retryable),
        (KafkaError._INVALID_ARG, Fatal),
    ],
)
def test_errors_are_sorted_by_what_to_do(code, kind):
    assert isinstance(classified(KafkaException(KafkaError(code))), kind)
