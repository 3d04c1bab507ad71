"""Ownership: how a transactional sink takes a split over from whoever had it, at once and without a lock.

With every position the transactional.id of its owner is stored, in the same transaction. A stored entry may only be
replaced by a producer with its owner's transactional.id (`<flow>.unowned` where there is none), so the brokers' epochs
make every replacement a compare-and-set. Whoever claims a split

    1. initialises a producer under the old owner's id, which aborts what that one had open, and fences it;
    2. reads what is decided now;
    3. writes itself in as the owner with that same producer.

If anybody else does so in between, our producer is fenced in turn and we start over. Nothing waits for a transaction
to time out, also after kill -9.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import KafkaException

from airflow_provider_connect.connectors.kafka.errors import FENCED, classified
from airflow_provider_connect.connectors.kafka.ledgers import Entry, PositionStore
from airflow_provider_connect.connectors.kafka.writer import Writer
from airflow_provider_connect.engine.errors import Fenced, Retryable

_LONGEST_PAUSE = 2.0


def take_over(
    store: PositionStore,
    flow: str,
    me: str,
    splits: tuple[str, ...],
    initialised: Callable[[str], Writer],
    seconds: float,
) -> dict[str, Entry]:
    """Become the owner of `splits`; returns their entries. `initialised` makes a producer with a transactional.id.

    Retryable if others keep claiming them for so many seconds.
    """
    until = time.monotonic() + seconds
    pause = 0.05
    while (entries := _attempt(store, flow, me, splits, initialised, until)) is None:
        if time.monotonic() > until:
            raise Retryable(f"claiming {', '.join(splits)} of flow '{flow}': others kept claiming them too")
        time.sleep(random.uniform(0.0, pause))
        pause = min(_LONGEST_PAUSE, 2 * pause)
    return entries


def _attempt(
    store: PositionStore,
    flow: str,
    me: str,
    splits: tuple[str, ...],
    initialised: Callable[[str], Writer],
    until: float,
) -> dict[str, Entry] | None:
    """One try; None if somebody else was quicker."""
    unowned = f"{flow}.unowned"
    producers: dict[str, Writer] = {}
    try:
        owners = {unowned} | store.glance(splits)
        entries: dict[str, Entry] = {}
        while missing := owners - producers.keys() - {me}:
            for owner in sorted(missing):
                producers[owner] = initialised(owner)
            entries = all_of(splits, store.read(splits, until - time.monotonic()))
            owners = {entry.owner or unowned for entry in entries.values()}
        changes: dict[str, dict[str, Entry]] = defaultdict(dict)
        for split, entry in entries.items():
            if entry.owner != me:
                changes[entry.owner or unowned][split] = Entry(entry.position, me)
        for owner, change in changes.items():
            producers[owner].producer.begin_transaction()
            store.stage(producers[owner].producer, change)
            producers[owner].commit()
        # What was staged for a split without a position may have given it one.
        return all_of(splits, store.read(splits, until - time.monotonic())) if changes else entries
    except SystemError:  # see Writer.reason; only a fenced producer has a fatal error here
        return None
    except (KafkaException, Fenced) as error:
        if isinstance(error, Fenced) or error.args[0].code() in FENCED:
            return None
        raise classified(error) from error
    finally:
        for producer in producers.values():
            producer.close()


def all_of(splits: Iterable[str], entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """An entry for each split, an empty one where nothing is stored."""
    return {split: entries.get(split, Entry()) for split in splits}
