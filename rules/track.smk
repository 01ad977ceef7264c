rule track:
    # The one place that writes to MLflow, so that a local database has one writer.
    input:
        table=rules.table.output.csv,
        markdown=rules.table.output.markdown,
        figures=expand(FIGURE, case=CASES),
        code=[
            "lantk/errors.py",
            "lantk/failures.py",
            "lantk/leaderboard.py",
            "lantk/passwords.py",
            "lantk/statistics.py",
            "lantk/storage.py",
            "lantk/timings.py",
            "lantk/tracking/check.py",
            "lantk/tracking/dashboard.py",
            "lantk/tracking/logged.py",
            "lantk/tracking/reading.py",
            "lantk/tracking/run.py",
            "lantk/tracking/store.py",
            "lantk/tracking/sync.py",
            "lantk/tracking/values.py",
            "lantk/tracking/views.py",
            "lantk/variants.py",
        ],
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
