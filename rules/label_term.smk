rule label_term:
    input:
        split=case_split,
        gram=case_bands("json"),
        blocks=case_bands("npy"),
        own=lambda wildcards: own_file(TERMS[wildcards.term]),
        code=code_of("label-term"),
    output:
        f"{RESULTS}/label_terms/{{case}}/{{term}}.npz",
    log:
        f"{RESULTS}/logs/label_term/{{case}}/{{term}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/label_term/{{case}}/{{term}}.jsonl"
    conda:
        CONDA
    threads: THREADS
    resources:
        mem_mb=growing(lambda wildcards: label_term_mb(*case_sizes(wildcards))),
        runtime=growing(60),
    params:
        n_train=lambda wildcards: CASES[wildcards.case].n_train,
        term=lambda wildcards: TERMS[wildcards.term],
        estimator=lambda wildcards: estimator_option(config, TERMS[wildcards.term]),
    shell:
        "python -m lantk label-term --split {input.split:q} --gram {input.gram[0]:q}"
        " --n-train {params.n_train} --variant {params.term} {params.estimator}"
        " --threads {threads} --out {output:q} > {log:q} 2>&1"
