"""The evaluations of a preset in two Parquet files, which are written and read here alone.

``records.parquet`` has a row an evaluation: its case and its name, as a results folder has them,
and the record as JSON, settings and provenance included. ``predictions.parquet`` has a row a test
image of each of them: case, name, index and label of the image, and a column a protocol, null where
an evaluation was not made under it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lantk.cli.files import read_evaluations
from lantk.experiment.records import Record
from lantk.files import writing

Evaluation = tuple[Record, pd.DataFrame]
Evaluations = Mapping[tuple[str, str], Evaluation]
"""Case and name -> record and predictions."""
_KEYS = ["case", "name"]
_COMPRESSION = {"compression": "zstd", "compression_level": 19}


def write_archive(folder: Path, evaluations: Evaluations) -> None:
    """Write evaluations to the two files of a folder, every number as it is."""
    order = sorted(evaluations, key=lambda key: (key[0], f"{key[1]}.json"))
    texts = [json.dumps(evaluations[key][0]) for key in order]
    keys = {name: [key[i] for key in order] for i, name in enumerate(_KEYS)}
    records = pa.table(keys | {"record": texts})
    predictions = pa.concat_tables(
        [_table(key, evaluations[key][1]) for key in order], promote_options="permissive"
    )
    for name, table in (("predictions", predictions), ("records", records)):
        with writing(folder / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, **_COMPRESSION)


def _table(key: tuple[str, str], predictions: pd.DataFrame) -> pa.Table:
    """Return the rows of one evaluation; NaN stays NaN."""
    keys = {name: [value] * len(predictions) for name, value in zip(_KEYS, key, strict=True)}
    columns = {str(name): pa.array(predictions[name].to_numpy()) for name in predictions}
    return pa.table(keys | columns)


def read_archive(folder: Path) -> dict[tuple[str, str], Evaluation]:
    """Return the evaluations in the two files of a folder, in the order of a results folder."""
    records = pq.read_table(folder / "records.parquet").to_pylist()
    predictions = pq.read_table(folder / "predictions.parquet")
    places = predictions.select(_KEYS).to_pandas().groupby(_KEYS, sort=False).indices
    found = {}
    for row in records:
        key, record = (row["case"], row["name"]), json.loads(row["record"])
        part = predictions.select(["index", "label", *record["protocols"]]).take(places[key])
        found[key] = record, part.to_pandas()
    return found


def read_results(folder: Path) -> dict[tuple[str, str], Evaluation]:
    """Return the evaluations of a folder: of records, or of results, finished or not."""
    if (folder / "records.parquet").exists():
        return read_archive(folder)
    paths = sorted(folder.glob("evaluations/*/[!.]*.json"))
    keys = [(path.parent.name, path.stem) for path in paths]
    return dict(zip(keys, read_evaluations(paths), strict=True))


def keep_results(folder: Path, archive: Path) -> None:
    """Add the evaluations of a results folder to an archive, scores to five digits.

    The signs of scores decide, and nothing else of them is read.
    """
    there = read_results(archive)
    for key, (record, predictions) in read_results(folder).items():
        scores = predictions.select_dtypes("float")
        short = scores.map(lambda score: float(f"{score:.5g}"))
        there[key] = record, predictions.assign(**{str(name): short[name] for name in short})
    if there:
        write_archive(archive, there)
