# What the rules share: the checked configuration, and what must be known before the DAG exists.
import itertools
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

from lantk.kernel.grammar import parse_architecture
from lantk.errors import LantkError
from lantk.experiment.checks import check_settings, fill_in, read_braces
from lantk.experiment.config import resolve_experiment
from lantk.experiment.job_options import (
    after_kernel_options,
    estimator_option,
    evaluate_options,
    target_option,
)
from lantk.experiment.records import (
    MARK,
    Listing,
    keep_listing,
    mark_protocols,
    warn_of_other_images,
)
from lantk.experiment.overviews import CASE_FIGURES, OVERVIEWS, overview_kinds
from lantk.experiment.settings import PROTOCOLS, expand_paths
from lantk.workflow.code import code_of
from lantk.workflow.resources import (
    after_kernels_mb,
    count_threads,
    evaluation_mb,
    gram_mb,
    growing,
    heat_map_mb,
    label_term_mb,
    network_mb,
)
from lantk.experiment.variants import (
    NETWORK_FAMILY,
    PERMUTATIONS_A_JOB,
    evaluation_job,
    first_of_job,
    is_term,
    own_file,
)
from lantk.variant import NETWORKS, Variant

try:
    given = workflow.config_settings
    update_config(config, read_braces(given.config_args, given.config))
    check_settings(config)
    fill_in(config)
    expand_paths(config)
    EXPERIMENT = resolve_experiment(config)
    for family in (f for f in EXPERIMENT.families if Variant.of(f).module is not None):
        if not workflow.is_main_process:
            break  # a job of a cluster reads this again, and tries out the one that it needs
        # Imported here: what it needs takes a second to load, and most experiments have none.
        from lantk.label_terms.trial import load_term_class

        load_term_class(Variant.of(family).term)
except (LantkError, OSError) as error:
    raise WorkflowError(str(error))

if workflow.is_main_process:
    other = warn_of_other_images(Path(config["results"]), config["data"])
    for warning in [*EXPERIMENT.warnings, *[other] * bool(other)]:
        print(f"warning: {warning}", file=sys.stderr)

RESULTS = config["results"]
# Texts that may hold braces, in which Snakemake looks for wildcards unless a function returns them.
CONFIG_TEXT = json.dumps(config, sort_keys=True)
TASKS, CASES = EXPERIMENT.tasks, EXPERIMENT.cases
FAMILIES = EXPERIMENT.families
SEEDS = config["cnn"]["seeds"]
# What rules and the verb table name alike: the variants that have results, in the table's order.
VARIANTS = EXPERIMENT.variants
# What tables, figures and runs depend on beside their records; verbs read it in listing.json.
LISTING = Listing(
    tuple(CASES),
    tuple(VARIANTS),
    config["permutations"],
    tuple(SEEDS),
    tuple(config["protocols"]),
)


def prepare():
    """Say what the results should hold; take over results that have no marks of protocols."""
    keep_listing(Path(RESULTS), LISTING, config)
    mark_protocols(Path(RESULTS), LISTING)


# Slug -> classes by number, as the verb split reads them.
CLASSES = {
    slug: ["--pair" if len(task.numbers) == 2 else "--classes"]
    + [f"#{number}" for number in task.numbers]
    for slug, task in TASKS.items()
}
# Where several architectures are listed, the folders of their Gram matrices end in their names.
ENDINGS = [""]
if len(EXPERIMENT.architectures) > 1:
    ENDINGS = [f".{name}" for name in EXPERIMENT.architectures]
# The same folders as the command that fills them has them.
# Kernels over flips have Gram matrices of their own.
GRAMS = sorted({""} | {Variant.of(family).gram_ending for family in FAMILIES})
GRAM_FOLDERS = " ".join(
    f'"$(dirname {{output.record_{i}:q}})"' for i in range(len(ENDINGS))
)

# Small jobs run side by side; large ones take several cores each.
THREADS = count_threads(max(case.n_train for case in CASES.values()))
# What a job asks a cluster for: where it may do without a GPU, it must not wait for one.
GPU = {"gpu": 1} if config["device"] == "cuda" else {}
# Row bands of each task's Gram matrices.
BANDS = EXPERIMENT.bands


def data_path():
    """Return the options with the path of the data and the layout of arrays, if there are any."""
    options = {"--path": config["data"]["path"], "--layout": config["data"]["layout"]}
    return [text for option in options.items() if option[1] for text in option]


def whitening_option():
    """Return the option that whitens images, if they are to be."""
    zca = config["data"]["whitening"]["zca"]
    return [] if zca is None else ["--whitening", zca]


def case_sizes(wildcards):
    """Return what the memory of a job hangs on: n_train and n_test of its case, and the largest n_train."""
    case = CASES[wildcards.case]
    return case.n_train, case.n_test, EXPERIMENT.sizes[case.task][0]


