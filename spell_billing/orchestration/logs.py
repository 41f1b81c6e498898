"""The lines of a run as people read them: what our code says, without Dagster's own events."""

import logging
import sys
from typing import TextIO

import dagster as dg

_CONSEQUENCES = ("Dependencies for step ", "Skipping step ")
"""What Dagster logs about each step after the one that failed or had nothing to do."""


class _OurLines(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        meta = getattr(record, "dagster_meta", {})
        if str(meta.get("orig_message") or record.getMessage()).startswith(_CONSEQUENCES):
            return False
        return record.levelno >= logging.ERROR or not meta.get("dagster_event")


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {})
        return str(meta.get("orig_message") or record.getMessage())


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to whatever standard error is at the time: a progress bar may have taken its place."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)


@dg.logger(
    config_schema=dg.Field({"log_level": dg.Field(str, is_required=False, default_value="INFO")}),
    description="Our own lines on standard error.",
)
def console(context: dg.InitLoggerContext) -> logging.Logger:
    """Return the logger of a run's standard error."""
    # Of its own: a named logger would outlive the run, with every handler it was ever given.
    logger = logging.Logger("spell_billing", level=context.logger_config["log_level"])  # noqa: LOG001
    handler = _StandardError(sys.stderr)
    handler.addFilter(_OurLines())
    handler.setFormatter(_Plain())
    logger.addHandler(handler)
    return logger
