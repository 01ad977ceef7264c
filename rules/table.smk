# Records of one pair: a kernel variant has one, the network one a seed.
RECORDS = [
    record
    for variant in VARIANTS
    for record in (
        expand(rules.cnn.output.record, seed=SEEDS, allow_missing=True)
        if variant == "cnn"
        else expand(rules.evaluate.output.record, variant=variant, allow_missing=True)
    )
]
LISTING = ["--results", RESULTS, "--variants", *VARIANTS, "--seeds", *SEEDS]


rule table:
    input:
        records=expand(RECORDS, pair=PAIRS),
        code=[
            "lantk/evaluate.py",
            "lantk/report.py",
            "lantk/storage.py",
        ],
    output:
        csv=f"{RESULTS}/table.csv",
        markdown=f"{RESULTS}/table.md",
        timings=f"{RESULTS}/timings.csv",
    log:
        f"{RESULTS}/logs/table.log",
    conda:
        CONDA
    params:
        listing=LISTING,
        pairs=list(PAIRS),
        bands=sorted({name for names in BANDS.values() for name in names}),
    shell:
        "python -m lantk table {params.listing:q} --pairs {params.pairs} --bands {params.bands}"
        " > {log:q} 2>&1"


rule figure:
    input:
        records=RECORDS,
        code=["lantk/report.py", "lantk/storage.py"],
    output:
        f"{RESULTS}/figures/{{pair}}.png",
    log:
        f"{RESULTS}/logs/figure/{{pair}}.log",
    conda:
        CONDA
    params:
        listing=LISTING,
    shell:
        "python -m lantk figure {params.listing:q} --pairs {wildcards.pair} --out {output:q}"
        " > {log:q} 2>&1"
