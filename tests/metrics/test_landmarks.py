from __future__ import annotations

import math

import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, MetricsSaver, StatsHandler, from_engine

from monai_infoaug.metrics import MeanRadialError, SuccessDetectionRate, success_detection_rate

NAN, INF = math.nan, math.inf


def case(dim=2, seed=0):
    """Six images of four landmarks, some without truth."""
    generator = torch.Generator().manual_seed(seed)
    y = 20 * torch.rand(6, 4, dim, generator=generator)
    y_pred = y + 3 * torch.randn(6, 4, dim, generator=generator)
    y[0, 1], y[3, 1, 0], y[4, 2] = NAN, NAN, NAN
    return y_pred, y


def distances(y_pred, y, spacing):
    """{(image, landmark): distance} of the landmarks with truth."""
    return {
        (b, i): math.hypot(*((p - t) * s for p, t, s in zip(y_pred[b][i], y[b][i], spacing, strict=True)))
        for b in range(len(y))
        for i in range(len(y[b]))
        if not any(math.isnan(t) for t in y[b][i])
    }


def mean(values):
    values = list(values)
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("dim", "spacing", "each"), [(2, None, (1, 1)), (2, 0.3, (0.3, 0.3)), (3, (1, 0.5, 2), (1, 0.5, 2))]
)
def test_means_equal_the_definition(dim, spacing, each):
    y_pred, y = case(dim)
    errors = distances(y_pred.tolist(), y.tolist(), each)
    metric, rates = MeanRadialError(spacing), SuccessDetectionRate((2, 3), spacing)
    for batch in (slice(0, 4), slice(4, 6)):
        metric(y_pred[batch], y[batch])
        rates(list(y_pred[batch]), list(y[batch]))  # decollated
    assert metric.aggregate().item() == pytest.approx(mean(errors.values()))
    assert rates.aggregate().tolist() == pytest.approx([mean(e < r for e in errors.values()) for r in (2, 3)])
    for i in range(4):
        of_landmark = [e for (_, j), e in errors.items() if i == j]
        assert metric.aggregate("mean_batch")[i].item() == pytest.approx(mean(of_landmark))
        assert rates.aggregate("mean_batch")[i, 1].item() == pytest.approx(mean(e < 3 for e in of_landmark))
    for b in range(6):
        of_image = [e for (c, _), e in errors.items() if b == c]
        assert metric.aggregate("mean_channel")[b].item() == pytest.approx(mean(of_image))
        assert rates.aggregate("mean_channel")[b, 0].item() == pytest.approx(mean(e < 2 for e in of_image))
    assert metric.aggregate("none").shape == (6, 4)
    assert rates.aggregate("none").shape == (6, 4, 2)
    assert torch.equal(metric.aggregate("none").isnan(), y.isnan().any(-1))
    assert len(metric) == 6
    metric.reset()
    assert len(metric) == 0


def test_rates_equal_counting():
    errors = torch.tensor([[1.0, 3.0, NAN], [2.0, INF, 5.0]])
    known = [[e for e in row if not math.isnan(e)] for row in errors.tolist()]
    counted = torch.tensor([[mean(e < r for e in row) for r in (2, 4)] for row in known])
    torch.testing.assert_close(success_detection_rate(errors, (2, 4), dim=[1]), counted)
    assert success_detection_rate(errors, (2, 4)).tolist() == pytest.approx([1 / 5, 3 / 5])
    assert success_detection_rate(errors, (2, 4), dim=[]).shape == (2, 3, 2)
    assert success_detection_rate(errors[0, 2], (2, 4)).isnan().all()
    assert success_detection_rate(torch.tensor([1, 3]), (2, 1e30)).tolist() == [0.5, 1]


def test_radius_is_strict():
    metric = SuccessDetectionRate(radii=(4.999, 5, 5.001))
    metric(torch.tensor([[[3.0, 4.0]]]), torch.zeros(1, 1, 2))
    assert metric.aggregate().tolist() == [0, 0, 1]


@pytest.mark.parametrize("lost", [NAN, INF, -INF])
def test_a_lost_prediction_is_a_miss_and_an_infinite_error(lost):
    y = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [NAN, NAN]]])
    y_pred = torch.tensor([[[0.0, 0.0], [1.0, lost], [lost, lost]]])
    metric, rate = MeanRadialError(), SuccessDetectionRate(2)
    metric(y_pred, y), rate(y_pred, y)
    assert metric.aggregate().item() == INF
    torch.testing.assert_close(metric.aggregate("mean_batch"), torch.tensor([0, INF, NAN]), equal_nan=True)
    assert rate.aggregate().tolist() == [0.5]


