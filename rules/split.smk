rule fetch:
    # The data are fetched once, before parallel jobs read them.
    input:
        code=[
            "lantk/data.py",
            "lantk/download.py",
            "lantk/errors.py",
            "lantk/sources.py",
            "lantk/storage.py",
        ],
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
        path=["--path", config["data"]["path"]] if config["data"]["path"] else [],
        # Not for the command: files that change are read again.
        fingerprint=EXPERIMENT.data_fingerprint,
    shell:
        "python -m lantk fetch --source {params.source} {params.path:q} --out {output:q}"
        " > {log:q} 2>&1"


rule split:
    input:
        data=rules.fetch.output,
        code=[
            "lantk/data.py",
            "lantk/download.py",
            "lantk/errors.py",
            "lantk/sources.py",
            "lantk/storage.py",
        ],
    output:
        f"{RESULTS}/splits/{{pair}}.npz",
    log:
        f"{RESULTS}/logs/split/{{pair}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/split/{{pair}}.jsonl"
    conda:
        CONDA
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        source=config["data"]["source"],
        path=["--path", config["data"]["path"]] if config["data"]["path"] else [],
        pair=lambda wildcards: PAIRS[wildcards.pair],
        n_train=config["task"]["n_train"] or "all",
        n_test=config["task"]["n_test"] or "all",
        seed=config["task"]["seed"],
    shell:
        "python -m lantk split --source {params.source} {params.path:q} --pair {params.pair:q}"
        " --n-train {params.n_train} --n-test {params.n_test} --seed {params.seed}"
        " --out {output:q} > {log:q} 2>&1"
