# All kernels of the networks of one seed: they are taken along the same trainings.
rule after_kernel:
    input:
        split=case_split,
        code=code_of("after-kernels"),
    output:
        records=[
            f"{RESULTS}/evaluations/{{case}}/{variant}-seed{{seed}}.json"
            for variant in NETWORK_KERNELS
        ],
        predictions=[
            f"{RESULTS}/evaluations/{{case}}/{variant}-seed{{seed}}.csv"
            for variant in NETWORK_KERNELS
        ],
        protocols=touch(protocol_marks("after-kernel-seed{seed}")),
    log:
        f"{RESULTS}/logs/after-kernel/{{case}}/seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/after-kernel/{{case}}/seed{{seed}}.jsonl"
    conda:
        CONDA
    threads: THREADS
    resources:
        **GPU,
        mem_mb=growing(
            lambda wildcards: after_kernels_mb(MOST_LAYERS, *case_sizes(wildcards))
        ),
        runtime=growing(480),
        protocols=ASKED_PROTOCOLS,
    params:
        n_train=lambda wildcards: CASES[wildcards.case].n_train,
        architecture=lambda wildcards: json.dumps(CASES[wildcards.case].architecture),
        variants=NETWORK_KERNELS,
        batch_size=config["cnn"]["batch_size"],
        learning_rate=config["cnn"]["learning_rate"],
        loss=config["cnn"]["loss"],
        targets=target_option(config),
        channels=json.dumps(config["cnn"]["channels"]),
        options=after_kernel_options(config, NETWORK_KERNELS),
        device=config["device"],
        marks=old_marks("after-kernel-seed{seed}"),
        folder=f"{RESULTS}/evaluations/{{case}}",
    shell:
        "rm -f {params.marks:q}; python -m lantk after-kernels --split {input.split:q} --case {wildcards.case}"
        " --n-train {params.n_train} --architecture {params.architecture:q}"
        " --variants {params.variants:q} --batch-size {params.batch_size}"
        " --learning-rate {params.learning_rate} --loss {params.loss} {params.targets}"
        " --channels {params.channels:q} --seed {wildcards.seed} --device {params.device}"
        " --protocols {resources.protocols} {params.options} --threads {threads}"
        " --out {params.folder:q} > {log:q} 2>&1"
