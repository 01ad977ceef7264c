rule fetch:
    # The data are fetched once, before parallel jobs read them.
    input:
        code=code_of("fetch"),
    output:
        f"{RESULTS}/data.json",
    log:
        f"{RESULTS}/logs/fetch.log",
    benchmark:
        f"{RESULTS}/benchmarks/fetch.jsonl"
    conda:
        CONDA
    params:
        source=config["data"]["source"],
        path=lambda wildcards: data_path(),
        # Not for the command: files that change are read again.
        fingerprint=EXPERIMENT.data_fingerprint,
    shell:
        "python -m lantk fetch --source {params.source} {params.path:q} --out {output:q}"
        " > {log:q} 2>&1"


rule split:
    input:
        data=rules.fetch.output,
        code=code_of("split"),
    output:
        f"{RESULTS}/splits/{{task}}.npz",
    log:
        f"{RESULTS}/logs/split/{{task}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/split/{{task}}.jsonl"
    conda:
        CONDA
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        source=config["data"]["source"],
        path=lambda wildcards: data_path(),
        classes=lambda wildcards: CLASSES[wildcards.task],
        # All, where classes may have unequal numbers, which none can say.
        n_train=lambda wildcards: (
            EXPERIMENT.sizes[wildcards.task][0] if config["task"]["n_train"] else "all"
        ),
        n_test=config["task"]["n_test"] or "all",
        balance=["--balance"] * config["task"]["balance"],
        # Classes are taken in file order.
        seed=["--seed", config["task"]["seed"]] if config["task"]["pairs"] else [],
        scaling=config["data"]["scaling"],
        whitening=whitening_option(),
    shell:
        "python -m lantk split --source {params.source} {params.path:q} {params.classes:q}"
        " --n-train {params.n_train} --n-test {params.n_test} {params.balance}"
        " {params.seed} --scaling {params.scaling} {params.whitening} --out {output:q} > {log:q} 2>&1"
