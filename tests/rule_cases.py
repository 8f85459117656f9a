"""One case or more for each of Triton's rules: a configuration, and the code that tritonkit gives what Triton refuses.

A case is the text of ``m/config.pbtxt``.
"""

from __future__ import annotations

from typing import NamedTuple

SOUND = (
    'backend: "python" max_batch_size: 4 '
    'input [{ name: "x" data_type: TYPE_FP32 dims: [2] }] '
    'output [{ name: "y" data_type: TYPE_FP32 dims: [2] }] '
)

# It states what its configuration leaves out.
COMPLETING = """
class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "x", "data_type": "TYPE_FP32", "dims": [2]})
        return config

    def execute(self, requests):
        return []
"""


class Case(NamedTuple):
    """A configuration of the model ``m``.

    Attributes:
        code: the rule that it breaks; empty for a sound one.
        text: its config.pbtxt.
        files: files besides, below the model's folder; None as content leaves out one that is always there.
        complete: whether the server completes configurations, as it does unless told otherwise.
    """

    code: str
    text: str
    files: dict[str, str | None] = {}  # noqa: RUF012 - never written to
    complete: bool = False


def _input(said: str, before: str = 'backend: "python" ') -> str:
    return f"{before} input [{{ {said} }}]"


def _output(said: str, before: str = 'backend: "python" ') -> str:
    return f"{before} output [{{ {said} }}]"


def _reshape(dims: str, shape: str, batch: int = 0) -> str:
    return _input(
        f'name: "x" data_type: TYPE_FP32 dims: [{dims}] reshape {{ shape: [{shape}] }}',
        f'backend: "python" max_batch_size: {batch}',
    )


def _dynamic(said: str) -> str:
    return f"{SOUND} dynamic_batching {{ {said} }}"


def _sequence(said: str) -> str:
    return f"{SOUND} sequence_batching {{ {said} }}"


def _control(said: str, name: str = "c") -> str:
    return f'control_input [{{ name: "{name}" control [{{ {said} }}] }}]'


def _state(said: str, state: str = 'input_name: "a" output_name: "b" data_type: TYPE_FP32 dims: [2]') -> str:
    return f"{_sequence(f'state [{{ {state} {said} }}]')}"


def _initial(said: str) -> str:
    return _state(f"initial_state [{{ {said} }}]")


def _warmup(said: str, name: str = "x", batch: int = 1) -> str:
    sample = f'name: "w" batch_size: {batch} inputs {{ key: "{name}" value {{ {said} }} }}'
    return f"{SOUND} model_warmup [{{ {sample} }}]"


def _group(said: str) -> str:
    return f"{SOUND} instance_group [{{ {said} }}]"


