"""What a workflow prints while it runs."""

import logging

import pytest

from lantk.workflow.progress import shorten_progress

snakemake_logging = pytest.importorskip("snakemake.logging")


def test_progress_names_the_jobs_that_it_counts(monkeypatch):
    """A finished job is one line with its rule and wildcards; other handlers see every record."""
    from snakemake.settings.enums import Quietness
    from snakemake_interface_logger_plugins.common import LogEvent

    shown, kept = [], []

    class Stream(logging.Handler):
        def emit(self, record):
            shown.append(self.format(record))

    class File(logging.Handler):
        def emit(self, record):
            kept.append(record.getMessage())

    logger = logging.Logger("workflow")
    stream = Stream()
    stream.name = "DefaultStreamHandler"
    stream.setFormatter(snakemake_logging.DefaultFormatter([Quietness.RULES]))
    stream.addFilter(snakemake_logging.DefaultFilter([Quietness.RULES], False, False, False, False))
    logger.addHandler(stream)
    logger.addHandler(File())
    monkeypatch.setattr(snakemake_logging, "logger", logger)
    shorten_progress()

    job = {"event": LogEvent.JOB_INFO, "jobid": 7, "rule_name": "gram"}
    logger.info("Select jobs to execute...")
    logger.info("rule", extra=job | {"wildcards": {"gram": "3-8", "band": "1-of-2"}})
    logger.info("Execute 1 jobs...", extra={"event": LogEvent.JOB_STARTED, "jobs": [7]})
    logger.info("Finished jobid: 7", extra={"event": LogEvent.JOB_FINISHED, "job_id": 7})
    logger.info("", extra={"event": LogEvent.PROGRESS, "done": 1, "total": 4})
    logger.warning("a warning")
    assert shown == ["1 of 4 steps (25%) done: gram 3-8 1-of-2", "a warning"]
    assert len(kept) == 6
