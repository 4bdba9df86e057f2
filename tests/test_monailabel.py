"""The app for MONAI Label, behind its real server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from monai_infoaug.bundles import find_bundle
from monai_infoaug.data import LandmarkTable, write_landmarks
from tests.commands.scenes import anatomy, folder_of, save_checkpoint

APP = Path(__file__).parents[1] / "docs" / "howto" / "monailabel" / "infoaug"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not APP.exists(), reason="not in a checkout"),
    pytest.mark.skipif(find_spec("monailabel") is None, reason="needs MONAI Label, see docs/howto/monailabel.md"),
]
SECONDS = 240  # that a server may take to start


@pytest.fixture
def given(tmp_path):
    """A folder of one image, and the settings of the app: the image is its own template."""
    images = folder_of(tmp_path / "images", [anatomy((96, 80))])
    settings = {"bundle": "landmark_pretraining", "features": [4] * 5, "pixdim": 0.5, "working_pixdim": 0.5}
    checkpoint = save_checkpoint(tmp_path / "checkpoint.pt", find_bundle("landmark_pretraining"), settings)
    points = {"0": np.array([[12.0, 20.0], [30.0, 33.0]])}
    write_landmarks(tmp_path / "0.mrk.json", LandmarkTable(("a", "b"), points, space="LPS"))
    return {"checkpoint": checkpoint, "template": images / "0.png", "landmarks": tmp_path / "0.mrk.json"}


@pytest.fixture
def server(given, free_port, tmp_path):
    """Address of a server with the app."""
    app, port = shutil.copytree(APP, tmp_path / "infoaug"), free_port()  # a server writes logs beside its app
    told = [word for name, value in given.items() for word in ("--conf", name, str(value))]
    words = ["start_server", "--app", str(app), "--studies", str(given["template"].parent), *told]
    command = [sys.executable, "-m", "monailabel.main", *words, "--host", "127.0.0.1", "--port", str(port)]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
        try:
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.terminate()
            process.wait(20)


def answer(address: str, process: subprocess.Popen, path: str, method: str = "GET") -> dict:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with urlopen(Request(address + path, method=method), timeout=SECONDS) as response:
                return json.load(response)
        except URLError as error:
            if not isinstance(error.reason, ConnectionError) or time.monotonic() > deadline:
                raise
        assert process.poll() is None, "the server has ended"
        time.sleep(0.5)


def test_a_request_finds_the_landmarks(server):
    info = answer(*server, "/info/")
    assert (info["name"], info["models"]["landmarks"]["labels"]) == ("monai_infoaug", ["a", "b"])
    assert info["models"]["landmarks"]["dimension"] == 2
    found = answer(*server, "/infer/landmarks?image=0&output=json", "POST")
    assert [each["label"] for each in found["landmarks"]] == ["a", "b"]
    assert found["space"] == "LPS"
    positions = [each["position"] for each in found["landmarks"]]
    np.testing.assert_allclose(positions, [[12.0, 20.0], [30.0, 33.0]], atol=1.0)  # it finds itself, to a cell or two


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(APP))
    from main import LandmarkTask

    with pytest.raises(ValueError, match="--conf template FILE --conf landmarks FILE"):
        LandmarkTask({"checkpoint": "c.pt"})
