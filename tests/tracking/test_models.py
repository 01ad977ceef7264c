"""Models in MLflow: loaded and served there, they predict as they do here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
import pytest
from records import make_record, write_record

import lantk
from lantk.estimators.summary import ModelError
from lantk.experiment.records import Listing
from lantk.label_terms.base import LabelTerm
from lantk.tracking.models import model_files
from lantk.tracking.sync import Target, sync, verify

VARIANTS = ("cntk", "lantk-kr-v1")
SHALLOW = [{"conv": {"size": 3}}, "relu", "flatten", "dense"]
FILES = {
    *("MLmodel", "requirements.txt", "python_env.yaml", "input_example.json"),
    *("serving_input_example.json", "model.npz"),
}
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(256, size=(12, 1, 6, 6), dtype=np.uint8)
NAMES = np.array(["bright", "dark"])[(IMAGES[:, 0, 2, 2] > 127).astype(int)]
OPTIONS = {"architecture": SHALLOW, "scaling": "range"}


class Agreement(LabelTerm):
    """A label term of the user's own."""

    fitted_names = ("y_",)

    def fit(self, k_train_train, y, x=None, solve=None):
        """Keep the labels."""
        self.y_ = np.asarray(y, float)
        return self

    def transform(self, k, x=None):
        """Return the product of the nearest train row's label and all of theirs."""
        return self.y_[k.argmax(axis=1)][:, None] * self.y_


@pytest.fixture(scope="module")
def model():
    """Return a fitted classifier."""
    term = {"label_term": "lantk-kr-v1", "label_weight": 0.1}
    return lantk.KernelClassifier(**OPTIONS, **term).fit(IMAGES, NAMES)


@pytest.fixture(scope="module")
def pyfunc():
    """Return `mlflow.pyfunc`, which warns of itself when it is first imported."""
    with warnings.catch_warnings(action="ignore"):
        import mlflow.pyfunc
    return mlflow.pyfunc


@pytest.fixture
def results(tmp_path, model):
    """Return the results of two variants, of which one has its model."""
    folder = tmp_path / "all" / "digits"
    for variant in VARIANTS:
        write_record(folder, make_record(variant))
    save(model, folder)
    return folder


def save(model, results: Path) -> Path:
    path = results / "models" / "3-8" / "lantk-kr-v1.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return path


def target(results: Path, to: dict) -> Target:
    return Target(results, Listing(("3-8",), VARIANTS, 1, (0,)), {"results": "results/d"}, **to)