CASES = (
    # What a model is.
    Case("", SOUND),
    Case("", 'backend: "python"'),
    Case("", ""),
    Case("", 'name: "m"'),
    Case("ID001", 'name: "other" backend: "python"'),
    Case("ID002", "max_batch_size: 1", {"1/model.py": None, "1/other": ""}),
    Case("ID003", 'platform: "other"'),
    Case("ID003", 'default_model_filename: "other.bin"', {"1/other.bin": ""}),
    Case("ID004", 'platform: "ensemble" backend: "python"'),
    Case("ID005", 'platform: "tensorrt_plan" backend: "onnxruntime"'),
    Case("", 'platform: "anything" backend: "python"'),
    Case("ID006", 'backend: "python" max_batch_size: -1'),
    Case("ID007", SOUND, {"1/model.py": None}),
    Case("ID007", SOUND, {"1/model.py": None, "01/model.py": "model"}),
    Case("ID007", f"{SOUND} version_policy {{ specific {{ versions: [2] }} }}"),
    Case("ID007", f"{SOUND} version_policy {{ latest {{ num_versions: 0 }} }}"),
    Case("", f"{SOUND} version_policy {{ all {{ }} }}", {"3/model.py": "model"}),
    Case("", SOUND, {"1/model.py": None, "0/model.py": "model"}),
    Case("ID010", f"{SOUND} model_metrics {{ }}"),
    Case("ID011", 'backend: "other"'),
    Case("ID011", 'platform: "tensorflow_savedmodel"'),
    Case("ID012", f'{SOUND} model_repository_agents {{ agents [{{ name: "checksum" }}] }}'),
    Case("ID012", f"{SOUND} model_repository_agents {{ agents [{{ }}] }}"),
    Case("ID015", f"{SOUND} model_repository_agents {{ }}"),
    Case("ID013", 'backend: "onnxruntime"'),
    Case("ID014", f'{SOUND} runtime: "other"'),
    Case("", f'{SOUND} runtime: "libtriton_python.so"'),
    Case("PAR01", f'{SOUND} parameters {{ key: "FORCE_CPU_ONLY_INPUT_TENSORS" value {{ string_value: "maybe" }} }}'),
    Case("", f'{SOUND} parameters {{ key: "FORCE_CPU_ONLY_INPUT_TENSORS" value {{ string_value: "no" }} }}'),
    # Inputs and outputs.
    Case("IO001", _input("data_type: TYPE_FP32 dims: [1]")),
    Case("IO001", _output("data_type: TYPE_FP32 dims: [1]")),
    Case("IO002", _input('name: "x" dims: [1]')),
    Case("IO003", _input('name: "x" data_type: TYPE_FP32')),
    Case("", _input('name: "x"'), {"1/model.py": COMPLETING}, complete=True),
    Case("IO003", _output('name: "x" data_type: TYPE_FP32')),
    Case("IO004", _input('name: "x" data_type: TYPE_FP32 dims: [3, 0]')),
    Case("IO004", _output('name: "x" data_type: TYPE_FP32 dims: [-2]')),
    Case("", _input('name: "x" data_type: TYPE_FP32 dims: [-1, 3]')),
    Case("IO005", _reshape("1", "")),
    Case("", _reshape("1", "", batch=2)),
    Case("IO006", _reshape("2", "0", batch=2)),
    Case("IO007", _reshape("2", "3")),
    Case("IO007", _reshape("2", "", batch=2)),
    Case("IO007", _reshape("2, -1, 6", "2, -1, 5")),
    Case("IO007", _reshape("-1", "1")),
    Case("IO008", _reshape("-1", "-1, -1")),
    Case("", _reshape("2, 4, -1, 6", "8, -1, 1, 6")),
    Case("IO009", _input('name: "x" data_type: TYPE_FP32 dims: [2] format: FORMAT_NCHW')),
    Case("", _input('name: "x" data_type: TYPE_FP32 dims: [2, 3, 4] format: FORMAT_NHWC')),
    Case("IO010", _input('name: "x" data_type: TYPE_INT32 dims: [2] is_shape_tensor: true')),
    Case("IO011", _output('name: "x" data_type: TYPE_INT32 dims: [2] is_non_linear_format_io: true')),
    Case("IO011", _input('name: "x" data_type: TYPE_INT32 dims: [2, 3, 4] is_non_linear_format_io: true')),
    Case("", f'{SOUND} input [{{ name: "x" data_type: TYPE_FP32 dims: [2] }}]'),
    Case("BIO01", f"{SOUND} batch_input [{{ kind: BATCH_ELEMENT_COUNT data_type: TYPE_INT32 }}]"),
    Case("BIO02", f'{SOUND} batch_input [{{ data_type: TYPE_INT64 source_input: "x" }}]'),
    Case("BIO03", f'{SOUND} batch_input [{{ data_type: TYPE_FP32 source_input: "other" }}]'),
    Case("BIO04", f'{SOUND} batch_output [{{ target_name: "other" source_input: "x" }}]'),
    Case("BIO05", f'{SOUND} batch_output [{{ target_name: ["y", "y"] source_input: "x" }}]'),
    Case("", f'{SOUND} batch_output [{{ target_name: "y" source_input: "x" }}]'),
    Case("BIO06", f'{SOUND} batch_output [{{ source_input: "x" }}]'),
    # The dynamic batcher.
    Case("", _dynamic("preferred_batch_size: [1, 4]")),
    Case("DYN01", _dynamic("preferred_batch_size: [0]")),
    Case("DYN02", _dynamic("preferred_batch_size: [8]")),
    Case("DYN03", _dynamic("priority_levels: 2")),
    Case("DYN03", _dynamic("priority_levels: 2 default_priority_level: 3")),
    Case("", _dynamic("default_priority_level: 3")),
    Case("DYN04", _dynamic("priority_levels: 1 default_priority_level: 1 priority_queue_policy { key: 2 value { } }")),
    Case("", _dynamic("priority_queue_policy { key: 2 value { } }")),
    Case("DYN05", _dynamic("priority_levels: 2 default_priority_level: 1 preserve_ordering: true")),
    Case(
        "DYN06",
        _dynamic(
            "preserve_ordering: true default_queue_policy { default_timeout_microseconds: 1 timeout_action: DELAY }"
        ),
    ),
    Case("", _dynamic("preserve_ordering: true default_queue_policy { timeout_action: DELAY }")),
    Case("", 'backend: "python" dynamic_batching { }'),
    Case("RSP01", f"{_sequence('')} response_cache {{ enable: true }}"),
    Case("RSP02", f"{SOUND} response_cache {{ enable: true }} model_transaction_policy {{ decoupled: true }}"),
    Case("", f"{SOUND} response_cache {{ enable: true }}"),
    # Sequences.
    Case("", _sequence("")),
    Case("SEQ01", _sequence("control_input [{ control [{ fp32_false_true: [0, 1] }] }]")),
    Case("SEQ02", _sequence('control_input [{ name: "c" }, { name: "c" }]')),
    Case("SEQ03", _sequence(_control("fp32_false_true: [0, 1]") + _control("fp32_false_true: [0, 1]", "d"))),
    Case("SEQ04", _sequence(_control("kind: CONTROL_SEQUENCE_END"))),
    Case("SEQ05", _sequence(_control("fp32_false_true: [0, 1] int32_false_true: [0, 1]"))),
    Case("SEQ06", _sequence(_control("kind: CONTROL_SEQUENCE_READY bool_false_true: [false]"))),
    Case("SEQ06", _sequence(_control("int32_false_true: [0, 1, 2]"))),
    Case("SEQ07", _sequence(_control("kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 int32_false_true: [0, 1]"))),
    Case("SEQ08", _sequence(_control("kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32"))),
    Case("", _sequence(_control("kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING"))),
    Case("SEQ09", _sequence("oldest { preferred_batch_size: [-1] }")),
    Case("SEQ10", _sequence("oldest { preferred_batch_size: [5] }")),
    Case("SEQ11", _sequence("direct { minimum_slot_utilization: 1.5 }")),
    Case("SEQ11", _sequence("direct { minimum_slot_utilization: -0.5 }")),
    Case("", _state("")),
    Case("SEQ20", _state('initial_state [{ name: "s" }, { name: "t" }]')),
    Case("SEQ21", _initial('name: "s" data_type: TYPE_FP16 dims: [2] zero_data: true')),
    Case("SEQ22", _initial("data_type: TYPE_FP32 dims: [2] zero_data: true")),
    Case("SEQ24", _initial('name: "s" data_type: TYPE_FP32 dims: [2, 1] zero_data: true')),
    Case("SEQ26", _initial('name: "s" data_type: TYPE_FP32 dims: [3] zero_data: true')),
    Case("SEQ27", _initial('name: "s" data_type: TYPE_FP32 dims: [2]')),
    Case("SEQ28", _initial('name: "s" data_type: TYPE_FP32 dims: [2] data_file: "missing"')),
    Case("SEQ29", _initial('name: "s" data_type: TYPE_FP32 dims: [2] data_file: "s"'), {"initial_state/s": "1234567"}),
    Case("", _initial('name: "s" data_type: TYPE_FP32 dims: [2] data_file: "s"'), {"initial_state/s": "12345678"}),
    Case(
        "SEQ25",
        _state(
            'initial_state [{ name: "s" data_type: TYPE_FP32 dims: [-1] zero_data: true }]',
            'input_name: "a" output_name: "b" data_type: TYPE_FP32 dims: [-1]',
        ),
    ),
    Case(
        "SEQ23",
        _sequence(
            'state [{ input_name: "a" output_name: "b" data_type: TYPE_FP32 dims: [1] '
            'initial_state [{ name: "s" data_type: TYPE_FP32 dims: [1] zero_data: true }] }, '
            '{ input_name: "a" output_name: "c" data_type: TYPE_FP32 dims: [1] '
            'initial_state [{ name: "s" data_type: TYPE_FP32 dims: [1] zero_data: true }] }]'
        ),
    ),
    # Instances; the server of the tests sees no GPU.
    Case("", _group("count: 2 kind: KIND_CPU")),
    Case("", _group("kind: KIND_MODEL")),
    Case("", _group("kind: KIND_AUTO")),
    Case("INS01", _group("kind: KIND_CPU gpus: [0]")),
    Case("INS01", _group("kind: KIND_MODEL gpus: [0]")),
    Case("INS01", _group("kind: KIND_AUTO gpus: [0]")),
    Case("INS02", _group("kind: KIND_GPU")),
    Case("INS03", _group("kind: KIND_GPU gpus: [0]")),
    Case("INS05", _group('kind: KIND_CPU profile: ["0"]')),
    # Numbers that stand for no value.
    Case("NUM01", _group("kind: 77")),
    Case("NUM02", f'{SOUND} batch_input [{{ kind: 77 data_type: TYPE_FP32 source_input: "x" target_name: "z" }}]'),
    Case("NUM02", f'{SOUND} batch_output [{{ kind: 77 target_name: "y" source_input: "x" }}]'),
    Case("", _dynamic("default_queue_policy { timeout_action: 77 }")),
    Case("", f"{SOUND} optimization {{ priority: 77 }}"),
    Case("", _input('name: "x" data_type: 77 format: 77 dims: [3]')),
    # Warmup, and other files.
    Case("", _warmup("data_type: TYPE_FP32 dims: [2] zero_data: true")),
    Case("", _warmup("data_type: TYPE_FP32 dims: [2] random_data: true", batch=2)),
    Case("", _warmup("data_type: TYPE_FP32 dims: [-1]", batch=0)),
    Case("WRM01", _warmup("data_type: TYPE_FP32 dims: [-1] zero_data: true")),
    Case("WRM02", _warmup("data_type: TYPE_FP32 dims: [2]")),
    Case("WRM03", _warmup('data_type: TYPE_FP32 dims: [2] input_data_file: "missing"')),
    Case("WRM04", _warmup('data_type: TYPE_FP32 dims: [2] input_data_file: "w"'), {"warmup/w": "1234567"}),
    Case("", _warmup('data_type: TYPE_FP32 dims: [2] input_data_file: "w"'), {"warmup/w": "123456789"}),
    Case("WRM05", f'{SOUND} model_warmup [{{ name: "w" batch_size: 1 }}]'),
    Case("WRM06", _warmup("data_type: TYPE_INT32 dims: [2] zero_data: true")),
    Case("WRM07", _warmup("data_type: TYPE_FP32 dims: [3] zero_data: true")),
    Case("WRM07", _warmup("data_type: TYPE_FP32 dims: [1, 2] zero_data: true")),
    Case("LBL01", _output('name: "y" data_type: TYPE_FP32 dims: [2] label_filename: "missing"')),
    Case("", _output('name: "y" data_type: TYPE_FP32 dims: [2] label_filename: "l"'), {"l": "a\nb\n"}),
)
