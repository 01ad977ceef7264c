rule track:
    # The one place that writes to MLflow, so that a local database has one writer.
    input:
        table=rules.table.output.csv,
        markdown=rules.table.output.markdown,
        figures=expand(rules.figure.output, case=CASES),
        code=[
            "lantk/errors.py",
            "lantk/runs.py",
            "lantk/storage.py",
            "lantk/tracking.py",
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
        config=json.dumps(config, sort_keys=True),
        results=subpath(input.table, parent=True),
    shell:
        "python -m lantk track --results {params.results:q} --config {params.config:q}"
        " --out {output:q} > {log:q} 2>&1"
