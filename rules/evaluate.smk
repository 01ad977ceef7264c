# A family of variants (a label term and its controls, or the kernel and its own) is one job a case.
for family, variants in FAMILIES.items():
    if family == "cnn":
        continue

    rule:
        name:
            f"evaluate_{re.sub('[^a-z0-9]', '_', variant_name(family))}"
        input:
            split=case_split,
            gram=case_bands("json"),
            blocks=case_bands("npy"),
            label_term=expand(
                f"{RESULTS}/label_terms/{{case}}/{{term}}.npz",
                term=[name for name in TERMS if TERMS[name] == family],
                allow_missing=True,
            ),
            own=own_file(family),
            code=[
                "lantk/architecture.py",
                "lantk/compiled.py",
                "lantk/contract.py",
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
                "lantk/products.py",
                "lantk/provenance.py",
                "lantk/sketch.py",
                "lantk/solve.py",
                "lantk/solve_device.py",
                "lantk/sources.py",
                "lantk/statistics.py",
                "lantk/storage.py",
                "lantk/tasks.py",
                "lantk/variants.py",
            ],
        output:
            records=[
                f"{RESULTS}/evaluations/{{case}}/{stem}.json"
                for stem in stems(variants, config["permutations"], SEEDS)
            ],
            predictions=[
                f"{RESULTS}/evaluations/{{case}}/{stem}.csv"
                for stem in stems(variants, config["permutations"], SEEDS)
            ],
        log:
            f"{RESULTS}/logs/evaluate/{{case}}/{variant_name(family)}.log",
        benchmark:
            f"{RESULTS}/benchmarks/evaluate/{{case}}/{variant_name(family)}.jsonl"
        conda:
            CONDA
        threads: THREADS
        resources:
            mem_mb=family_mb(variants),
            runtime=480,
        params:
            n_train=lambda wildcards: CASES[wildcards.case].n_train,
            variants=variants,
            options=evaluate_options(config, variants),
            device=config["device"],
            label_term=["--label-term"] * is_term(family),
            folder=f"{RESULTS}/evaluations/{{case}}",
        shell:
            "python -m lantk evaluate --split {input.split:q} --gram {input.gram:q}"
            " --case {wildcards.case} --n-train {params.n_train} --variants {params.variants:q}"
            " {params.label_term} {input.label_term:q} {params.options} --device {params.device}"
            " --threads {threads} --out {params.folder:q} > {log:q} 2>&1"
