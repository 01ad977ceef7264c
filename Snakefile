# LANTK: splits -> CNTK Gram matrices -> label terms -> evaluation, networks -> table, figures, MLflow.
from snakemake.utils import min_version

min_version("9.20")


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/split.smk"
include: "rules/gram.smk"
include: "rules/label_term.smk"
include: "rules/evaluate.smk"
include: "rules/cnn.smk"
include: "rules/table.smk"
include: "rules/track.smk"


localrules:
    all,
    fetch,
    table,
    figure,
    overview,
    track,


rule all:
    default_target: True
    input:
        tables=rules.table.output,
        figures=expand(rules.figure.output, case=CASES),
        overviews=expand(rules.overview.output, kind=KINDS),
        heat_maps=expand(rules.heat_map.output, case=CASES, term=SHOWN_TERMS),
        tracking=rules.track.output,


onsuccess:
    # Nothing to show yet when single files were asked for.
    shell(
        "test ! -e {rules.track.output:q} || python -m lantk show --results {RESULTS:q}"
    )