def band_mb(flips):
    """Return a function of wildcards: the memory of a job that computes a band."""
    return lambda wildcards: gram_mb(
        *EXPERIMENT.sizes[wildcards.task],
        n_architectures=len(ENDINGS),
        n_bands=len(BANDS[wildcards.task]),
        scratch_mb=config["kernel"]["memory_mb"],
        flips=flips,
    )


def family_mb(family, n_permutations):
    """Return a function of wildcards: the memory of a job that evaluates a family."""
    return lambda wildcards: evaluation_mb(
        FAMILIES[family], n_permutations, *case_sizes(wildcards)
    )


def case_split(wildcards):
    """Return the split that the images of a case are the first of."""
    return f"{RESULTS}/splits/{CASES[wildcards.case].task}.npz"


def case_bands(ending, of_kernel=""):
    """Return an input function: the files of all bands of a case, by their ending and the kernel's."""
    return lambda wildcards: [
        f"{RESULTS}/grams{of_kernel}/{CASES[wildcards.case].gram}/{band}.{ending}"
        for band in BANDS[CASES[wildcards.case].task]
    ]


# As a resource, since it is no parameter: a protocol less computes nothing again.
ASKED_PROTOCOLS = " ".join(config["protocols"])


def protocol_marks(job, protocols=config["protocols"]):
    """Return empty files, one for each protocol: that of one more is missing, and computed."""
    return [
        MARK.format(results=RESULTS, case="{case}", job=job, protocol=name)
        for name in protocols
    ]


def old_marks(job):
    """Return the marks that a job deletes first: also those of protocols that it does not evaluate."""
    return protocol_marks(job, PROTOCOLS)


# Name in paths -> label term; those of the user's own are module:Class.
TERMS = {Variant.of(family).name: family for family in FAMILIES if is_term(family)}
# Figures over all cases; of Gram matrices one a case, with the first label term that is evaluated.
KINDS = overview_kinds(EXPERIMENT)
SHOWN_TERMS = [name for name, term in TERMS.items() if term in VARIANTS][:1]

# Rule -> the family's name in its paths, and the families that it evaluates. Those of the user's own
# that have the same controls share a rule: planning takes the number of files times that of rules.
# Label permutations beyond the first few have jobs of their own, so that more of them compute no others.
NAMED = {Variant.of(family).name: family for family in FAMILIES}
EVALUATIONS = {}
for name, family in NAMED.items():
    if Variant.of(family).is_own_term:
        controls = [Variant.of(variant).control for variant in FAMILIES[family]]
        of_rule = "_".join(["own", *(control or "term" for control in controls)])
        EVALUATIONS.setdefault(of_rule, ("{family}", []))[1].append(family)
    elif family not in (*NETWORKS, NETWORK_FAMILY):
        EVALUATIONS[re.sub("[^a-z0-9]", "_", name)] = (name, [family])


def job_stems(shown, members, first):
    """Return the stems of what one job evaluates of a family, by its name in paths."""
    variants = map(Variant.of, FAMILIES[members[0]])
    found = [
        v.stem(number)
        for v in variants
        for number in v.numbers(config["permutations"], SEEDS)
        if first_of_job(number) == first
    ]
    return [stem.replace(Variant.of(members[0]).name, shown, 1) for stem in found]


def job_fits(shown, members, first):
    """Return the stems of the fits that a job keeps: of unshuffled variants, so in its first job."""
    names = [FITTED[v] for v in FAMILIES[members[0]] if v in FITTED] * (first == 0)
    return [name.replace(Variant.of(members[0]).name, shown, 1) for name in names]


def of_family(shown, function):
    """Return an input or parameter function: that of the family, which may be a wildcard."""
    return lambda wildcards: function(NAMED[wildcards.get("family", shown)])


def job_variants(first):
    """Return a function of a family: what a job evaluates of it."""
    return lambda family: [
        variant
        for variant in FAMILIES[family]
        if first == 0 or Variant.of(variant).is_shuffled
    ]


# Variants whose fits are kept beside their records, under the honest choice, and then as models.
IS_HONEST = "honest" in config["protocols"]
MODELS = config["models"] if IS_HONEST else "none"
FITTED = {
    variant: Variant.of(variant).name
    for variant in itertools.chain(*FAMILIES.values())
    if Variant.of(variant).makes_model and IS_HONEST
}
MODEL = f"{RESULTS}/models/{{case}}/models.json"
KEPT_MODELS = CASES if FITTED and MODELS != "none" else []


NETWORK_KERNELS = FAMILIES.get(NETWORK_FAMILY, [])

# Layers of the deepest architecture, each with a part of its own in a network's kernel.
MOST_LAYERS = max(
    len(parse_architecture(item).layer_names) for item in EXPERIMENT.architectures
)

CONDA = "../envs/lantk.yaml"


wildcard_constraints:
    task="|".join(map(re.escape, TASKS)),
    case="|".join(map(re.escape, CASES)),
    term="|".join(TERMS) or "none",
    kind="|".join(OVERVIEWS),
    seed=r"\d+",
    band=r"\d+-of-\d+",
