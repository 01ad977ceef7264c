# Networks that are trained alike but for flips of the train images.
for network in NETWORKS:
    weights = f"{RESULTS}/models/{{case}}/{network}-seed{{seed}}.pt"

    rule:
        name:
            network.replace("-", "_")
        input:
            split=case_split,
            code=code_of("cnn"),
        output:
            **{"weights": weights} if MODELS != "none" else {},
            record=f"{RESULTS}/evaluations/{{case}}/{network}-seed{{seed}}.json",
            predictions=f"{RESULTS}/evaluations/{{case}}/{network}-seed{{seed}}.csv",
            protocols=touch(protocol_marks(f"{network}-seed{{seed}}")),
        log:
            f"{RESULTS}/logs/{network}/{{case}}/seed{{seed}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/{network}/{{case}}/seed{{seed}}.jsonl"
        conda:
            CONDA
        threads: THREADS
        resources:
            **GPU,
            mem_mb=growing(lambda wildcards: network_mb(CASES[wildcards.case].n_train)),
            runtime=growing(480),
            protocols=ASKED_PROTOCOLS,
            models=MODELS,
        params:
            variant=network,
            n_train=lambda wildcards: CASES[wildcards.case].n_train,
            architecture=lambda wildcards: json.dumps(
                CASES[wildcards.case].architecture
            ),
            epochs=config["cnn"]["epochs"],
            batch_size=config["cnn"]["batch_size"],
            learning_rate=config["cnn"]["learning_rate"],
            loss=config["cnn"]["loss"],
            targets=target_option(config),
            channels=json.dumps(config["cnn"]["channels"]),
            device=config["device"],
            marks=old_marks(f"{network}-seed{{seed}}"),
            weights=weights,
        shell:
            "rm -f {params.marks:q}; python -m lantk cnn --split {input.split:q} --case {wildcards.case}"
            " --n-train {params.n_train} --architecture {params.architecture:q}"
            " --epochs {params.epochs} --batch-size {params.batch_size}"
            " --learning-rate {params.learning_rate} --loss {params.loss} {params.targets}"
            " --channels {params.channels:q} --seed {wildcards.seed} --device {params.device}"
            " --protocols {resources.protocols} --variant {params.variant} --models {resources.models} --weights {params.weights:q} --threads {threads} --out {output.record:q} > {log:q} 2>&1"
