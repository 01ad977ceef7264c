rule track:
    # The one place that writes to MLflow, so that a local database has one writer.
    input:
        table=rules.table.output.csv,
        markdown=rules.table.output.markdown,
        figures=expand(FIGURE, case=CASES),
        models=expand(MODEL, case=KEPT_MODELS),
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
        results=lambda wildcards: RESULTS,
        listed=LISTING.to_options(),
    shell:
        "python -m lantk mlflow sync --results {params.results:q} > {log:q} 2>&1"
