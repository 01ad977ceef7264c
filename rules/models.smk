# What predicts other images: the fits of evaluations, with the images that they were fitted to.
rule models:
    input:
        split=case_split,
        records=[
            f"{RESULTS}/evaluations/{{case}}/{name}.json" for name in FITTED.values()
        ],
        fits=[f"{RESULTS}/evaluations/{{case}}/{name}.npz" for name in FITTED.values()],
        code=code_of("models"),
    output:
        MODEL,
    log:
        f"{RESULTS}/logs/models/{{case}}.log",
    conda:
        CONDA
    params:
        n_train=lambda wildcards: CASES[wildcards.case].n_train,
        variants=list(FITTED),
        models=MODELS,
        evaluations=lambda wildcards, input: str(Path(input.records[0]).parent),
        folder=f"{RESULTS}/models/{{case}}",
    shell:
        "python -m lantk models --split {input.split:q} --n-train {params.n_train}"
        " --variants {params.variants:q} --evaluations {params.evaluations:q}"
        " --models {params.models} --out {params.folder:q} > {log:q} 2>&1"
