# A family of variants (a label term and its controls, or the kernel and its own) is one job a case.
for (name, (shown, members)), first in itertools.product(
    EVALUATIONS.items(), range(0, max(1, config["permutations"]), PERMUTATIONS_A_JOB)
):
    outputs = job_stems(shown, members, first)
    permutations = min(PERMUTATIONS_A_JOB, config["permutations"] - first)
    if not outputs:
        continue

    rule:
        name:
            "evaluate_" + evaluation_job(name, first).replace("-", "_")
        input:
            split=case_split,
            gram=case_bands("json", Variant.of(members[0]).gram_ending),
            blocks=case_bands("npy", Variant.of(members[0]).gram_ending),
            # Of shuffled labels, a label term is fitted anew.
            label_term=[f"{RESULTS}/label_terms/{{case}}/{shown}.npz"]
            * (is_term(members[0]) and first == 0),
            own=of_family(shown, own_file),
            code=code_of("evaluate"),
        output:
            records=[f"{RESULTS}/evaluations/{{case}}/{stem}.json" for stem in outputs],
            predictions=[
                f"{RESULTS}/evaluations/{{case}}/{stem}.csv" for stem in outputs
            ],
            fits=[
                f"{RESULTS}/evaluations/{{case}}/{stem}.npz"
                for stem in job_fits(shown, members, first)
            ],
            protocols=touch(protocol_marks(evaluation_job(shown, first))),
        log:
            f"{RESULTS}/logs/evaluate/{{case}}/{evaluation_job(shown, first)}.log",
        benchmark:
            f"{RESULTS}/benchmarks/evaluate/{{case}}/{evaluation_job(shown, first)}.jsonl"
        wildcard_constraints:
            family="|".join(Variant.of(family).name for family in members),
        conda:
            CONDA
        threads: THREADS
        resources:
            **GPU,
            mem_mb=growing(family_mb(members[0], permutations)),
            runtime=growing(480),
            # No parameters: what there is does not change with them.
            permutations=permutations,
            protocols=ASKED_PROTOCOLS,
        params:
            n_train=lambda wildcards: CASES[wildcards.case].n_train,
            variants=of_family(shown, job_variants(first)),
            first=["--first-permutation", first] * (first > 0),
            options=evaluate_options(config, FAMILIES[members[0]]),
            device=config["device"],
            label_term=["--label-term"] * (is_term(members[0]) and first == 0),
            folder=f"{RESULTS}/evaluations/{{case}}",
            marks=old_marks(evaluation_job(shown, first)),
        shell:
            "rm -f {params.marks:q}; python -m lantk evaluate --split {input.split:q} --gram {input.gram[0]:q}"
            " --case {wildcards.case} --n-train {params.n_train} --variants {params.variants:q}"
            " {params.label_term} {input.label_term:q} --permutations {resources.permutations}"
            " {params.first} --protocols {resources.protocols} {params.options} --device {params.device}"
            " --threads {threads} --out {params.folder:q} > {log:q} 2>&1"
