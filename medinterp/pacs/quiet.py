"""Keeping other packages' logs, which name patients' identifiers and addresses, out of ours."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_TALKATIVE = ("dicomweb_client", "pynetdicom", "urllib3", "requests", "retrying", "pydicom")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the records of the network packages from every handler of the root logger while a transfer runs."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    before = [(one.propagate, list(one.handlers)) for one in loggers]
    silent = logging.NullHandler()  # without any handler Python prints warnings itself
    try:
        for one in loggers:
            one.propagate, one.handlers = False, [silent]
        yield
    finally:
        for one, (propagate, handlers) in zip(loggers, before, strict=True):
            one.propagate, one.handlers = propagate, handlers
