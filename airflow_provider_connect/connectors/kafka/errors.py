"""Kafka's errors, sorted by what to do about them."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from airflow_provider_connect.connectors.kafka.access import maybe_wrong_access, wrong_access
from airflow_provider_connect.engine.errors import ConnectError, Fatal, Fenced, InvalidRecord, Retryable

E = KafkaError

FENCED = frozenset(
    {E._FENCED, E.PRODUCER_FENCED, E.INVALID_PRODUCER_EPOCH, E.TRANSACTION_COORDINATOR_FENCED, E.FENCED_INSTANCE_ID}
)
"""Another client has our name."""

UNKNOWN_TOPIC = frozenset({E._UNKNOWN_TOPIC, E._UNKNOWN_PARTITION, E.UNKNOWN_TOPIC_OR_PART})

NO_LEADER = frozenset(
    {E._NOENT, E.LEADER_NOT_AVAILABLE, E.NOT_LEADER_FOR_PARTITION, E.UNKNOWN_TOPIC_OR_PART, E.OFFSET_NOT_AVAILABLE}
)
"""How offsets are refused while a partition has no leader, or the brokers have not all heard of it."""

REFUSED_RECORD = frozenset(
    {
        E.MSG_SIZE_TOO_LARGE,
        E.INVALID_MSG_SIZE,
        E.RECORD_LIST_TOO_LARGE,
        E.INVALID_RECORD,
        E.INVALID_MSG,
        E.INVALID_TIMESTAMP,
    }
)
"""The record cannot be stored, now or later."""

_REMEDIES = {
    E._AUTHENTICATION: "check `sasl` (mechanism, username, password)",
    E.SASL_AUTHENTICATION_FAILED: "check `sasl` (mechanism, username, password)",
    E.UNSUPPORTED_SASL_MECHANISM: "the brokers do not offer `sasl.mechanism`",
    E.ILLEGAL_SASL_STATE: "check `sasl`",
    E.TOPIC_AUTHORIZATION_FAILED: "this user needs an ACL for the topic (Read and Describe, or Write and Describe)",
    E.GROUP_AUTHORIZATION_FAILED: "this user needs the ACL Read for the consumer group",
    E.CLUSTER_AUTHORIZATION_FAILED: "this user needs the ACL IdempotentWrite or Create for the cluster",
    E.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "this user needs the ACL Write for transactional ids that begin with the "
    "flow's name; `guarantee: at-least-once` does without",
    E.INVALID_TRANSACTION_TIMEOUT: "lower `transactionTimeoutSeconds`, or raise transaction.max.timeout.ms",
    E.INVALID_REPLICATION_FACTOR: "lower `replicationFactor` or `checkpointReplication` to the number of brokers",
    E.POLICY_VIOLATION: "the brokers do not allow such a topic; create it by hand",
    E.UNSUPPORTED_VERSION: "the brokers are too old for this; try `groupProtocol: classic`",
    E.INCONSISTENT_GROUP_PROTOCOL: "other members of the group use another `assignment` or `groupProtocol`; "
    "stop them, or use another `consumerGroup`",
    E._AUTO_OFFSET_RESET: "the position is no longer in the topic (retention, or the topic was made anew), so records "
    "are lost; `outOfRange: oldest` goes on at the oldest there is",
    E.OFFSET_OUT_OF_RANGE: "the position is no longer in the topic; `outOfRange: oldest` goes on at the oldest",
}

_RETRYABLE = frozenset(
    {
        E._TIMED_OUT,
        E._TIMED_OUT_QUEUE,
        E._MSG_TIMED_OUT,
        E._TRANSPORT,
        E._ALL_BROKERS_DOWN,
        E._RESOLVE,
        E._SSL,
        E._WAIT_COORD,
        E._IN_PROGRESS,
        E._MAX_POLL_EXCEEDED,
        E._ASSIGNMENT_LOST,
        E._PURGE_QUEUE,
        E._PURGE_INFLIGHT,
        E._DESTROY,
        E._STATE,
        E.REQUEST_TIMED_OUT,
        E.NETWORK_EXCEPTION,
        E.BROKER_NOT_AVAILABLE,
        E.LEADER_NOT_AVAILABLE,
        E.NOT_LEADER_FOR_PARTITION,
        E.REPLICA_NOT_AVAILABLE,
        E.COORDINATOR_LOAD_IN_PROGRESS,
        E.COORDINATOR_NOT_AVAILABLE,
        E.NOT_COORDINATOR,
        E.NOT_CONTROLLER,
        E.NOT_ENOUGH_REPLICAS,
        E.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        E.KAFKA_STORAGE_ERROR,
        E.CONCURRENT_TRANSACTIONS,
        E.INVALID_TXN_STATE,
        E.TRANSACTION_ABORTABLE,
        E.UNSTABLE_OFFSET_COMMIT,
        E.OUT_OF_ORDER_SEQUENCE_NUMBER,
        E.UNKNOWN_PRODUCER_ID,
        E.INVALID_PRODUCER_ID_MAPPING,
        E.REBALANCE_IN_PROGRESS,
        E.ILLEGAL_GENERATION,
        E.UNKNOWN_MEMBER_ID,
        E.FENCED_MEMBER_EPOCH,
        E.STALE_MEMBER_EPOCH,
        E.UNRELEASED_INSTANCE_ID,
        E.FENCED_LEADER_EPOCH,
        E.UNKNOWN_LEADER_EPOCH,
        E.OFFSET_NOT_AVAILABLE,
        E.ELIGIBLE_LEADERS_NOT_AVAILABLE,
        E.THROTTLING_QUOTA_EXCEEDED,
        E.UNKNOWN_TOPIC_ID,
        E.INCONSISTENT_TOPIC_ID,
    }
)


class UnknownTopic(Fatal):
    """There is no such topic, or we may not know of it."""


def sorted_error(error: KafkaError, doing: str) -> ConnectError:
    """The ConnectError for a librdkafka error; `doing` (a topic, an action) comes first in its message."""
    code, text = error.code(), error.str()
    message = f"{doing}: {text}" if doing else text
    if code in FENCED:
        return Fenced(f"{message}; another worker of this flow has taken over")
    if code in UNKNOWN_TOPIC:
        return UnknownTopic(f"{message}; create the topic, or check `topic`")
    if code in REFUSED_RECORD:
        return InvalidRecord(message)
    if (remedy := maybe_wrong_access(error)) is not None:
        return Retryable(f"{message}; {remedy}")
    if (remedy := wrong_access(error)) is not None:
        return Fatal(f"{message}; {remedy}")
    if code in _REMEDIES:
        return Fatal(f"{message}; {_REMEDIES[code]}")
    if code in _RETRYABLE or error.retriable():
        return Retryable(message)
    return Fatal(f"{message} ({error.name()})")


def classified(error: Exception) -> ConnectError:
    """The ConnectError for whatever the client library raised."""
    if isinstance(error, ConnectError):
        return error
    if isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError):
        return sorted_error(error.args[0], "")
    return Fatal(f"{type(error).__name__}: {error}")
