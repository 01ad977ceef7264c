rule cnn:
    input:
        split=rules.split.output,
        code=[
            "lantk/architecture.py",
            "lantk/data.py",
            "lantk/download.py",
            "lantk/errors.py",
            "lantk/evaluate.py",
            "lantk/network.py",
            "lantk/provenance.py",
            "lantk/sources.py",
            "lantk/storage.py",
        ],
    output:
        record=f"{RESULTS}/evaluations/{{pair}}/cnn-seed{{seed}}.json",
        predictions=f"{RESULTS}/evaluations/{{pair}}/cnn-seed{{seed}}.csv",
    log:
        f"{RESULTS}/logs/cnn/{{pair}}/seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/cnn/{{pair}}/seed{{seed}}.jsonl"
    conda:
        CONDA
    threads: THREADS
    resources:
        mem_mb=4000 + GRAM_MB,
        runtime=480,
    params:
        architecture=json.dumps(config["architecture"]),
        epochs=config["cnn"]["epochs"],
        batch_size=config["cnn"]["batch_size"],
        learning_rate=config["cnn"]["learning_rate"],
        channels=json.dumps(config["cnn"]["channels"]),
        device=config["device"],
        protocols=config["protocols"],
    shell:
        "python -m lantk cnn --split {input.split:q} --architecture {params.architecture:q}"
        " --epochs {params.epochs} --batch-size {params.batch_size}"
        " --learning-rate {params.learning_rate} --channels {params.channels:q}"
        " --seed {wildcards.seed} --device {params.device} --protocols {params.protocols}"
        " --variant cnn --threads {threads} --out {output.record:q} > {log:q} 2>&1"
