from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from monai_infoaug.inferers import ErrorModel
from monai_infoaug.inferers.error_prediction import TAILS


def drawn(count: int, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Features, and errors whose scale is the root of 1 + 4 times the square of the first; the other says nothing."""
    rng = np.random.default_rng(seed)
    features = {name: torch.from_numpy(rng.gamma(2, 1, count)) for name in ("told", "idle")}
    features["one"] = torch.ones(count).double()
    scale = (1 + 4 * features["told"].square()).sqrt()
    student = torch.from_numpy(rng.standard_normal((count, 2)) / np.sqrt(rng.chisquare(TAILS, (count, 1)) / TAILS))
    return features, scale * student.norm(dim=1)


def likelihood(weights: np.ndarray, squares: np.ndarray, errors: np.ndarray) -> float:
    scales = squares @ weights
    return float((-np.log(scales) - (TAILS + 2) / 2 * np.log1p(errors**2 / TAILS / scales)).sum())


def test_weights_are_the_likeliest():
    features, errors = drawn(400)
    model = ErrorModel.fit(features, errors)
    squares = torch.stack(list(features.values()), 1).square().numpy()
    mine = np.array([model.weights[name] for name in features])
    best = likelihood(mine, squares, errors.numpy())
    rng = np.random.default_rng(0)
    for _ in range(2000):
        other = np.abs(mine * np.exp(0.3 * rng.standard_normal(3)) + 0.05 * rng.standard_normal(3)) + 1e-9
        assert likelihood(other, squares, errors.numpy()) < best + 0.05
    assert model.weights["told"] == pytest.approx(4, rel=0.3)
    assert model.weights["one"] == pytest.approx(1, rel=0.5)
    assert model.weights["idle"] < 0.3


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_share_of_new_errors_is_within(share):
    model = ErrorModel.fit(*drawn(2000), share)
    features, errors = drawn(5000, 1)
    predicted = model.predict(features)
    for part in predicted.argsort().chunk(4):  # of those that are said to be small, and of those said to be large
        assert (errors[part] <= predicted[part]).double().mean() == pytest.approx(share, abs=0.04)


def test_calibration_keeps_the_weights():
    features, errors = drawn(500)
    model = ErrorModel.fit(features, errors)
    twice = model.calibrated(features, 2 * errors)
    assert twice.weights == model.weights
    assert twice.factor == pytest.approx(2 * model.factor)


def test_shapes_units_and_gaps():
    features, errors = drawn(60)
    model = ErrorModel.fit(features, errors)
    grid = {name: values.reshape(12, 5) for name, values in features.items()}
    known = errors.reshape(12, 5).clone()
    torch.testing.assert_close(ErrorModel.fit(grid, known).predict(grid), model.predict(features).reshape(12, 5))
    micrometres = ErrorModel.fit({name: 1000 * values for name, values in features.items()}, 1000 * errors)
    assert micrometres.factor == pytest.approx(model.factor)
    assert micrometres.weights == pytest.approx(model.weights)
    unknown = {name: torch.cat([values, torch.ones(1)]) for name, values in features.items()}
    some = torch.cat([errors, torch.tensor([torch.nan])])
    assert ErrorModel.fit(unknown, some).weights == pytest.approx(model.weights)
    features["told"][3] = torch.nan
    assert model.predict(features).isnan().nonzero().tolist() == [[3]]


def test_json_and_back():
    features, errors = drawn(50)
    model = ErrorModel.fit(features, errors)
    again = ErrorModel(**json.loads(json.dumps(model.as_json())))
    assert torch.equal(again.predict(features), model.predict(features))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ErrorModel({}), "`weights` must be a number of at least 0 a feature"),
        (lambda: ErrorModel({"a": -1}), "`weights`"),
        (lambda: ErrorModel({"a": 1}, float("nan")), "`factor`"),
        (lambda: ErrorModel.fit({"a": torch.ones(20)}, torch.ones(19)), "`features` must be values of shape"),
        (lambda: ErrorModel.fit({}, torch.ones(19)), "`features`"),
        (lambda: ErrorModel.fit({"a": torch.ones(9)}, torch.ones(9)), "`errors` must be at least 10"),
        (lambda: ErrorModel.fit({"a": torch.ones(20)}, torch.ones(20), 1.0), "`share`"),
        (lambda: ErrorModel({"a": 1, "b": 1}).predict({"a": torch.ones(2)}), r"none of \['b'\]"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
