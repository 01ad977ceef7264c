# The records of one case, in the order of the table.
RECORDS = [f"{RESULTS}/evaluations/{{case}}/{stem}.json" for stem in LISTING.stems]
# What says which protocols were evaluated, of all its jobs.
MARKS = [mark for job in LISTING.jobs for mark in protocol_marks(job)]
# Figures by their paths: outputs that are marked for a report cannot be expanded.
FIGURE = f"{RESULTS}/figures/{{case}}.png"
OVERVIEW = f"{RESULTS}/figures/{{kind}}.png"
HEAT_MAP = f"{RESULTS}/figures/{{case}}/{{term}}.png"


rule table:
    input:
        records=expand(RECORDS, case=CASES),
        protocols=expand(MARKS, case=CASES),
        code=code_of("collect"),
    output:
        csv=report(
            f"{RESULTS}/table.csv",
            caption="captions/table.rst",
            category="Tables",
            labels={"table": "accuracies"},
        ),
        markdown=f"{RESULTS}/table.md",
        timings=report(
            f"{RESULTS}/timings.csv",
            caption="captions/timings.rst",
            category="Tables",
            labels={"table": "time and memory"},
        ),
        exponents=report(
            f"{RESULTS}/exponents.csv",
            caption="captions/exponents.rst",
            category="Tables",
            labels={"table": "error against n"},
        ),
    log:
        f"{RESULTS}/logs/table.log",
    conda:
        CONDA
    params:
        results=lambda wildcards: RESULTS,
        listed=LISTING.to_options(),
        bands=sorted({name for names in BANDS.values() for name in names}),
    shell:
        "python -m lantk collect --results {params.results:q} --bands {params.bands} > {log:q} 2>&1"


rule figure:
    input:
        records=RECORDS,
        code=code_of("figure"),
    output:
        report(
            FIGURE,
            caption="captions/figure.rst",
            category="Figures, case by case",
            labels={"case": "{case}", "figure": "accuracy against label weight"},
        ),
    log:
        f"{RESULTS}/logs/figure/{{case}}.log",
    conda:
        CONDA
    params:
        results=lambda wildcards: RESULTS,
        listed=replace(LISTING, cases=()).to_options(),
        caption=lambda wildcards: f"**{wildcards.case}**: {CASE_FIGURES['weight'][1]}",
    shell:
        "python -m lantk figure --results {params.results:q} --cases {wildcards.case}"
        " --out {output:q} > {log:q} 2>&1"


rule overview:
    input:
        table=rules.table.output.csv,
        code=code_of("figure"),
    output:
        report(
            OVERVIEW,
            caption="captions/figure.rst",
            category="Figures, all cases",
            labels={"figure": "{kind}"},
        ),
    log:
        f"{RESULTS}/logs/figure/{{kind}}.log",
    conda:
        CONDA
    params:
        results=lambda wildcards: RESULTS,
        listed=LISTING.to_options(),
        caption=lambda wildcards: OVERVIEWS[wildcards.kind].text,
    shell:
        "python -m lantk figure --results {params.results:q} --kind {wildcards.kind}"
        " --out {output:q} > {log:q} 2>&1"


rule heat_map:
    # Of any case and label term, where it is asked for.
    input:
        split=case_split,
        gram=case_bands("json"),
        blocks=case_bands("npy"),
        label_term=rules.label_term.output,
        evaluation=f"{RESULTS}/evaluations/{{case}}/{{term}}.json",
        code=code_of("heat-map"),
    output:
        report(
            HEAT_MAP,
            caption="captions/figure.rst",
            category="Figures, case by case",
            labels={"case": "{case}", "figure": "K, Z and K + lambda Z, {term}"},
        ),
    log:
        f"{RESULTS}/logs/heat_map/{{case}}/{{term}}.log",
    conda:
        CONDA
    resources:
        mem_mb=growing(lambda wildcards: heat_map_mb(*case_sizes(wildcards))),
        runtime=growing(60),
    params:
        n_train=lambda wildcards: CASES[wildcards.case].n_train,
        term=lambda wildcards: TERMS[wildcards.term],
        protocols=config["protocols"],
        estimator=lambda wildcards: estimator_option(config, TERMS[wildcards.term]),
        caption=lambda w: f"**{w.case}, {w.term}**: {CASE_FIGURES['heat_map'][1]}",
    shell:
        "python -m lantk heat-map --split {input.split:q} --gram {input.gram[0]:q}"
        " --case {wildcards.case} --n-train {params.n_train} --variant {params.term}"
        " {params.estimator} --protocols {params.protocols} --label-term {input.label_term:q} --evaluation {input.evaluation:q}"
        " --out {output:q} > {log:q} 2>&1"
