"""Trying again after a while: each wait is twice the one before, or as long as the server asks."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from medinterp.errors import ConfigError, Unreachable

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Backoff:
    """How often and when a request that found no answer is repeated.

    Args:
        attempts: how often it is made in all.
        first_wait_s: before the second attempt.
        longest_wait_s: no wait is longer, whatever the server asks.
        sleep: what waits; replaced in tests.
    """

    attempts: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigError(f"{self.attempts} attempts; expected at least 1")

    def run(self, request: Callable[[int], Answer]) -> Answer:
        """Make a request until it is answered.

        Args:
            request: called with the number of the attempt, from 1.

        Raises:
            Unreachable: the last attempt's, when all are used up. Other errors end it at once.
        """
        wait_s = self.first_wait_s
        for attempt in range(1, self.attempts):
            try:
                return request(attempt)
            except Unreachable as error:
                self.sleep(min(self.longest_wait_s, max(wait_s, error.wait_s if error.wait_s is not None else 0.0)))
                wait_s *= 2
        return request(self.attempts)
