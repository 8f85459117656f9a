"""Rules on a model's own metrics."""

from __future__ import annotations

from collections.abc import Iterator

from tritonkit.modelconfig.rules.rule import Found, Rules, Subject, at

rules = Rules(early=True, needs="model_metrics")

_UNSEEN = "the server of the tests is older than this field"


@rules.rule(
    "MET01",
    "a metric is controlled, and not said which",
    triton="metric control must specify 'metric_identifier'",
    instead="metric_identifier: {{family: nv_inference_first_response_histogram_ms}}",
    unseen=_UNSEEN,
)
def metrics_are_identified(model: Subject) -> Iterator[Found]:
    for index, control in enumerate(model.config.model_metrics.metric_control):
        if not control.HasField("metric_identifier"):
            yield at("model_metrics", "metric_control", index)


@rules.rule(
    "MET02",
    "a metric is controlled by no family",
    triton="metric identifier must specify non-empty 'family'",
    instead="family: nv_inference_first_response_histogram_ms",
    unseen=_UNSEEN,
)
def metrics_have_families(model: Subject) -> Iterator[Found]:
    for index, control in enumerate(model.config.model_metrics.metric_control):
        if control.HasField("metric_identifier") and not control.metric_identifier.family:
            yield at("model_metrics", "metric_control", index, "metric_identifier")


@rules.rule(
    "MET03",
    "a metric is controlled, and not said how",
    triton="metric control must specify 'histogram_options'",
    instead="histogram_options: {{buckets: [10, 100, 1000]}}",
    unseen=_UNSEEN,
)
def metrics_have_options(model: Subject) -> Iterator[Found]:
    for index, control in enumerate(model.config.model_metrics.metric_control):
        if not control.HasField("histogram_options"):
            yield at("model_metrics", "metric_control", index)


@rules.rule(
    "MET04",
    "a histogram has no buckets",
    triton="histogram options must specify non-empty 'buckets'",
    instead="buckets: [10, 100, 1000]",
    unseen=_UNSEEN,
)
def histograms_have_buckets(model: Subject) -> Iterator[Found]:
    for index, control in enumerate(model.config.model_metrics.metric_control):
        if control.HasField("histogram_options") and not control.histogram_options.buckets:
            yield at("model_metrics", "metric_control", index, "histogram_options")
