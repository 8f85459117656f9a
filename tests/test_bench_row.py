"""Reading perf_analyzer's reports and logs, as real runs wrote them."""

from __future__ import annotations

import pytest

from tritonkit.bench.row import Window, delayed, parse, requests, unsettled, windows, words
from tritonkit.errors import BenchmarkFailed

# perf_analyzer 2.51.0, HTTP, without and with --verbose-csv.
PLAIN = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
4,5545.98,41,188,234,23,159,70,0,704,814,850,932
"""
VERBOSE = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency,\
Avg latency,request/response,response wait
4,5273.14,41,198,240,24,180,70,0,725,848,891,1008,755,41,710
"""
# With --collect-metrics on a machine that has no GPU: columns without values.
METRICS = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency,\
Avg latency,request/response,response wait,Avg GPU Utilization,Avg GPU Power Usage,Max GPU Memory Usage,\
Total GPU Memory
4,5530.68,48,210,234,23,155,46,0,707,804,844,954,719,48,666,,,,
"""
RATE = """\
Request Rate,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency,\
Avg latency,request/response,response wait
20000,9.11798,343,75302,522221,22,22466,75,0,882373,928781,929521,929521,620432,343,619745
"""
# A service of another kind than Triton has no statistics to give.
WITHOUT_SERVER = """\
Concurrency,Inferences/Second,Client Send,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
1,100,4,5,1,2,3,4
"""

SETTINGS = """\
 Successfully read data for 1 stream/streams with 2 step/steps.
*** Measurement Settings ***
  Batch size: 1
  Service Kind: TRITON
  Using "time_windows" mode for stabilization
  Stabilizing using average latency and throughput
  Measurement window: 300 msec
  Using synchronous calls for inference

Request concurrency: 4
"""
SETTLED = f"""{SETTINGS}\
  Pass [1] throughput: 4916.71 infer/sec. Avg latency: 809 usec (std 1195 usec).
  Pass [2] throughput: 5474.42 infer/sec. Avg latency: 727 usec (std 192 usec).
  Pass [3] throughput: 5426.05 infer/sec. Avg latency: 734 usec (std 191 usec).
  Client:
    Request count: 5731
    Throughput: 5273.14 infer/sec
  Server:
    Inference count: 5731
"""
REFUSED = f"""{SETTINGS}\
  Pass [1] throughput: 4611.45 infer/sec. Avg latency: 591 usec (std 1252 usec).
Failed to maintain requested inference load. Worker thread(s) failed to generate concurrent requests.
Thread [0] had error: the 500th request is refused

Thread [1] had error: the 500th request is refused
"""
TOO_SHORT = f"""{SETTINGS}\
  Pass [1] cb::Error: No valid requests recorded within time interval. Please use a larger time window.
Failed to maintain requested inference load. Worker thread(s) failed to generate concurrent requests.
Thread [0] had error: [request id: <id_unknown>] inference request batch-size must be <= 8 for 'add'
"""
NEVER_STABLE = f"""{SETTINGS}\
  Pass [1] throughput: 5547.42 infer/sec. Avg latency: 716 usec (std 91 usec).
Failed to obtain stable measurement within 3 measurement windows for concurrency 4. Please try to increase the \
--measurement-interval.
Failed to obtain stable measurement.
"""
RISING = f"""{SETTLED}\
Warning: Request latency is not stabilizing. Please try lowering the request rate.
"""
LATE = f"""{SETTLED}\
    [WARNING] Perf Analyzer was not able to keep up with the desired request rate. 30.00% of the requests were delayed.
"""


def test_a_report() -> None:
    row = parse(VERBOSE)
    assert (row.throughput, row.latency_avg) == (5273.14, 755)
    assert (row.latency_p50, row.latency_p90, row.latency_p95, row.latency_p99) == (725, 848, 891, 1008)
    assert (row.client_send, row.network, row.client_recv) == (41, 198, 0)
    assert (row.queue, row.compute_input, row.compute_infer, row.compute_output) == (240, 24, 180, 70)
    assert row.compute == 274


def test_columns_that_vary() -> None:
    assert parse(PLAIN).latency_avg is None
    assert parse(PLAIN).latency_p99 == 932
    assert parse(METRICS).latency_avg == 719
    assert parse(RATE).queue == 522221
    bare = parse(WITHOUT_SERVER)
    assert (bare.queue, bare.compute, bare.client_recv) == (None, None, 5)
    header, values = PLAIN.splitlines()
    turned = "\n".join(",".join(reversed(line.split(","))) for line in (header, values))
    assert parse(turned) == parse(PLAIN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds 0 rows"),
        (PLAIN.splitlines()[0], "holds 0 rows"),
        (f"{PLAIN}{PLAIN.splitlines()[1]}\n", "holds 2 rows"),
        (PLAIN.replace("p99 latency", "p98 latency"), "has no column p99 latency"),
        (PLAIN.replace(",932", ","), "has no column p99 latency"),
        (PLAIN.replace(",932", ",many"), "has 'many' in column p99 latency"),
    ],
)
def test_what_is_no_report_is_refused(text: str, message: str) -> None:
    with pytest.raises(BenchmarkFailed, match=message):
        parse(text)


def test_what_only_the_log_says() -> None:
    assert windows(SETTLED) == (Window(4916.71, 809), Window(5474.42, 727), Window(5426.05, 734))
    assert requests(SETTLED) == 5731
    assert requests(SETTINGS) is None
    assert delayed(LATE) == 30
    assert delayed(SETTLED) == 0


def test_a_log_of_several_reports_counts_with_the_last() -> None:
    log = LATE + LATE.replace("5731", "42").replace("30.00%", "7.50%")
    assert requests(log) == 42
    assert delayed(log) == 7.5


@pytest.mark.parametrize(("log", "expected"), [(SETTLED, False), (LATE, False), (NEVER_STABLE, True), (RISING, True)])
def test_stability(log: str, expected: bool) -> None:
    assert unsettled(log) is expected


def test_its_own_words() -> None:
    assert words(REFUSED).splitlines() == [
        "the 500th request is refused",
        "Failed to maintain requested inference load. Worker thread(s) failed to generate concurrent requests.",
    ]
    first, second, _ = words(TOO_SHORT).splitlines()
    assert first == "[request id: <id_unknown>] inference request batch-size must be <= 8 for 'add'"
    assert second == "No valid requests recorded within time interval. Please use a larger time window."
    assert words("") == "it said nothing"
    assert words(SETTINGS) == "it said nothing"
