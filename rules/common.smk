# What the rules share: the checked configuration, and what must be known before the DAG exists.
import json

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from lantk.architecture import parse_architecture
from lantk.data import describe, resolve_pair, resolve_sizes

validate(config, "config.schema.yaml")

RESULTS = config["results"].rstrip("/")
VARIANTS = config["variants"]
SEEDS = config["cnn"]["seeds"]

try:
    parse_architecture(config["architecture"])
    if config["task"]["pairs"] is None:
        raise ValueError("task.pairs is null: name at least one class pair")
    DATA = describe(config["data"]["source"], config["data"]["path"])
    RESOLVED = [resolve_pair(DATA, pair) for pair in config["task"]["pairs"]]
    SIZES = {
        pair.slug: resolve_sizes(
            DATA, pair, config["task"]["n_train"], config["task"]["n_test"]
        )
        for pair in RESOLVED
    }
    for pair, (n_train, _) in SIZES.items():
        if "honest" in config["protocols"] and n_train // 2 < config["folds"]:
            raise ValueError(
                f"folds is {config['folds']}, and {pair} has {n_train // 2} train images of each"
                " class: lower folds or raise task.n_train"
            )
    if len(SIZES) < len(RESOLVED):
        raise ValueError("task.pairs names a class pair twice")
except (ValueError, OSError) as error:
    raise WorkflowError(str(error))

# Pair slug -> class numbers, as the verb split reads them.
PAIRS = {pair.slug: [f"#{pair.negative}", f"#{pair.positive}"] for pair in RESOLVED}

# Small jobs are mostly start-up, so they run side by side; large ones take several cores each.
THREADS = 1 if max(n_train for n_train, _ in SIZES.values()) <= 500 else 8
# One float64 Gram block, in MB: what the memory of a job is counted in.
GRAM_MB = max(n * (n + m) for n, m in SIZES.values()) * 8 // 2**20 + 1

CODE = "lantk/"
CONDA = "../envs/lantk.yaml"


wildcard_constraints:
    pair="[A-Za-z0-9_.-]+",
    variant="[a-z0-9-]+",
    seed=r"\d+",
