rule gram:
    input:
        split=rules.split.output,
        code=[
            "lantk/architecture.py",
            "lantk/data.py",
            "lantk/download.py",
            "lantk/errors.py",
            "lantk/kernel/cpu.py",
            "lantk/kernel/gram.py",
            "lantk/kernel/plan.py",
            "lantk/kernel/sides.py",
            "lantk/kernel/tiles.py",
            "lantk/sources.py",
            "lantk/storage.py",
        ],
    output:
        record=f"{RESULTS}/grams/{{pair}}/gram.json",
        blocks=[
            f"{RESULTS}/grams/{{pair}}/train_train.npy",
            f"{RESULTS}/grams/{{pair}}/test_train.npy",
        ],
    log:
        f"{RESULTS}/logs/gram/{{pair}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/gram/{{pair}}.jsonl"
    conda:
        CONDA
    threads: THREADS
    resources:
        mem_mb=2000 + GRAM_MB,
        runtime=240,
    params:
        architecture=json.dumps(config["architecture"]),
        device=config["device"],
    shell:
        "python -m lantk gram --split {input.split:q} --architecture {params.architecture:q}"
        " --device {params.device} --threads {threads} --out {output.record:q} > {log:q} 2>&1"
