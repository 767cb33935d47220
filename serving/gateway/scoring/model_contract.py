"""contract.json, which lies beside a SavedModel, and how it may differ from what is needed or served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feature_repo.contract import MODEL_USER_FEATURES
from feature_repo.errors import LongtailError

RANK: Final = "serving_default"
RETRIEVE: Final = "retrieve"

USER_INPUTS: Final = frozenset(
    {
        "history_item_ids",
        "history_event_types",
        "history_age_s",
        "user_features",
        "user_weights",
        "user_weights_version",
    }
)
# What the gateway sends and reads.
NEEDED: Final[Mapping[str, tuple[frozenset[str], frozenset[str]]]] = {
    RANK: (USER_INPUTS | {"candidate_item_ids"}, frozenset({"scores"})),
    RETRIEVE: (USER_INPUTS, frozenset({"item_ids"})),
}


class ContractError(LongtailError):
    """A contract.json that cannot be read, or of another format."""


class NoContractError(ContractError):
    """Nothing was published on this machine, yet."""


class TensorSpec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class Signature(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


class Contract(BaseModel):
    """As far as the gateway reads it."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    format: Literal[1]
    model_name: str
    model_version: int
    signatures: dict[str, Signature]
    history_length: int = Field(ge=1)
    candidate_buckets: tuple[int, ...] = Field(min_length=1)
    embedding_size: int = Field(ge=1)
    user_features: tuple[str, ...]

    def bucket(self, count: int) -> int:
        """The smallest bucket that holds so many candidates; the largest for more."""
        buckets = sorted(self.candidate_buckets)
        return next((bucket for bucket in buckets if bucket >= count), buckets[-1])


def read_contract(path: Path) -> Contract:
    try:
        return Contract.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ContractError(f"{path} is no contract of a model: {error}; publish the model again") from error


class Contracts:
    """Where contracts are found: at the one path that is set, or beside each published version."""

    def __init__(self, *, path: Path | None, models: Path) -> None:
        self._models = models
        self._fixed = None if path is None else read_contract(path)

    def of(self, version: int) -> Contract:
        """The contract of that version; the newest where that version's is not on this machine."""
        if self._fixed is not None:
            return self._fixed
        own = self._models / str(version) / "assets.extra" / "contract.json"
        path = own if own.is_file() else self._newest()
        if path is None:
            raise NoContractError(
                f"no contract.json under {self._models}; run `longtail publish`, or set gateway.contract_path"
            )
        return read_contract(path)

    def _newest(self) -> Path | None:
        paths = self._models.glob("*/assets.extra/contract.json")
        versions = [(int(path.parts[-3]), path) for path in paths if path.parts[-3].isdecimal()]
        return max(versions)[1] if versions else None


def differences(contract: Contract, served: Mapping[str, Signature]) -> list[str]:
    """How the contract differs from what this gateway needs, and the served model from the contract."""
    found = list(_unmet_needs(contract))
    for name, signature in contract.signatures.items():
        if name not in served:
            found.append(f"signature {name!r} is not served; there are {', '.join(sorted(served)) or 'none'}")
            continue
        found += _tensor_differences(f"{name} input", signature.inputs, served[name].inputs)
        found += _tensor_differences(f"{name} output", signature.outputs, served[name].outputs)
    return found


def _unmet_needs(contract: Contract) -> Iterator[str]:
    if contract.user_features != MODEL_USER_FEATURES:
        yield (
            f"user_features are {', '.join(contract.user_features)} in the contract,"
            f" {', '.join(MODEL_USER_FEATURES)} here"
        )
    for name, (inputs, outputs) in NEEDED.items():
        signature = contract.signatures.get(name)
        if signature is None:
            yield f"the contract has no signature {name!r}"
            continue
        if inputs != signature.inputs.keys():
            extra, missing = sorted(signature.inputs.keys() - inputs), sorted(inputs - signature.inputs.keys())
            yield f"{name} inputs: this gateway does not send {extra}, and sends {missing} that the contract lacks"
        if missing := sorted(outputs - signature.outputs.keys()):
            yield f"{name} outputs: the contract lacks {missing}"


def _tensor_differences(
    where: str, expected: Mapping[str, TensorSpec], served: Mapping[str, TensorSpec]
) -> Iterator[str]:
    for name in sorted(expected.keys() | served.keys()):
        wanted, got = expected.get(name), served.get(name)
        if wanted != got:
            yield f"{where} {name!r} is {wanted or 'absent'} in the contract, {got or 'absent'} as served"
