rule gram:
    # All architectures of a task in one pass, each into a folder of its own.
    input:
        split=rules.split.output,
        code=code_of("gram"),
    output:
        **{
            f"{kind}_{i}": f"{RESULTS}/grams/{{task}}{end}/{{band}}.{ending}"
            for i, end in enumerate(ENDINGS)
            for kind, ending in (("record", "json"), ("block", "npy"))
        },
        cost=f"{RESULTS}/benchmarks/gram/{{task}}/{{band}}.jsonl",
    log:
        f"{RESULTS}/logs/gram/{{task}}/{{band}}.log",
    # With --cache gram, bands are shared between results folders and work trees. So every output has
    # a name, parameters hold no path, and the job writes its cost itself, where others have a
    # benchmark.
    cache: "hash-omit-software"
    conda:
        CONDA
    threads: THREADS
    resources:
        **GPU,
        # Not a parameter: the bytes do not depend on it, so nothing is computed again. 0: default.
        mem_mb=growing(
            lambda wildcards: gram_mb(
                *EXPERIMENT.sizes[wildcards.task],
                n_architectures=len(ENDINGS),
                n_bands=len(BANDS[wildcards.task]),
                scratch_mb=config["kernel"]["memory_mb"],
            )
        ),
        runtime=growing(240),
        scratch_mb=config["kernel"]["memory_mb"] or 0,
    params:
        architectures=[json.dumps(given) for given in EXPERIMENT.architectures],
        device=config["device"],
        band=lambda wildcards: wildcards.band,
    shell:
        "python -m lantk gram --split {input.split:q} --architecture {params.architectures:q}"
        " --device {params.device} --memory-mb {resources.scratch_mb} --band {params.band}"
        f" --threads {{threads}} --out {GRAM_FOLDERS} --cost {{output.cost:q}} > {{log:q}} 2>&1"
