rule html_report:
    # One file with everything that was found; links into MLflow are those of tracking.json.
    input:
        tables=rules.table.output,
        figures=expand(FIGURE, case=CASES),
        overviews=expand(OVERVIEW, kind=KINDS),
        heat_maps=expand(HEAT_MAP, case=CASES, term=SHOWN_TERMS),
        tracking=rules.track.output,
        templates=[
            "lantk/report/templates/report.css",
            "lantk/report/templates/report.html.j2",
            "lantk/report/templates/report.js",
        ],
        code=code_of("report"),
    output:
        report(
            f"{RESULTS}/report.html",
            caption="captions/report.rst",
            category="All on one page",
            labels={"report": "what was found"},
        ),
    log:
        f"{RESULTS}/logs/html_report.log",
    conda:
        CONDA
    params:
        results=lambda wildcards: RESULTS,
        listed=LISTING.to_options(),
    shell:
        "python -m lantk report --results {params.results:q} --out {output:q} > {log:q} 2>&1"
