# A family of variants (a label term and its controls, or the kernel and its own) is one job a case.
for name, (shown, members) in EVALUATIONS.items():

    rule:
        name:
            f"evaluate_{name}"
        input:
            split=case_split,
            gram=case_bands("json"),
            blocks=case_bands("npy"),
            label_term=[f"{RESULTS}/label_terms/{{case}}/{shown}.npz"]
            * is_term(members[0]),
            own=of_family(shown, own_file),
            code=code_of("evaluate"),
        output:
            records=[
                f"{RESULTS}/evaluations/{{case}}/{stem}.json"
                for stem in shown_stems(shown, members)
            ],
            predictions=[
                f"{RESULTS}/evaluations/{{case}}/{stem}.csv"
                for stem in shown_stems(shown, members)
            ],
        log:
            f"{RESULTS}/logs/evaluate/{{case}}/{shown}.log",
        benchmark:
            f"{RESULTS}/benchmarks/evaluate/{{case}}/{shown}.jsonl"
        wildcard_constraints:
            family="|".join(Variant.of(family).name for family in members),
        conda:
            CONDA
        threads: THREADS
        resources:
            **GPU,
            mem_mb=growing(family_mb(members[0])),
            runtime=growing(480),
        params:
            n_train=lambda wildcards: CASES[wildcards.case].n_train,
            variants=of_family(shown, FAMILIES.get),
            options=evaluate_options(config, FAMILIES[members[0]]),
            device=config["device"],
            label_term=["--label-term"] * is_term(members[0]),
            folder=f"{RESULTS}/evaluations/{{case}}",
        shell:
            "python -m lantk evaluate --split {input.split:q} --gram {input.gram[0]:q}"
            " --case {wildcards.case} --n-train {params.n_train} --variants {params.variants:q}"
            " {params.label_term} {input.label_term:q} {params.options} --device {params.device}"
            " --threads {threads} --out {params.folder:q} > {log:q} 2>&1"
