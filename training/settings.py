"""Settings of training, section `[training]`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from feature_repo import missing_values
from feature_repo.contract import HISTORY_LENGTH, MODEL_USER_FEATURES
from training.network.compression import Compression


class TrainingSettings(BaseModel):
    """How the recommender is trained, evaluated and exported."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # the model
    encoder: Literal["attention", "transformer", "bert"] = Field(
        "transformer",
        description="How the history is encoded: `attention` (the paper's), `transformer` (causal, learns from every "
        "place of a sequence) or `bert` (both ways, learns from masked items).",
    )
    embedding_size: int = Field(64, ge=1, description="Width of item vectors, and of W_u.")
    num_heads: int = Field(
        8,
        ge=1,
        description="Heads of the candidates' attention and of the encoder `attention`.",
    )
    sequence_heads: int = Field(2, ge=1, description="Heads of the blocks of `transformer` and `bert`.")
    num_blocks: int = Field(1, ge=0, description="Self-attention blocks that encode the history.")
    neighbours: int = Field(
        128,
        ge=1,
        description="Nearest items of each item that the blend keeps in each of its matrices; a catalogue of more than "
        "62,500 items keeps fewer.",
    )
    history_length: Literal[50] = Field(
        HISTORY_LENGTH, description="Behaviours the model reads; the feature view keeps as many."
    )
    time_gaps: bool = Field(
        True, description="Whether the encoder reads the time between behaviours; `attention` reads how old they are."
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="Share of activations dropped in training.")
    user_prior: float = Field(
        50.0, ge=0, description="Precision of the Gaussian prior of δ_u around 0; larger keeps users nearer to W_0."
    )
    learnt_prior: bool = Field(
        False,
        description="Whether δ_u has its mean where users of such a history and such features have theirs, and not at "
        "0: a linear map of what the encoder makes of the user, learnt beside it and a part of the model.",
    )
    user_dropout: float = Field(
        0.3, ge=0, le=1, description="Share of examples trained with δ_u = 0, so that W_0 serves new users too."
    )
    # what the catalogue says of items
    terms_per_item: int = Field(
        16, ge=0, description="Words, categories and price of an item that go into its vector; 0 leaves them out."
    )
    own_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="How often only those are read, so that they can place an item without events.",
    )
    # what is known of users
    missing_values: dict[str, str] = Field(
        {},
        description="What stands in for a user feature that is missing, by the feature's name, where it is not what "
        "the contract says: `keep`, `mean`, `median`, `similar` or `constant(x)`.",
    )
    # examples
    moments_per_user: int = Field(16, ge=1, description="Moments of each user's life that become examples.")
    positives: int = Field(8, ge=1, description="Items the user went on to engage with, drawn per moment and epoch.")
    negatives: int = Field(64, ge=1, description="Items drawn at random per moment and epoch.")
    popularity_share: float = Field(
        0.0, ge=0, le=1, description="Share of negatives drawn by popularity; the rest uniformly."
    )
    horizon: int = Field(64, ge=1, description="Positives are drawn among the next so many new items.")
    half_life_days: float = Field(
        0.0, ge=0, description="An example this old counts half as much as one at the cut; 0 counts all alike."
    )
    return_weight: float = Field(
        10.0, gt=0, description="An example of a user who comes back after a pause counts as so many within a visit."
    )
    impressions: Path | None = Field(
        None,
        description="What `longtail impressions` wrote: items that were shown and not chosen become negatives of the "
        "ranking head, weighed by examination and inverse propensity; unset: none.",
    )
    # sequences: `transformer` and `bert`
    loss: Literal["softmax", "gbce"] = Field(
        "softmax", description="Of what came next: softmax with logQ correction, or gBCE."
    )
    shared_negatives: int = Field(
        1024, ge=1, description="Negatives that a batch shares; a catalogue of up to twice as many is taken whole."
    )
    shared_popularity_share: float = Field(
        0.5, ge=0, le=1, description="Share of the shared negatives drawn by popularity; the rest uniformly."
    )
    gbce_calibration: float = Field(0.75, ge=0, le=1, description="gBCE's t: 0 is binary cross-entropy, 1 calibrated.")
    mask_share: float = Field(0.3, ge=0, lt=1, description="Share of `bert`'s behaviours that are masked and guessed.")
    head_weight: float = Field(1.0, ge=0, description="What the ranking head's loss counts beside the sequence's.")
    batch_rows: int = Field(32, ge=1, description="Packed rows of 51 tokens in a batch; fewer when the log is small.")
    # the fit
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="What layers compute in while training: bfloat16 is for hardware that has it. Weights, losses and "
        "the kept model are float32 either way.",
    )
    devices: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Over how many of this machine's devices each batch is split; `auto`: all of them on JAX "
        "(`KERAS_BACKEND=jax`), one elsewhere. The result is the same but for rounding.",
    )
    seed: int = Field(0, ge=0, description="Of initial weights, order, dropout and sampling.")
    batch_size: int = Field(128, ge=1, description="Moments in a batch; fewer when the log is small.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak; warmed up over the first and cooled to 0 by the last.")
    weight_decay: float = Field(0.0, ge=0, description="Of AdamW.")
    max_epochs: int = Field(12, ge=1, description="Passes over the moments at most.")
    warm_epochs: int = Field(
        4, ge=1, description="The same when the weights of the last training are the start: `longtail train --warm`."
    )
    patience: int = Field(3, ge=1, description="Epochs without a better validation NDCG@10 before the search stops.")
    configurations_tried: int = Field(
        1,
        ge=1,
        description="So many were compared on validation before these settings were chosen, as `longtail tune` counts "
        "them; the report and the model card say it.",
    )
    # a small student of the kept model: `longtail train --distil`
    student_embedding_size: int = Field(32, ge=1, description="The student's `embedding_size`.")
    student_num_heads: int = Field(2, ge=1, description="The student's `num_heads`.")
    student_neighbours: int = Field(32, ge=1, description="The student's `neighbours`.")
    distil_temperature: float = Field(
        2.0, gt=0, description="Softens the orders of teacher and student; 1 leaves them as they are."
    )
    distil_weight: float = Field(
        0.5, ge=0, le=1, description="What the teacher counts in the student's loss; the labels count the rest."
    )
    # who is told of a run
    tensorboard_dir: Path | None = Field(
        None, description="Each run writes TensorBoard's event files into a folder of its own here; unset: none."
    )
    mlflow_tracking_uri: SecretStr | None = Field(
        None,
        description="Each run becomes one of this MLflow tracking server (`http://…`, or `sqlite:///runs.db`); unset: "
        "none. Needs the extra `mlflow`. A password goes into MLFLOW_TRACKING_PASSWORD.",
    )
    mlflow_experiment: str = Field("longtail", min_length=1, description="The MLflow experiment of these runs.")
    # the split
    validation_from: float = Field(0.8, gt=0, lt=1, description="Quantile of event times where validation starts.")
    test_from: float = Field(0.9, gt=0, lt=1, description="Quantile where validation ends and test starts.")
    returning_after_days: float = Field(
        7.0, gt=0, description="The report's slice of returning users: so long from the last event to the first target."
    )
    dormant_after_days: float = Field(
        90.0, gt=0, description="The report's slice of dormant users: so long from the last event to the first target."
    )
    # the release
    refit: bool = Field(
        True, description="`longtail retrain` runs `longtail refit`, so that what is served knows the whole log."
    )
    gate_errors: float = Field(
        2.0, gt=0, description="`publish` refuses a model that is worse in a segment by over so many standard errors."
    )
    model_config_file: Path | None = Field(
        None, description="The model server's --model_config_file; `longtail label` keeps versions and labels in it."
    )
    # the export
    retrieve_k: int = Field(200, ge=1, description="Items that `retrieve` gives, capped by the catalogue.")
    compression: Compression = Field(
        "none",
        description="How `export` keeps the large tables: `none`, `float16`, `int8` or `pq` (product quantization of "
        "the items' vectors). `evaluate` measures the model as it is then.",
    )
    candidate_buckets: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (16, 50, 100, 200, 500, 1000),
        min_length=1,
        description="Numbers of candidates that are warmed up; callers pad to one.",
    )

    @field_validator("missing_values", mode="before")
    @classmethod
    def _of_known_features(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        for name in given:
            if name not in MODEL_USER_FEATURES:
                raise ValueError(f"there is no user feature {name!r}; there are {', '.join(MODEL_USER_FEATURES)}")
        chosen = {name: str(missing_values.parse(str(strategy))) for name, strategy in given.items()}
        return dict(sorted(chosen.items()))


OF_STUDENT: Final = frozenset(
    {
        "student_embedding_size",
        "student_num_heads",
        "student_neighbours",
        "distil_temperature",
        "distil_weight",
    }
)
"""Settings that only a student depends on."""

NOT_LEARNING: Final = OF_STUDENT | frozenset(
    {
        "configurations_tried",
        "neighbours",
        "devices",
        "tensorboard_dir",
        "mlflow_tracking_uri",
        "mlflow_experiment",
        "returning_after_days",
        "dormant_after_days",
        "refit",
        "gate_errors",
        "model_config_file",
        "retrieve_k",
        "candidate_buckets",
        "compression",
    }
)
"""Settings that no checkpoint depends on, but for a student's."""


def learning_settings(settings: TrainingSettings) -> dict[str, Any]:
    """The others, as JSON values: what one run differs from another by, and how many were compared before it."""
    return settings.model_dump(
        mode="json", exclude=set(NOT_LEARNING - OF_STUDENT - {"configurations_tried", "neighbours"})
    )
