"""Retry policy: how long to wait before the same call is tried again, and when to give up."""

from __future__ import annotations

import random
from dataclasses import dataclass

from airflow_provider_connect.engine.errors import Retryable


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter (Brooker, "Exponential Backoff And Jitter", 2015).

    `attempts` failures in a row without a successful commit in between are given up on; the wait before try n is
    random in [0, min(longest_seconds, first_seconds * 2**n)), but never shorter than what the system asked for.
    """

    attempts: int = 10
    first_seconds: float = 0.1
    longest_seconds: float = 30.0

    def wait(self, failures: int, error: Retryable) -> float | None:
        """Seconds to wait after this many failures in a row (1 for the first); None when it is time to give up."""
        if failures >= self.attempts:
            return None
        longest = min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures, 32))
        return max(error.retry_after or 0.0, random.uniform(0.0, longest))
