rule evaluate:
    input:
        split=rules.split.output,
        gram=all_bands(rules.gram.output.record),
        blocks=all_bands(rules.gram.output.block),
        label_term=branch(
            lambda wildcards: wildcards.variant == "cntk",
            then=[],
            otherwise=rules.label_term.output,
        ),
        code=[
            "lantk/architecture.py",
            "lantk/compiled.py",
            "lantk/data.py",
            "lantk/download.py",
            "lantk/errors.py",
            "lantk/evaluate.py",
            "lantk/kernel/bands.py",
            "lantk/kernel/plan.py",
            "lantk/label_terms.py",
            "lantk/pair_features.py",
            "lantk/pair_tiles.py",
            "lantk/predict.py",
            "lantk/provenance.py",
            "lantk/solve.py",
            "lantk/solve_device.py",
            "lantk/sources.py",
            "lantk/storage.py",
        ],
    output:
        record=f"{RESULTS}/evaluations/{{pair}}/{{variant}}.json",
        predictions=f"{RESULTS}/evaluations/{{pair}}/{{variant}}.csv",
    log:
        f"{RESULTS}/logs/evaluate/{{pair}}/{{variant}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{pair}}/{{variant}}.jsonl"
    wildcard_constraints:
        variant="(cntk|lantk-.+)",
    conda:
        CONDA
    threads: THREADS
    resources:
        mem_mb=2000 + 5 * GRAM_MB,
        runtime=240,
    params:
        protocols=config["protocols"],
        honest=config["label_weights"]["honest"],
        oracle=config["label_weights"]["oracle"],
        folds=config["folds"],
        device=config["device"],
        label_term=lambda wildcards, input: (
            ["--label-term", input.label_term] if input.label_term else []
        ),
    shell:
        "python -m lantk evaluate --split {input.split:q} --gram {input.gram:q}"
        " --variant {wildcards.variant} {params.label_term:q} --protocols {params.protocols}"
        " --honest-weights {params.honest} --oracle-weights {params.oracle} --folds {params.folds}"
        " --device {params.device} --threads {threads} --out {output.record:q} > {log:q} 2>&1"
