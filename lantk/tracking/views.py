"""How the MLflow dashboard opens: which runs, columns and charts it shows, in which order.

Left to itself, it charts the ten newest runs and every metric by name. A *shared view* says more:
it is a tag of the experiment, with the page's state as JSON, and an address names it.
"""

from __future__ import annotations

import json
from typing import Any

# The label on the left is part of an address; a view is of one results folder.
CHARTS, LIST = "charts", "list"
_TAG = "mlflow.sharedViewState."
_SECTION = "lantk"
_CHARTED = (
    "accuracy_honest",
    "accuracy_oracle",
    "label_gain_honest",
    "label_weight_honest",
    "job_seconds",
)
_COLUMNS = (
    "params.`task`",
    "params.`variant`",
    "metrics.`accuracy_honest`",
    "metrics.`ci_low_honest`",
    "metrics.`ci_high_honest`",
    "metrics.`accuracy_oracle`",
    "metrics.`label_gain_honest`",
    "metrics.`job_seconds`",
)


def view_key(results_id: str, view: str) -> str:
    """Return what an address names a view by: ``viewStateShareKey``."""
    return f"lantk-{results_id}-{view}"


def view_tags(results_id: str) -> dict[str, str]:
    """Return the tags of an experiment that hold the views of a results folder.

    The charts have a bar for each variant, the mean over cases and seeds; the list has a row for
    each run. The best honest accuracy comes first in both.
    """
    shown = {
        "searchFilter": f'tags.state = "current" and tags.results_id = "{results_id}"',
        "orderByKey": "metrics.`accuracy_honest`",
        "orderByAsc": False,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": _COLUMNS,
    }
    charts = shown | {
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": "variant"}],
        },
        "compareRunCharts": [_bars(metric) for metric in _CHARTED],
        "compareRunSections": [
            {"uuid": _SECTION, "name": "Mean over cases and seeds", "display": True, "columns": 2}
        ],
    }
    return {
        _TAG + view_key(results_id, view): json.dumps(state)
        for view, state in ((CHARTS, charts), (LIST, shown))
    }


def _bars(metric: str) -> dict[str, Any]:
    return {
        "uuid": f"lantk-{metric}",
        "type": "BAR",
        "metricKey": metric,
        "displayName": metric,
        "metricSectionId": _SECTION,
        "deleted": False,
        "isGenerated": False,
    }
