# What the rules share: the checked configuration, and what must be known before the DAG exists.
import json
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from lantk.errors import LantkError
from lantk.experiment import check_schema, resolve_experiment

try:
    # Our own check has the clearer messages, Snakemake's fills in the defaults.
    check_schema(
        config,
        yaml.safe_load(Path(workflow.basedir, "rules/config.schema.yaml").read_text()),
    )
    validate(config, "config.schema.yaml")
    EXPERIMENT = resolve_experiment(config)
except (LantkError, OSError) as error:
    raise WorkflowError(str(error))

RESULTS = config["results"].rstrip("/")
VARIANTS = config["variants"]
SEEDS = config["cnn"]["seeds"]
# Pair slug -> class numbers, as the verb split reads them.
PAIRS = {
    slug: [f"#{pair.negative}", f"#{pair.positive}"]
    for slug, pair in EXPERIMENT.pairs.items()
}

# Small jobs are mostly start-up, so they run side by side; large ones take several cores each.
THREADS = 1 if max(n_train for n_train, _ in EXPERIMENT.sizes.values()) <= 500 else 8
# Row bands of each pair's Gram matrices.
BANDS = EXPERIMENT.bands
# Both Gram blocks in float64, in MB: what the memory of a job is counted in.
GRAM_MB = max(n * (n + m) for n, m in EXPERIMENT.sizes.values()) * 8 // 2**20 + 1


def all_bands(pattern):
    """Return an input function: the files of all bands of a pair."""
    return lambda wildcards: expand(
        pattern, band=BANDS[wildcards.pair], allow_missing=True
    )


CONDA = "../envs/lantk.yaml"


wildcard_constraints:
    pair="[A-Za-z0-9_.-]+",
    variant="[a-z0-9-]+",
    seed=r"\d+",
    band=r"\d+-of-\d+",
