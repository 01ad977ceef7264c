rule track:
    # The one place that writes to MLflow, so that a local database has one writer.
    input:
        table=rules.table.output.csv,
        markdown=rules.table.output.markdown,
        figures=expand(FIGURE, case=CASES),
        code=code_of("sync"),
    output:
        f"{RESULTS}/tracking.json",
    log:
        f"{RESULTS}/logs/track.log",
    conda:
        CONDA
    resources:
        mlflow=1,
    params:
        config=lambda wildcards: CONFIG_TEXT,
        listing=LISTING,
        cases=list(CASES),
    shell:
        "python -m lantk mlflow sync {params.listing:q} --cases {params.cases}"
        " --config {params.config:q} > {log:q} 2>&1"
