"""Classify, Regress and MultiInference: tf.Examples in, through the signature's graph, classes or values out.

Pure: a request becomes a `Call`, its outputs become a result, with the real server's checks, order and texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import numpy as np

from longtail.tfserving import message_class
from serving.model_server import signatures, tensors
from serving.model_server.errors import ServingError, invalid_argument
from serving.model_server.signatures import DEFAULT_SIGNATURE, Call, Signature, Slot
from serving.model_server.tensors import Array

ClassificationResult = message_class("tensorflow.serving.ClassificationResult")
RegressionResult = message_class("tensorflow.serving.RegressionResult")

CLASSIFY: Final = "tensorflow/serving/classify"
REGRESS: Final = "tensorflow/serving/regress"
INPUTS: Final = "inputs"
CLASSES: Final = "classes"
SCORES: Final = "scores"
OUTPUTS: Final = "outputs"
_NOUN: Final = {CLASSIFY: "classification", REGRESS: "regression"}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One signature to be used by one method, on the examples of its request."""

    method: str
    signature: Signature

    @property
    def outputs(self) -> tuple[Slot, ...]:
        """The outputs that the method reads."""
        names = (CLASSES, SCORES) if self.method == CLASSIFY else (OUTPUTS,)
        return tuple(slot for slot in self.signature.outputs if slot.alias in names)


def task(name: str, method: str, known: Mapping[str, Signature], *, checks_method_name: bool = True) -> Task:
    """The task of a Classify or Regress request. Raises ServingError."""
    signature = known.get(name or DEFAULT_SIGNATURE)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {name or DEFAULT_SIGNATURE}")
    return _checked(signature, method, checks_method_name=checks_method_name)


def tasks(request: Any, known: Mapping[str, Signature], *, checks_method_name: bool = True) -> tuple[Task, ...]:
    """The tasks of a MultiInferenceRequest. Raises ServingError."""
    model_name = request.tasks[0].model_spec.name
    chosen: dict[str, Task] = {}
    for asked in request.tasks:
        if not asked.model_spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        if asked.model_spec.name != model_name:
            raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        name = asked.model_spec.signature_name or DEFAULT_SIGNATURE
        if name in chosen:
            raise invalid_argument(f"Duplicate evaluation of signature: {name}")
        if name not in known:
            raise invalid_argument(f"Requested signature not found in model graph: {name}")
        if asked.method_name not in _NOUN:
            raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {asked.method_name}")
        chosen[name] = _checked(known[name], asked.method_name, checks_method_name=checks_method_name)
    if len({_input(task).tensor_name for task in chosen.values()}) > 1:
        raise invalid_argument("Input tensor must be the same for all Signatures.")
    return tuple(chosen.values())


def call(chosen: Sequence[Task], request: Any) -> Call:
    """One run for all tasks of a request; an output stands under the name of its tensor. Raises ServingError."""
    slot = _input(chosen[0])
    outputs = {output.tensor_name: output for task in chosen for output in task.outputs}
    signature = Signature(
        name=",".join(task.signature.name for task in chosen),
        method_name=chosen[0].method,
        inputs=(slot,),
        outputs=tuple(
            Slot(alias=name, tensor_name=name, dtype=output.dtype, shape=output.shape)
            for name, output in outputs.items()
        ),
        defaults={},
    )
    inputs = {slot.alias: examples(request.input)}
    signatures.check_types(inputs, signature)
    return Call(signature=signature, inputs=inputs, outputs=tuple(outputs))


def examples(message: Any) -> Array:
    """The serialized Examples of an Input, each with the context before it. Raises ServingError."""
    kind = message.WhichOneof("kind")
    listed = getattr(message, kind or "example_list")
    context = listed.context.SerializeToString() if kind == "example_list_with_context" else b""
    rows = [context + example.SerializeToString() for example in listed.examples]
    if not rows:
        raise invalid_argument("Input is empty.")
    return tensors.strings(rows)  # [example]


def result(task: Task, call: Call, outputs: Mapping[str, Array]) -> Any:
    """The ClassificationResult or RegressionResult of a task. Raises ServingError."""
    count = len(call.inputs[INPUTS])
    read = {slot.alias: outputs[slot.tensor_name] for slot in task.outputs}
    if task.method == CLASSIFY:
        return _classification(read.get(CLASSES), read.get(SCORES), count)
    return _regression(read[OUTPUTS], count)


def _checked(signature: Signature, method: str, *, checks_method_name: bool) -> Task:
    if checks_method_name and signature.method_name != method:
        raise invalid_argument(
            f"Expected {_NOUN[method]} signature method_name to be {method}. Was: {signature.method_name}"
        )
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    found = len(signature.outputs)
    if method == REGRESS and found != 1:
        raise invalid_argument("Expected one output Tensor.")
    if method == CLASSIFY and found not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {found}")
    if signature.inputs[0].alias != INPUTS:
        raise _misses(f"No {_NOUN[method]} inputs found in SignatureDef: {signature.name}")
    chosen = Task(method=method, signature=signature)
    if not chosen.outputs and method == REGRESS:
        raise _misses(f"No regression outputs found in SignatureDef: {signature.name}")
    if not chosen.outputs:
        raise _misses(
            "Expected classification signature outputs to contain at least one of "
            f'"{CLASSES}" or "{SCORES}". Signature was: {signature.name}'
        )
    return chosen


def _misses(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)


def _input(task: Task) -> Slot:
    return task.signature.inputs[0]


def _classification(classes: Array | None, scores: Array | None, count: int) -> Any:
    for name, column, kind in ((CLASSES, classes, "DT_STRING"), (SCORES, scores, "DT_FLOAT")):
        if column is not None:
            _check_column(name, column, kind, count)
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise invalid_argument(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    width = (scores if classes is None else classes).shape[1]  # type: ignore[union-attr]
    answer = ClassificationResult()
    for row in range(count):
        example = answer.classifications.add()
        for place in range(width):
            label = "" if classes is None else classes[row, place].decode(errors="replace")
            example.classes.add(label=label, score=0.0 if scores is None else scores[row, place])
    return answer


def _check_column(name: str, column: Array, kind: str, count: int) -> None:
    if column.ndim != 2:
        raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(column)}")
    if _enum(column) != kind:
        raise invalid_argument(f"Expected {name} Tensor of {kind}. Got: {_enum(column)}")
    if len(column) != count:
        raise invalid_argument(f"Expected {name} output batch size of {count}. Got: {len(column)}")


def _regression(values: Array, count: int) -> Any:
    if not (values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)):
        raise invalid_argument(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(values)}"
        )
    if len(values) != count:
        raise invalid_argument(f"Input batch size did not match output batch size: {count} vs. {len(values)}")
    if values.dtype != np.float32:
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {_enum(values)}")
    answer = RegressionResult()
    for value in values.reshape(-1).tolist():
        answer.regressions.add(value=value)
    return answer


def _shape(array: Array) -> str:
    return f"[{','.join(str(size) for size in array.shape)}]"


def _enum(array: Array) -> str:
    return f"DT_{tensors.type_of(array).name.upper()}"
