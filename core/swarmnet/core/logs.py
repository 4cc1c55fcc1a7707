"""How the daemons log: one line an event to stderr, as logfmt for people or JSON for machines.

Events are short phrases, everything that varies is a field. Secrets are SecretBytes, whose repr hides them;
tracebacks carry no local variables.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Final

import structlog
from structlog.typing import Processor

FORMATS: Final = ("logfmt", "json")
LEVELS: Final = ("debug", "info", "warning", "error")
_ALWAYS: Final[Sequence[Processor]] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
)


def configure(form: str, level: str) -> None:
    """Send structlog and the standard library's logging to stderr. KeyError for another level."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    renderer = _renderer(form)
    structlog.configure(
        processors=[*_ALWAYS, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=_ALWAYS,
        )
    )
    logging.basicConfig(handlers=[handler], level=threshold, force=True)


def _renderer(form: str) -> Processor:
    if form == "json":
        return structlog.processors.JSONRenderer(default=repr)
    return structlog.processors.LogfmtRenderer(
        key_order=["timestamp", "level", "event"], drop_missing=True, bool_as_flag=False
    )
