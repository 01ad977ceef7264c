# All architectures of a task in one pass, each into a folder of its own. The kernel is the architecture's,
# or the mean of it over images and their mirror images.
for kernel in GRAMS:

    rule:
        name:
            f"gram{kernel}".replace("-", "_")
        input:
            split=rules.split.output,
            code=code_of("gram"),
        output:
            **{
                f"{kind}_{i}": f"{RESULTS}/grams{kernel}/{{task}}{end}/{{band}}.{ending}"
                for i, end in enumerate(ENDINGS)
                for kind, ending in (("record", "json"), ("block", "npy"))
            },
            cost=f"{RESULTS}/benchmarks/gram{kernel}/{{task}}/{{band}}.jsonl",
        log:
            f"{RESULTS}/logs/gram{kernel}/{{task}}/{{band}}.log",
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
            mem_mb=growing(band_mb(flips=bool(kernel))),
            runtime=growing(960 if kernel else 240),
            scratch_mb=config["kernel"]["memory_mb"] or 0,
        params:
            architectures=[json.dumps(given) for given in EXPERIMENT.architectures],
            device=config["device"],
            band=lambda wildcards: wildcards.band,
            flips=["--flips"] * bool(kernel),
        shell:
            "python -m lantk gram --split {input.split:q} --architecture {params.architectures:q}"
            " {params.flips} --device {params.device} --memory-mb {resources.scratch_mb} --band {params.band}"
            f" --threads {{threads}} --out {GRAM_FOLDERS} --cost {{output.cost:q}} > {{log:q}} 2>&1"
