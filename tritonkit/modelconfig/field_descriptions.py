"""What each field of ModelConfig means, for editors and the documentation: the protobuf itself brings no words along.

A field that a newer tritonclient knows and this table does not is still said, checked and completed; only its
description is general.
"""

from __future__ import annotations

_TENSOR_NAME = "The tensor's name, as the model knows it."
_TENSOR_TYPE = "Data type of the tensor's elements."
_DIMS = "Shape of the tensor without the batch dimension; -1 for a dimension that varies."
_RESHAPE = "Shape that the model itself wants, where it differs from 'dims'; both have the same number of elements."
_SHAPE_TENSOR = "Whether the tensor is a TensorRT shape tensor, whose values are the shape of another one."
_NON_LINEAR = "Whether the tensor has one of TensorRT's formats that are not linear in memory."
_DELAY = "How long, at most, a request waits in the scheduler for others to join it."
_PREFERRED = "Batch sizes to send as soon as one of them can be made."
_ORDER = "Whether responses come in the order of their requests."
_PINNED = "Whether to go through page-locked memory where that speeds up copies between host and GPU."
_INPUT_SHAPES = "Shape of each input, by the input's name."
_WARMUP_TYPE = "Data type of the input."

DESCRIPTIONS: dict[str, dict[str, str]] = {
    "ModelConfig": {
        "name": "Name of the model. In a spec it is the model's key and need not be said.",
        "platform": "Older name of the backend, as in onnxruntime_onnx or tensorrt_plan; 'ensemble' for an ensemble.",
        "backend": "Backend that runs the model: onnxruntime, tensorrt, pytorch, python, ...",
        "runtime": "Which of several implementations of the backend to load, by file name.",
        "version_policy": "Which versions are served; the latest one if nothing is said.",
        "max_batch_size": "Largest batch that the model takes; 0 for a model without a batch dimension.",
        "input": 'Inputs: a list, or a mapping by name with a type and dims, as in {IMAGE: "FP32[3,224,224]"}.',
        "output": 'Outputs: a list, or a mapping by name with a type and dims, as in {SCORES: "FP32[1000]"}.',
        "batch_input": "Inputs that the server makes from the batch itself, for ragged batches.",
        "batch_output": "Outputs that are to be divided among the requests of a batch in another way than evenly.",
        "optimization": "How the server and the framework may speed the model up.",
        "dynamic_batching": "Join requests of different clients into batches.",
        "sequence_batching": "Send all requests of a sequence to the same instance.",
        "ensemble_scheduling": "Steps of an ensemble; 'ensemble' is the short form.",
        "instance_group": "How many copies of the model run, and where: groups, or a number; [] leaves it to Triton.",
        "default_model_filename": "File of a version's folder to load, if not the one that the backend looks for.",
        "cc_model_filenames": 'File to load on GPUs of a compute capability, as in {"8.0": model_a100.plan}.',
        "metric_tags": "Labels and their values that are added to the model's metrics.",
        "parameters": "Values for the backend, by name. A plain string, number or truth value is enough.",
        "model_warmup": "Requests to run before the model is ready, so that the first clients need not wait.",
        "model_operations": "Libraries of custom operators that the model needs.",
        "model_transaction_policy": "How requests and responses belong together.",
        "model_repository_agents": "Agents that act when the model is loaded or unloaded.",
        "response_cache": "Keep responses, to answer equal requests from memory.",
        "model_metrics": "How the model's metrics are made.",
    },
    "ModelVersionPolicy": {
        "latest": "Serve the versions with the highest numbers.",
        "all": "Serve every version.",
        "specific": "Serve the versions that are named.",
    },
    "ModelVersionPolicy.Latest": {"num_versions": "How many of them; 1 if nothing is said."},
    "ModelVersionPolicy.Specific": {"versions": "Numbers of the versions to serve."},
    "ModelInput": {
        "name": _TENSOR_NAME,
        "data_type": _TENSOR_TYPE,
        "format": "Order of an image's dimensions, if the input is one.",
        "dims": _DIMS,
        "reshape": _RESHAPE,
        "is_shape_tensor": _SHAPE_TENSOR,
        "allow_ragged_batch": "Whether requests of different shapes may be in one batch, without padding.",
        "optional": "Whether a request may leave the input out.",
        "is_non_linear_format_io": _NON_LINEAR,
    },
    "ModelTensorReshape": {"shape": "The shape, without the batch dimension; empty for a scalar."},
    "ModelOutput": {
        "name": _TENSOR_NAME,
        "data_type": _TENSOR_TYPE,
        "dims": _DIMS,
        "reshape": _RESHAPE,
        "label_filename": "File with one label a line, for clients that ask for classes; relative to the spec.",
        "is_shape_tensor": _SHAPE_TENSOR,
        "is_non_linear_format_io": _NON_LINEAR,
    },
    "BatchInput": {
        "kind": "What the input holds: element counts, their sums, or shapes of the batched requests.",
        "target_name": "Names of the model's inputs that receive it.",
        "data_type": "Data type of the values: TYPE_INT32 or TYPE_FP32.",
        "source_input": "Names of the inputs that it is made from.",
    },
    "BatchOutput": {
        "target_name": "Names of the outputs.",
        "kind": "How the outputs are divided among requests.",
        "source_input": "Names of the inputs whose shapes tell how.",
    },
    "ModelOptimizationPolicy": {
        "graph": "How far the framework rewrites the model's graph.",
        "priority": "Priority of the model against others where the backend knows one.",
        "cuda": "Settings for GPUs.",
        "execution_accelerators": "Accelerators that run the model within its framework, as TensorRT or OpenVINO do.",
        "input_pinned_memory": "Page-locked memory for inputs.",
        "output_pinned_memory": "Page-locked memory for outputs.",
        "gather_kernel_buffer_threshold": "Number of buffers from which a GPU kernel gathers them, not single copies.",
        "eager_batching": "Whether to prepare the next batch while all instances are at work.",
    },
    "ModelOptimizationPolicy.Graph": {
        "level": "-1 for none, 1 for more than the framework's default; what it means depends on the backend."
    },
    "ModelOptimizationPolicy.Cuda": {
        "graphs": "Whether to capture CUDA graphs and run those.",
        "busy_wait_events": "Whether to wait for the GPU by asking again and again: less delay, a whole CPU core.",
        "graph_spec": "Batch sizes and shapes to capture graphs for.",
        "output_copy_stream": "Whether outputs are copied back in a CUDA stream of their own.",
    },
    "ModelOptimizationPolicy.Cuda.GraphSpec": {
        "batch_size": "Batch size of the graph; 0 for a model without batching.",
        "input": _INPUT_SHAPES,
        "graph_lower_bound": "Smallest request that the graph may be used for, padded.",
    },
    "ModelOptimizationPolicy.Cuda.GraphSpec.Shape": {"dim": "The shape's dimensions."},
    "ModelOptimizationPolicy.Cuda.GraphSpec.LowerBound": {
        "batch_size": "Smallest batch size; 0 for a model without batching.",
        "input": _INPUT_SHAPES,
    },
    "ModelOptimizationPolicy.ExecutionAccelerators": {
        "gpu_execution_accelerator": "Accelerators for instances on GPUs, in the order in which they are tried.",
        "cpu_execution_accelerator": "Accelerators for instances on CPUs, in the order in which they are tried.",
    },
    "ModelOptimizationPolicy.ExecutionAccelerators.Accelerator": {
        "name": "Name of the accelerator: tensorrt, openvino, ...",
        "parameters": "Its settings, by name.",
    },
    "ModelOptimizationPolicy.PinnedMemoryBuffer": {"enable": _PINNED},
    "ModelDynamicBatching": {
        "preferred_batch_size": _PREFERRED,
        "max_queue_delay_microseconds": _DELAY,
        "preserve_ordering": _ORDER,
        "priority_levels": "How many priorities requests may have; 1 is the highest. 0 for none.",
        "default_priority_level": "Priority of a request that asks for none.",
        "default_queue_policy": "How requests wait where their priority has no policy of its own.",
        "priority_queue_policy": "How requests of a priority wait, by the priority's number.",
    },
    "ModelQueuePolicy": {
        "timeout_action": "What becomes of a request that waited too long.",
        "default_timeout_microseconds": "How long a request may wait; 0 for as long as it takes.",
        "allow_timeout_override": "Whether a request may ask for a shorter wait.",
        "max_queue_size": "How many requests may wait before more are refused; 0 for any number.",
    },
    "ModelSequenceBatching": {
        "direct": "Each sequence has a place in the batch of one instance until it ends.",
        "oldest": "Requests of several sequences are joined into batches, the oldest ones first.",
        "max_sequence_idle_microseconds": "How long a sequence may be silent before its place is given away.",
        "control_input": "Inputs by which the server tells the model where sequences begin and end.",
        "state": "Tensors that the server keeps for each sequence from one request to the next.",
        "iterative_sequence": "Whether a request is scheduled again and again until the model says that it is done.",
    },
    "ModelSequenceBatching.StrategyDirect": {
        "max_queue_delay_microseconds": _DELAY,
        "minimum_slot_utilization": "Share of the batch's places, from 0 to 1, that must be taken to send it at once.",
    },
    "ModelSequenceBatching.StrategyOldest": {
        "max_candidate_sequences": "How many sequences an instance may have open at once.",
        "preferred_batch_size": _PREFERRED,
        "max_queue_delay_microseconds": _DELAY,
        "preserve_ordering": _ORDER,
    },
    "ModelSequenceBatching.ControlInput": {
        "name": "Name of the model's input.",
        "control": "What the input tells.",
    },
    "ModelSequenceBatching.Control": {
        "kind": "Start, readiness, end, or the sequence's correlation ID.",
        "int32_false_true": "The two numbers that stand for no and yes.",
        "fp32_false_true": "The two numbers that stand for no and yes.",
        "bool_false_true": "The two truth values that stand for no and yes.",
        "data_type": "Data type of the correlation ID.",
    },
    "ModelSequenceBatching.State": {
        "input_name": "The model's input that gets the state.",
        "output_name": "The model's output that becomes the state.",
        "data_type": "Data type of the state.",
        "dims": "Shape of the state, without the batch dimension.",
        "initial_state": "What the state holds when a sequence starts.",
        "use_same_buffer_for_input_output": "Whether the model may write the new state over the old one.",
        "use_growable_memory": "Whether the state's memory grows in place; for a state that gets longer, on a GPU.",
    },
    "ModelSequenceBatching.InitialState": {
        "data_type": "Data type of the state.",
        "dims": "Shape of the state, without the batch dimension, all of it fixed.",
        "zero_data": "Start with zeros.",
        "data_file": "Start with the bytes of a file; its path is relative to the spec.",
        "name": "A name for messages.",
    },
    "ModelEnsembling": {
        "step": "The models to run, each as soon as its inputs are there.",
        "max_inflight_requests": "How many requests of a step may be under way at once; 0 for any number.",
    },
    "ModelEnsembling.Step": {
        "model_name": "Model to run.",
        "model_version": "Version to run; -1 for the latest one.",
        "input_map": "The model's inputs, each with the ensemble's tensor that it gets.",
        "output_map": "The model's outputs, each with the ensemble's tensor that it becomes.",
        "model_namespace": "Namespace in which to look for the model.",
    },
    "ModelInstanceGroup": {
        "name": "A name for the group, for messages and metrics.",
        "kind": "Where the instances run: KIND_CPU, KIND_GPU, KIND_MODEL (the model decides) or KIND_AUTO.",
        "count": "How many instances run, on each of the group's GPUs if any; 0 leaves it to the backend.",
        "rate_limiter": "What an instance needs to run, where the server limits rates.",
        "gpus": "Numbers of the GPUs to run on, among those that the server sees; all of them if nothing is said.",
        "secondary_devices": "More devices that every instance uses.",
        "profile": "TensorRT optimization profiles to use, by their numbers, as strings.",
        "passive": "Whether the instances are loaded, but get no requests from the server's scheduler.",
        "host_policy": "Name of the server's host policy to follow, for NUMA nodes and CPU cores.",
    },
    "ModelRateLimiter": {
        "resources": "What an instance takes while it runs.",
        "priority": "Weight against other instances: one with 2 runs half as often as one with 1.",
    },
    "ModelRateLimiter.Resource": {
        "name": "Name of the resource.",
        "global": "Whether all devices share the resource.",
        "count": "How much of it.",
    },
    "ModelInstanceGroup.SecondaryDevice": {
        "kind": "Kind of the device.",
        "device_id": "Its number.",
    },
    "ModelParameter": {"string_value": "The value."},
    "ModelWarmup": {
        "name": "A name for messages.",
        "batch_size": "Batch size of the request.",
        "inputs": "The request's inputs, by name.",
        "count": "How often to run it; once if nothing is said.",
    },
    "ModelWarmup.Input": {
        "data_type": _WARMUP_TYPE,
        "dims": "Shape of the input, without the batch dimension, all of it fixed.",
        "zero_data": "Send zeros.",
        "random_data": "Send random values.",
        "input_data_file": "Send the bytes of a file; its path is relative to the spec.",
    },
    "ModelOperations": {
        "op_library_filename": "Libraries to load first: paths relative to the spec, or names that the linker finds."
    },
    "ModelTransactionPolicy": {"decoupled": "Whether a request may have any number of responses, at any time."},
    "ModelRepositoryAgents": {"agents": "The agents, in the order in which they act."},
    "ModelRepositoryAgents.Agent": {
        "name": "Name of the agent.",
        "parameters": "Its settings, by name.",
    },
    "ModelResponseCache": {"enable": "Whether responses are kept; the server needs a cache as well."},
    "ModelMetrics": {"metric_control": "Settings of single metrics."},
    "ModelMetrics.MetricControl": {
        "metric_identifier": "Which metric is meant.",
        "histogram_options": "Settings of a histogram.",
    },
    "ModelMetrics.MetricControl.MetricIdentifier": {"family": "Name of the metric, without its labels."},
    "ModelMetrics.MetricControl.HistogramOptions": {"buckets": "Upper bounds of the histogram's buckets, growing."},
}
"""By message (without the package) and field."""


def describe_field(message: str, field: str) -> str:
    """A sentence about a field.

    Args:
        message: the message's full name, as in ``inference.ModelInstanceGroup``.
        field: the field's name.
    """
    short = message.partition(".")[2]
    return DESCRIPTIONS.get(short, {}).get(field) or f"Field '{field}' of Triton's {short}."
