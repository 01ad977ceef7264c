"""Tables of label terms alone, from fabricated evaluations."""

from records import make_predictions, make_record

from lantk.report.blocks import blocks
from lantk.report.comparisons import table_markdown
from lantk.report.leaderboard import leaderboard
from lantk.report.term_tables import term_lines, terms_table, weights_table

ACCURACIES = {"cntk": 0.8, "cntk-rbf": 0.81, "lantk-kr-v1": 0.83}
TASKS = ("3-8", "1-8")


def made(without=(), changes=()):
    """Return the leaderboard of two tasks, of a term with two twins that are worse, and of both."""
    records = [
        make_record(name, accuracy, task=task)
        for task in TASKS
        for name, accuracy in ACCURACIES.items()
        if name not in without
    ]
    for task in TASKS:
        for seed, accuracy in enumerate((0.80, 0.82)):
            name = "lantk-kr-v1-shuffled"
            records.append(make_record(name, accuracy, task=task, seed=seed, validation=0.76))
    for record in records:
        record["diagnostics"] |= {"alignment_z": 0.1 if record["task"] == "3-8" else 0.3}
        record |= dict(changes)
    return leaderboard([(record, make_predictions(record)) for record in records])


def block_of(table, protocol="honest"):
    ((_, block),) = blocks(table[table["protocol"] == protocol])
    return block


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_a_term_stands_beside_the_gaussian_its_twins_and_the_labels():
    """Mean differences, in test and out-of-fold accuracy, and the mean squared alignment."""
    assert texts(terms_table(block_of(made()))) == [
        ["LANTK-KR-V1", "+2.00 ± 0.00", "+2.00 ± 0.00", "+2.00 ± 0.00", "0.05"]
    ]
    assert texts(terms_table(block_of(made(without=["cntk-rbf"]))))[0][1] == "-"


def test_label_gains_stand_at_each_weight():
    """The mean over the twins at every weight above 0, and last at the chosen ones."""
    table = weights_table(block_of(made()))
    assert table.header == ["Label weight", "LANTK-KR-V1"]
    assert [row[0] for row in texts(table)] == ["0.001", "0.01", "0.1", "chosen"]
    assert {row[1] for row in texts(table)} == {"+2.00 ± 0.00"}


def test_records_that_lack_a_field_leave_a_dash():
    """Neither curve nor diagnostics: no table of weights, and no alignment; tables are readable."""
    table = made(changes={"curve": [], "diagnostics": {}})
    assert texts(terms_table(block_of(table)))[0][-1] == "-"
    assert weights_table(block_of(table)) is None
    assert weights_table(block_of(table.drop(columns=["curve", "outcomes"]))) is None
    plain = made(without=["lantk-kr-v1"])
    assert term_lines(block_of(plain[plain["variant"] == "cntk"]), True) == []


def test_a_table_of_weights_stands_once():
    """Under both protocols they are the same test accuracies."""
    text = table_markdown(made())
    assert text.count("| Label weight ") == 1
    assert text.count("| Squared alignment") == 2
