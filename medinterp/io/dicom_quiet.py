"""Keeping pydicom's warnings, which quote values of the header, off the screen and out of every log."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unquoted() -> Iterator[None]:
    """Silence pydicom while headers are read, copied or written; also a decorator.

    pydicom says each thing twice, as a warning and as a record of its logger, and converts a value, with what it has
    to say of it, when the value is first looked at.
    """
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before
