"""The line of every value of a config.pbtxt, in whatever way the text is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonkit.modelconfig.lines import Place, line_at, lines_of
from tritonkit.modelconfig.text import parse

TEXT = """\
# a comment { with [ signs
backend: "python" max_batch_size: 4; version_policy: { all {} }
input [
  {
    name: "a" 'b'
    dims: [ 1,
      -1 ]
  },
  { name: "c { dims: 5" }
]
input < name: "d" dims: 1
  dims: 2 >
parameters { key: "k\\x41" value { string_value: "v"
  "w" } }
parameters {
  key: 'other'
  value: { string_value: "x" } }
dynamic_batching {
  priority_queue_policy { key: 3
    value { timeout_action: DELAY } } }
"""


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("backend",), 2),
        (("max_batch_size",), 2),
        (("version_policy", "all"), 2),
        (("input",), 3),
        (("input", 0), 4),
        (("input", 0, "name"), 5),
        (("input", 0, "dims"), 6),
        (("input", 0, "dims", 0), 6),
        (("input", 0, "dims", 1), 7),
        (("input", 1, "name"), 9),
        (("input", 2), 11),
        (("input", 2, "dims", 1), 12),
        (("input", 2, "data_type"), 11),
        (("parameters", "kA"), 13),
        (("parameters", "other", "string_value"), 17),
        (("dynamic_batching", "priority_queue_policy", 3), 19),
        (("dynamic_batching", "priority_queue_policy", 3, "timeout_action"), 20),
        (("output",), 1),
    ],
)
def test_lines(place: Place, line: int) -> None:
    parse(TEXT)
    assert line_at(lines_of(TEXT), place) == line


@given(st.text(alphabet="input {}[]<>:,;\"'#\n0-a", max_size=60))
def test_any_text_has_lines(text: str) -> None:
    assert all(1 <= line <= text.count("\n") + 1 for line in lines_of(text).values())
