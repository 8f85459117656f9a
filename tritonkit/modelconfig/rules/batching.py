"""Rules on the dynamic batcher, its queues, and the response cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonkit.modelconfig.findings import Severity
from tritonkit.modelconfig.rules.rule import Found, Place, Rules, Subject, at

rules = Rules(early=True)

_BATCHING: Place = ("dynamic_batching",)


@rules.rule(
    "DYN01",
    "the preferred batch size {size} is not positive",
    triton="dynamic batching preferred size must be positive for {model}",
    instead="sizes from 1 to max_batch_size, or none: then Triton takes all it can get",
)
def preferred_sizes_are_positive(model: Subject) -> Iterator[Found]:
    for index, size in enumerate(model.config.dynamic_batching.preferred_batch_size):
        if size <= 0:
            yield at(*_BATCHING, "preferred_batch_size", index, size=size)


@rules.rule(
    "DYN02",
    "the preferred batch size {size} is more than max_batch_size, {most}",
    triton="dynamic batching preferred size must be <= max batch size for {model}",
    instead="sizes from 1 to max_batch_size, or a greater max_batch_size",
)
def preferred_sizes_are_reached(model: Subject) -> Iterator[Found]:
    for index, size in enumerate(model.config.dynamic_batching.preferred_batch_size):
        if size > 0 and size > model.config.max_batch_size:
            yield at(*_BATCHING, "preferred_batch_size", index, size=size, most=model.config.max_batch_size)


@rules.rule(
    "DYN03",
    "the default priority level is {level}, of {levels} levels",
    triton="default priority level must be in range [1, {levels}] for {model}",
    instead="default_priority_level: 1 for the highest, up to {levels}",
)
def the_default_level_exists(model: Subject) -> Iterator[Found]:
    batching = model.config.dynamic_batching
    level, levels = batching.default_priority_level, batching.priority_levels
    if levels and not 1 <= level <= levels:
        yield at(*_BATCHING, "default_priority_level", level=level, levels=levels)


@rules.rule(
    "DYN04",
    "a queue policy is given for the priority level {level}, of {levels} levels",
    triton="priority queue policy must have priority level in range [1, {levels}] for {model}",
    instead="levels from 1 to {levels}",
)
def queue_policies_have_levels(model: Subject) -> Iterator[Found]:
    batching = model.config.dynamic_batching
    for level in sorted(batching.priority_queue_policy):
        if batching.priority_levels and not 1 <= level <= batching.priority_levels:
            yield at(*_BATCHING, "priority_queue_policy", level, level=level, levels=batching.priority_levels)


@rules.rule(
    "DYN05",
    "the order is to be preserved over {levels} priority levels",
    triton="Only one priority level is allowed when 'preserve_ordering' is true for {model}",
    instead="leave 'preserve_ordering' or 'priority_levels' out",
)
def order_is_kept_on_one_level(model: Subject) -> Iterator[Found]:
    batching = model.config.dynamic_batching
    if batching.preserve_ordering and batching.priority_levels > 1:
        yield at(*_BATCHING, "preserve_ordering", levels=batching.priority_levels)


@rules.rule(
    "DYN06",
    "requests that time out are delayed, and the order is to be preserved",
    triton="Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for {model}",
    instead="timeout_action: REJECT, or no 'preserve_ordering'",
)
def order_is_kept_without_delays(model: Subject) -> Iterator[Found]:
    batching = model.config.dynamic_batching
    if not batching.preserve_ordering:
        return
    policies: list[tuple[Place, Any]] = [(("default_queue_policy",), batching.default_queue_policy)]
    for level in sorted(batching.priority_queue_policy):
        policies.append((("priority_queue_policy", level), batching.priority_queue_policy[level]))
    for place, policy in policies:
        if policy.default_timeout_microseconds and policy.timeout_action == policy.TimeoutAction.Value("DELAY"):
            yield at(*_BATCHING, *place, "timeout_action")


@rules.rule(
    "DYN07",
    "the dynamic batcher has nothing to do: max_batch_size is 0",
    instead="max_batch_size: 8 or so, or no 'dynamic_batching'",
    severity=Severity.WARNING,
)
def dynamic_batching_has_batches(model: Subject) -> Iterator[Found]:
    if model.config.HasField("dynamic_batching") and model.config.max_batch_size == 0:
        yield at(*_BATCHING)


@rules.rule(
    "RSP01",
    "the response cache does not go with sequence batching",
    triton="Response Cache does not currently support model {model} with sequence batching scheduler. "
    "Please disable the response cache.",
    instead="response_cache: {{enable: false}}",
)
def sequences_are_not_cached(model: Subject) -> Iterator[Found]:
    if model.config.HasField("sequence_batching") and model.config.response_cache.enable:
        yield at("response_cache", "enable")


@rules.rule(
    "RSP02",
    "the response cache does not go with decoupled answers",
    triton="Response Cache does not currently support model {model} with 'decoupled' transaction policy. "
    "Please disable the response cache.",
    instead="response_cache: {{enable: false}}",
)
def decoupled_answers_are_not_cached(model: Subject) -> Iterator[Found]:
    if model.config.model_transaction_policy.decoupled and model.config.response_cache.enable:
        yield at("response_cache", "enable")
