rule gram:
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
        ],
    output:
        record=f"{RESULTS}/grams/{{pair}}/{{band}}.json",
        block=f"{RESULTS}/grams/{{pair}}/{{band}}.npy",
    log:
        f"{RESULTS}/logs/gram/{{pair}}/{{band}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/gram/{{pair}}/{{band}}.jsonl"
    conda:
        CONDA
    threads: THREADS
    resources:
        mem_mb=lambda wildcards: (
            2000
            + GRAM_MB // len(BANDS[wildcards.pair])
            + (config["kernel"]["memory_mb"] or 256)
        ),
        runtime=240,
        # Not a parameter: the bytes do not depend on it, so nothing is computed again. 0: default.
        scratch_mb=config["kernel"]["memory_mb"] or 0,
    params:
        architecture=json.dumps(config["architecture"]),
        device=config["device"],
        folder=subpath(output.record, parent=True),
    shell:
        "python -m lantk gram --split {input.split:q} --architecture {params.architecture:q}"
        " --device {params.device} --memory-mb {resources.scratch_mb} --band {wildcards.band}"
        " --threads {threads} --out {params.folder:q} > {log:q} 2>&1"