def test_no_truth_at_all_is_nan():
    metric, rate = MeanRadialError(), SuccessDetectionRate()
    metric(torch.zeros(1, 2, 2), torch.full((1, 2, 2), NAN)), rate(torch.zeros(1, 2, 2), torch.full((1, 2, 2), NAN))
    assert metric.aggregate().isnan()
    assert rate.aggregate().isnan().all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.float64])
def test_any_number_type(dtype):
    y_pred, y = torch.tensor([[[3, 4]]], dtype=dtype), torch.zeros(1, 1, 2, dtype=dtype)
    assert MeanRadialError(0.3)(y_pred, y).item() == pytest.approx(1.5, rel=1e-6)


def test_metrics_of_a_monai_engine(tmp_path):
    pytest.importorskip("ignite", reason="evaluators need ignite")
    y_pred, y = case()
    shown = from_engine(["pred", "label"])
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[{"image": y_pred[i : i + 2], "label": y[i : i + 2]} for i in (0, 2, 4)],
        epoch_length=3,
        network=torch.nn.Identity(),
        key_val_metric={"mre": IgniteMetricHandler(MeanRadialError(0.3), output_transform=shown)},
        additional_metrics={
            "sdr": IgniteMetricHandler(SuccessDetectionRate(spacing=0.3), output_transform=shown),
            "sdr2": IgniteMetricHandler(SuccessDetectionRate(2, spacing=0.3), output_transform=shown),
        },
        metric_cmp_fn=lambda current, best: current < best,
        val_handlers=[StatsHandler(iteration_log=False), MetricsSaver(str(tmp_path), metrics="*", metric_details="*")],
    )
    evaluator.run()
    errors = list(distances(y_pred.tolist(), y.tolist(), (0.3, 0.3)).values())
    assert evaluator.state.best_metric == evaluator.state.metrics["mre"] == pytest.approx(mean(errors))
    assert evaluator.state.metrics["sdr2"] == pytest.approx(mean(e < 2 for e in errors))
    assert evaluator.state.metrics["sdr"].shape == (4,)
    assert len((tmp_path / "sdr_raw.csv").read_text().splitlines()) == 7


def test_errors_of_all_processes_count(monkeypatch):
    """Another process, of another batch size, is played by the gathering function."""
    y_pred, y = case()
    other = MeanRadialError()(y_pred[4:], y[4:])
    monkeypatch.setattr(
        "monai.metrics.metric.evenly_divisible_all_gather", lambda mine, concat: torch.cat([mine, other])
    )
    metric = MeanRadialError()
    metric(y_pred[:4], y[:4])
    assert metric.aggregate().item() == pytest.approx(mean(distances(y_pred.tolist(), y.tolist(), (1, 1)).values()))


@pytest.mark.parametrize("metric", [MeanRadialError, SuccessDetectionRate])
@pytest.mark.parametrize(
    ("settings", "inputs", "error"),
    [
        ({"spacing": 0}, None, "`spacing` must be"),
        ({"spacing": (1, NAN)}, None, "`spacing` must be"),
        ({"spacing": "1"}, None, "`spacing` must be"),
        ({"reduction": "median"}, None, "`reduction` must be"),
        ({"reduction": "sum"}, None, "`reduction` must be"),
        ({}, (torch.zeros(1, 2, 2), torch.zeros(1, 3, 2)), "`y_pred` must be"),
        ({}, (torch.zeros(2, 2), torch.zeros(2, 2)), "`y` must be"),
        ({}, (torch.zeros(1, 1, 2), torch.tensor([[[1.0, INF]]])), "`y` must be"),
        ({"spacing": (1, 1, 1)}, (torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)), "`spacing` must be"),
    ],
)
def test_bad_input(metric, settings, inputs, error):
    with pytest.raises(ValueError, match=error):
        metric(**settings)(*inputs)


def test_more_bad_input():
    with pytest.raises(TypeError, match="`y` must be"):
        MeanRadialError()(torch.zeros(1, 2, 2))
    for radii in ((2, 0), (), "2", (2, NAN), (2, "3"), True):
        with pytest.raises(ValueError, match="`radii` must be"):
            SuccessDetectionRate(radii=radii)
    for radii in ("2", [2, "3"], 2, []):
        with pytest.raises(ValueError, match="`radii` must be numbers"):
            success_detection_rate(torch.ones(3), radii)
    for spacing in ("1", (1, "2"), True, NAN, (0.5, 0)):
        with pytest.raises(ValueError, match="`spacing` must be finite and above 0"):
            MeanRadialError(spacing=spacing)
    for reduction in ("sum", 1, ["mean"]):
        with pytest.raises(ValueError, match="`reduction` must be one of"):
            MeanRadialError(reduction=reduction)
    with pytest.raises(ValueError, match="`metric` must be called"):
        MeanRadialError().aggregate()
