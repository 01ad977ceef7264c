"""What Snakemake says in the terminal while jobs run: one line a job, which names its case.

No setting of Snakemake does that: it prints four lines a job, none of which says what of. The log
file that it writes keeps them all.
"""

from __future__ import annotations

import logging
from typing import Any

_HANDLER = "DefaultStreamHandler"
_CHATTER = ("Select jobs to execute", "Execute ", "Touching output file")


def shorten_progress() -> None:
    """Print ``7 of 49 steps (14%) done: gram 3-8`` for each job from now on."""
    from snakemake.logging import DefaultFormatter, get_event, logger
    from snakemake_interface_logger_plugins.common import LogEvent

    class OneLine(DefaultFormatter):
        """Format progress with the jobs that it counts."""

        def format_progress(self, message: dict[str, Any]) -> str:
            text = super().format_progress(message)
            names = ", ".join(finished)
            finished.clear()
            return f"{text}: {names}" if names else text

    names: dict[int, str] = {}
    finished: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        event = get_event(record)
        if event == LogEvent.JOB_INFO:
            fields = vars(record)
            names[fields["jobid"]] = " ".join(
                [fields["rule_name"], *map(str, (fields["wildcards"] or {}).values())]
            )
        elif event == LogEvent.JOB_FINISHED:
            finished.append(names.get(vars(record)["job_id"], record.getMessage()))
            return False
        return not record.getMessage().startswith(_CHATTER)

    for handler in logger.handlers:
        # Not one of a plugin or of the log file; what is read here is hidden by `quiet` after that.
        if handler.name == _HANDLER and isinstance(handler.formatter, DefaultFormatter):
            handler.filters.insert(0, keep)
            handler.setFormatter(
                OneLine(handler.formatter.quiet, handler.formatter.show_failed_logs)
            )
