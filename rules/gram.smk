rule gram:
    # All architectures of a task in one pass, each into a folder of its own.
    input:
        split=rules.split.output,
        code=[
            "lantk/architecture.py",
            "lantk/compiled.py",
            "lantk/data.py",
            "lantk/download.py",
            "lantk/errors.py",
            "lantk/kernel/bands.py",
            "lantk/kernel/cpu.py",
            "lantk/kernel/cuda.py",
            "lantk/kernel/gram.py",
            "lantk/kernel/plan.py",
            "lantk/kernel/planes.cu",
            "lantk/kernel/sides.py",
            "lantk/kernel/tiles.py",
            "lantk/sources.py",
            "lantk/storage.py",
            "lantk/tasks.py",
        ],
    output:
        records=[f"{RESULTS}/grams/{{task}}{end}/{{band}}.json" for end in ENDINGS],
        blocks=[f"{RESULTS}/grams/{{task}}{end}/{{band}}.npy" for end in ENDINGS],
    log:
        f"{RESULTS}/logs/gram/{{task}}/{{band}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/gram/{{task}}/{{band}}.jsonl"
    conda:
        CONDA
    threads: THREADS
    resources:
        mem_mb=lambda wildcards: (
            2000
            + gram_mb(*EXPERIMENT.sizes[wildcards.task])
            * len(ENDINGS)
            // len(BANDS[wildcards.task])
            + (config["kernel"]["memory_mb"] or 256)
        ),
        runtime=240,
        # Not a parameter: the bytes do not depend on it, so nothing is computed again. 0: default.
        scratch_mb=config["kernel"]["memory_mb"] or 0,
    params:
        architectures=[json.dumps(given) for given in EXPERIMENT.architectures],
        device=config["device"],
        folders=lambda wildcards: [
            f"{RESULTS}/grams/{wildcards.task}{end}" for end in ENDINGS
        ],
    shell:
        "python -m lantk gram --split {input.split:q} --architecture {params.architectures:q}"
        " --device {params.device} --memory-mb {resources.scratch_mb} --band {wildcards.band}"
        " --threads {threads} --out {params.folders:q} > {log:q} 2>&1"
