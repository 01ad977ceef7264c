# LANTK: splits -> CNTK Gram matrices -> label terms -> evaluation, networks -> table, figures, MLflow.
import sys

from snakemake.utils import min_version

from lantk.workflow.failures import inactive_environment, resume_command
from lantk.workflow.lease import hold_while_executing
from lantk.workflow.progress import shorten_progress

min_version("9.20")


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/split.smk"
include: "rules/gram.smk"
include: "rules/label_term.smk"
include: "rules/evaluate.smk"
include: "rules/models.smk"
include: "rules/cnn.smk"


if NETWORK_KERNELS:

    include: "rules/after_kernel.smk"


include: "rules/table.smk"
include: "rules/track.smk"
include: "rules/report.smk"


localrules:
    all,
    fetch,
    split,
    models,
    table,
    figure,
    overview,
    track,
    html_report,


# One workflow at a time writes to these results; its jobs end with it.
hold_while_executing(workflow, RESULTS, prepare)
shorten_progress()

# For what is printed at the end, also where nothing has begun: what has results, and the command
# that goes on.
TERMINAL = ["--results", RESULTS, *LISTING.to_options()]
ENVIRONMENT = inactive_environment()
RESUME = resume_command(sys.argv, ENVIRONMENT)
# What is printed has to work in the shell that is left, which may not have activated it.
ACTIVATE = f"  . {ENVIRONMENT}/bin/activate\n" if ENVIRONMENT else ""


rule all:
    default_target: True
    input:
        tables=rules.table.output,
        figures=expand(FIGURE, case=CASES),
        overviews=expand(OVERVIEW, kind=KINDS),
        heat_maps=expand(HEAT_MAP, case=CASES, term=SHOWN_TERMS),
        models=expand(MODEL, case=KEPT_MODELS),
        tracking=rules.track.output,
        report=rules.html_report.output,


onsuccess:
    # Nothing to show yet when single files were asked for; a reader of the output that has seen
    # enough and closes it (status 141), such as head, is no failure.
    shell(
        "test ! -e {rules.html_report.output:q} || ( python -m lantk table {TERMINAL:q} &&"
        " printf '\\nReport, to open in a browser: %s\\n' {rules.html_report.output:q} &&"
        " python -m lantk mlflow links --short --results {RESULTS:q} &&"
        " {{ test -z {ACTIVATE:q} || printf 'In this shell first:\\n%s' {ACTIVATE:q}; }} ) ||"
        " test $? -eq 141"
    )


onerror:
    # What failed, then the same in MLflow and in the report, which a failed job keeps from being
    # written; that one of them fails too must not hide the others.
    shell(
        "python -m lantk failures {TERMINAL:q} --resume {RESUME:q} >&2 ||"
        " python -m lantk mlflow sync {TERMINAL:q} --config {CONFIG_TEXT:q} >&2 ||"
        " true; python -m lantk report {TERMINAL:q} --out {rules.html_report.output:q} 2> /dev/null &&"
        " printf 'What is there so far: %s\n' {rules.html_report.output:q} >&2 || true"
    )
