"""Is a request right for a signature? Pure, with the real server's checks, order and texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc

from serving.model_server import tensors
from serving.model_server.errors import ServingError, invalid_argument
from serving.model_server.tensors import Array

DEFAULT_SIGNATURE: Final = "serving_default"
METHODS: Final = ("tensorflow/serving/predict", "tensorflow/serving/classify", "tensorflow/serving/regress")


@dataclass(frozen=True, kw_only=True)
class Slot:
    """An input or output of a signature. `shape` is None for an unknown rank; −1 is an unknown size."""

    alias: str
    tensor_name: str
    dtype: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a model promises under one name; slots are in order of their aliases."""

    name: str
    method_name: str
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    defaults: Mapping[str, Any]  # TensorProto by alias

    @property
    def is_rowwise(self) -> bool:
        """True when every input and output has an unknown first dimension: rows of requests may share a run."""
        slots = (*self.inputs, *self.outputs)
        return bool(self.inputs) and all(slot.shape and slot.shape[0] == -1 for slot in slots)

    def tensor_names(self, outputs: Iterable[str]) -> tuple[str, ...]:
        """The tensors behind these outputs."""
        names = {slot.alias: slot.tensor_name for slot in self.outputs}
        return tuple(names[alias] for alias in outputs)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A checked request: run this signature on these inputs for these outputs."""

    signature: Signature
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]


def signatures_of(signature_defs: Mapping[str, Any]) -> dict[str, Signature]:
    """Signatures by name, from SignatureDef messages."""
    return {
        name: Signature(
            name=name,
            method_name=definition.method_name,
            inputs=_slots(definition.inputs),
            outputs=_slots(definition.outputs),
            defaults=dict(definition.defaults),
        )
        for name, definition in signature_defs.items()
    }


def check(request: Any, signatures: Mapping[str, Signature], *, checks_method_name: bool = True) -> Call:
    """The call that a PredictRequest asks for. Raises ServingError."""
    signature = find(request.model_spec.signature_name, signatures)
    if checks_method_name:
        _check_method_name(signature)
    _check_input_count(request.inputs, signature)
    inputs = _decode_inputs(request.inputs, signature)
    outputs = _outputs(request.output_filter, signature)
    check_types(inputs, signature)
    return Call(signature=signature, inputs=inputs, outputs=outputs)


def find(name: str, signatures: Mapping[str, Signature]) -> Signature:
    """The signature of that name, "" for the default one. Raises ServingError."""
    name = name or DEFAULT_SIGNATURE
    signature = signatures.get(name)
    if signature is None:
        raise ServingError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    return signature


def check_types(inputs: Mapping[str, Array], signature: Signature) -> None:
    """Types are never cast: the caller sends what the signature says."""
    for position, slot in enumerate(signature.inputs):
        expected = tensors.TYPES.get(slot.dtype)
        if expected is None or inputs[slot.alias].dtype != expected.numpy:
            sent = tensors.type_of(inputs[slot.alias]).name
            raise invalid_argument(
                f"Expects arg[{position}] to be {tensors.type_name(slot.dtype)} but {sent} is provided"
            )


def _check_method_name(signature: Signature) -> None:
    if signature.method_name not in METHODS:
        raise ServingError(
            grpc.StatusCode.INTERNAL,
            f"Expected prediction signature method_name to be one of {{{', '.join(METHODS)}}}. "
            f"Was: {signature.method_name}",
        )


def _check_input_count(sent: Mapping[str, Any], signature: Signature) -> None:
    known = {slot.alias for slot in signature.inputs}
    if len(sent) == len(known) or (len(sent) < len(known) and signature.defaults):
        return
    raise invalid_argument(
        f"input size does not match signature: {len(sent)}!={len(known)} "
        f"len({_braces(sent)}) != len({_braces(known)}). "
        f"Sent extra: {_braces(sent.keys() - known)}. Missing but required: {_braces(known - sent.keys())}."
    )


def _decode_inputs(sent: Mapping[str, Any], signature: Signature) -> dict[str, Array]:
    inputs = {}
    for slot in signature.inputs:
        proto = sent[slot.alias] if slot.alias in sent else signature.defaults.get(slot.alias)
        if proto is None:
            raise invalid_argument(
                f"Signature input alias: {slot.alias}(feed name: {slot.tensor_name}) not found in request and no "
                f"default value provided. Inputs expected to be in the request {_braces(sent)}, or default input "
                f"alias set: {_names(signature.defaults)}"
            )
        try:
            inputs[slot.alias] = tensors.decode(proto)
        except tensors.MalformedTensorError as error:
            raise invalid_argument(f"tensor parsing error: {slot.alias}") from error
    used = sent.keys() & inputs.keys()
    if len(used) != len(sent):
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {_names(used)}, request input: {_names(sent)}"
        )
    return inputs


def _outputs(wanted: Iterable[str], signature: Signature) -> tuple[str, ...]:
    known = [slot.alias for slot in signature.outputs]
    chosen: list[str] = []
    for alias in wanted:
        if alias not in known:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_braces(known)}."
            )
        if alias in chosen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        chosen.append(alias)
    return tuple(sorted(chosen or known))


def _slots(infos: Mapping[str, Any]) -> tuple[Slot, ...]:
    return tuple(
        Slot(
            alias=alias,
            tensor_name=infos[alias].name,
            dtype=infos[alias].dtype,
            shape=_shape(infos[alias].tensor_shape),
        )
        for alias in sorted(infos)
    )


def _shape(shape: Any) -> tuple[int, ...] | None:
    return None if shape.unknown_rank else tuple(dim.size for dim in shape.dim)


def _names(names: Iterable[str]) -> str:
    return ",".join(sorted(names))


def _braces(names: Iterable[str]) -> str:
    return f"{{{_names(names)}}}"
