"""The lines of a run on standard error: what our code logs, without Dagster's own events."""

import logging
import sys

import dagster as dg

_CONSEQUENCES = ("Dependencies for step ", "Skipping step ")
"""What Dagster logs about each step after the one that failed or had nothing to do."""


class _OurLines(logging.Handler):
    """Writes to whatever standard error is at the time: a progress bar may have taken its place."""

    def emit(self, record: logging.LogRecord) -> None:
        meta = getattr(record, "dagster_meta", {})
        text = str(meta.get("orig_message") or record.getMessage())
        ours = record.levelno >= logging.ERROR or not meta.get("dagster_event")
        if ours and not text.startswith(_CONSEQUENCES):
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


@dg.logger(
    config_schema=dg.Field({"log_level": dg.Field(str, is_required=False, default_value="INFO")}),
    description="Our own lines on standard error.",
)
def console(context: dg.InitLoggerContext) -> logging.Logger:
    """Return the logger of a run's standard error."""
    # Of its own: a named logger would outlive the run, with every handler it was ever given.
    logger = logging.Logger("spell_billing", level=context.logger_config["log_level"])  # noqa: LOG001
    logger.addHandler(_OurLines())
    return logger
