rule label_term:
    input:
        split=rules.split.output,
        gram=all_bands(rules.gram.output.record),
        blocks=all_bands(rules.gram.output.block),
        code=[
            "lantk/architecture.py",
            "lantk/compiled.py",
            "lantk/data.py",
            "lantk/download.py",
            "lantk/errors.py",
            "lantk/kernel/bands.py",
            "lantk/kernel/plan.py",
            "lantk/label_terms.py",
            "lantk/pair_features.py",
            "lantk/pair_tiles.py",
            "lantk/solve.py",
            "lantk/sources.py",
            "lantk/storage.py",
        ],
    output:
        f"{RESULTS}/label_terms/{{pair}}/{{variant}}.npz",
    log:
        f"{RESULTS}/logs/label_term/{{pair}}/{{variant}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/label_term/{{pair}}/{{variant}}.jsonl"
    conda:
        CONDA
    threads: THREADS
    resources:
        mem_mb=2000 + 3 * GRAM_MB,
        runtime=60,
    shell:
        "python -m lantk label-term --split {input.split:q} --gram {input.gram:q}"
        " --variant {wildcards.variant} --threads {threads} --out {output:q} > {log:q} 2>&1"