def current_run(report):
    """Return a client, and the run that should have the model."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(report.uri)
    wanted = "tags.state = 'current' and tags.variant = 'lantk-kr-v1'"
    (run,) = client.search_runs([report.experiment_id], wanted)
    return client, run


def test_a_model_of_a_run_predicts_the_same(results, to, model, monkeypatch, pyfunc):
    """What MLflow loads gives the same classes and scores, has an example and exact versions."""
    client, run = current_run(sync(target(results, to)))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", to["uri"])
    loaded = pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    found = loaded.predict(IMAGES)
    assert found["classes"].tolist() == model.predict(IMAGES).tolist()
    np.testing.assert_array_equal(found["scores"], model.decision_function(IMAGES))
    np.testing.assert_array_equal(loaded.input_example, IMAGES[:2])
    folder = Path(client.download_artifacts(run.info.run_id, "model"))
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == FILES
    needs = dict(
        line.split("==") for line in (folder / "requirements.txt").read_text().splitlines()
    )
    assert list(needs) == ["mlflow", "numpy", "scipy", "numba", "scikit-learn"]
    # As the record says; it knows of no other version than that of NumPy.
    assert (needs["numpy"], needs["mlflow"]) == ("2.4", version("mlflow"))


@pytest.mark.parametrize(
    ("estimator", "x", "y"),
    [
        (lantk.KernelClassifier(**OPTIONS), IMAGES, np.arange(12) % 3),
        (
            lantk.KernelClassifier(image_shape=(1, 6, 6), **OPTIONS),
            IMAGES.reshape(12, 36),
            NAMES == "dark",
        ),
        (lantk.KernelRegressor(), RNG.normal(size=(12, 3)), RNG.normal(size=12)),
        (lantk.KernelRegressor(), RNG.normal(size=(12, 3)), RNG.normal(size=(12, 1))),
    ],
    ids=["three classes", "flattened images", "values", "a column of values"],
)
def test_signature_is_that_of_the_answers(tmp_path, estimator, x, y, pyfunc):
    """Shapes and types that a model promises are those that go in and come out."""
    estimator.fit(x, y).save(tmp_path / "fitted.npz")
    for name, content in model_files(tmp_path / "fitted.npz", {}).items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, file)
        else:
            file.write_text(content)
    loaded = pyfunc.load_model(str(tmp_path / "model"))
    inputs, outputs = loaded.metadata.signature.inputs, loaded.metadata.signature.outputs
    assert (inputs.inputs[0].type, inputs.inputs[0].shape) == (x.dtype, (-1, *x.shape[1:]))
    np.testing.assert_array_equal(loaded.input_example, x[:2])
    answers = loaded.predict(x)
    assert [spec.name for spec in outputs.inputs] == list(answers)
    for spec in outputs.inputs:
        assert (spec.type, spec.shape) == (
            answers[spec.name].dtype,
            (-1, *answers[spec.name].shape[1:]),
        )
    last = list(answers.values())[-1]
    own = estimator.predict if "values" in answers else estimator.decision_function
    np.testing.assert_array_equal(last, own(x))


def test_models_agree_with_the_results(results, to, model):
    """A second sync logs nothing; what is missing in the store is found, and mended in place."""
    where = target(results, to)
    client, run = current_run(sync(where))
    again = sync(where)
    assert (again.created, again.unchanged, again.updated) == (0, 2, 0)
    assert verify(where) == (2, {})
    # The store's own, not a copy.
    folder = Path(client.download_artifacts(run.info.run_id, "")) / "model"
    (folder / "model.npz").unlink()
    missing = "changed: file model/model.npz is not there"
    assert verify(where) == (2, {"3-8 lantk-kr-v1": missing})
    shutil.rmtree(folder)
    assert verify(where) == (
        2,
        {"3-8 lantk-kr-v1": "changed: file model/MLmodel is not there and 5 more"},
    )
    mended = sync(where)
    assert (mended.created, mended.updated) == (0, 1)
    assert verify(where) == (2, {})

    # Another model of the same predictions takes the place of the old one.
    path = save(lantk.KernelClassifier(**OPTIONS).fit(IMAGES, NAMES), results)
    changed = sync(where)
    assert (changed.created, changed.updated) == (0, 1)
    assert (folder / "model.npz").read_bytes() == path.read_bytes()


def test_a_run_whose_model_is_gone_is_logged_anew(results, to):
    """The current run then has none, and the superseded one keeps it."""
    where = target(results, to)
    sync(where)
    (results / "models" / "3-8" / "lantk-kr-v1.npz").unlink()
    report = sync(where)
    assert (report.created, report.superseded) == (1, 1)
    client, run = current_run(report)
    assert "model" not in {file.path for file in client.list_artifacts(run.info.run_id)}
    assert verify(where) == (2, {})


def test_a_model_with_a_label_term_of_ones_own_is_a_plain_file(results, to):
    """No code can be imported for it, so MLflow has the file, which `lantk.load` reads."""
    own = lantk.KernelClassifier(label_term=Agreement, label_weight=0.1, **OPTIONS)
    save(own.fit(IMAGES, NAMES), results)
    client, run = current_run(sync(target(results, to)))
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert "model.npz" in names
    assert "model" not in names
    path = client.download_artifacts(run.info.run_id, "model.npz")
    found = lantk.load(path, label_term=Agreement).decision_function(IMAGES)
    np.testing.assert_array_equal(found, own.decision_function(IMAGES))


def test_a_broken_model_is_named(results, to):
    """Its path is said, and what to do."""
    path = results / "models" / "3-8" / "lantk-kr-v1.npz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"lantk-kr-v1\.npz .*cut short"):
        sync(target(results, to))


@pytest.mark.rest
@pytest.mark.timeout(900)
def test_a_server_answers(results, to, model, tmp_path):
    """`mlflow models serve` returns classes and scores of posted images, and refuses others."""
    _, run = current_run(sync(target(results, to)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", f"runs:/{run.info.run_id}/model", "--port", str(port)]
    log = tmp_path / "log"
    # In a session of its own: the server is a process below this one.
    with log.open("w") as out:
        server = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | {"MLFLOW_TRACKING_URI": to["uri"]},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        opener, address = build_opener(ProxyHandler({})), f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 600
        while True:
            with suppress(URLError, ConnectionError, TimeoutError):
                opener.open(f"{address}/ping", timeout=10).close()
                break
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

        def post(rows) -> dict:
            body = json.dumps({"inputs": rows.tolist()}).encode()
            headers = {"Content-Type": "application/json"}
            request = Request(f"{address}/invocations", body, headers)
            with opener.open(request, timeout=300) as answer:
                return json.loads(answer.read())["predictions"]

        found = post(IMAGES[3:6])
        assert found["classes"] == model.predict(IMAGES[3:6]).tolist()
        assert found["scores"] == model.decision_function(IMAGES[3:6]).tolist()
        with pytest.raises(URLError, match="400") as refusal:
            post(IMAGES[3:6, 0])
        refusal.value.close()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
