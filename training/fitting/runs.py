"""A run: one log and one set of settings, and what is read of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from feature_repo.log.extent import Extent
from feature_repo.settings import FeatureSettings
from training import artifact
from training.blend.evidence import Evidence, learn_evidence
from training.examples.attributes import item_vectors, items_without
from training.examples.moments import Moments
from training.examples.preparation import Preparation, prepare
from training.examples.shown import Refused, read_refused
from training.examples.split import Question
from training.fitting import warm_start
from training.fitting.distillation import Teachers
from training.log.engagements import Engagements
from training.log.log_reader import LogReader, UserColumns, open_log
from training.network.items import ItemTerms, item_terms
from training.settings import NOT_LEARNING, TrainingSettings

NO_IDS: Final = np.array([], object)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One log and one set of settings."""

    reader: LogReader
    log: Engagements
    settings: TrainingSettings
    catalogue: Path | None = None  # items.parquet
    refused: Refused | None = None  # of training.impressions
    teachers: Teachers | None = None  # what it trains is a student of these

    def with_settings(self, settings: TrainingSettings) -> Run:
        """The same log, learnt from in another way."""
        return replace(self, settings=settings)

    def evidence(self, prepared: Preparation, cold_ids: np.ndarray = NO_IDS) -> Evidence:
        """What is learnt before the cut; the content of items that nobody has met follows the others."""
        ids = np.concatenate([self.log.item_ids[prepared.known_items], cold_ids])
        vectors = item_vectors(self.catalogue, ids).values
        return learn_evidence(prepared.fit, prepared.tables.item_row, prepared.num_rows, vectors)

    def prepared(self, question: Question) -> Preparation:
        """What a model learns from before a question's cut, the catalogue included."""
        return prepare(question.fit, question.cut_us, self._terms, self.refused)

    def _terms(self, known_items: np.ndarray) -> ItemTerms | None:
        cold = items_without(self.catalogue, self.log.item_ids[known_items])
        said = item_vectors(self.catalogue, np.concatenate([self.log.item_ids[known_items], cold]))
        most = self.settings.terms_per_item
        return item_terms(said.values, said.terms, cold, most=most) if most and len(said.terms) else None

    def user_columns(self, moments: Moments) -> UserColumns:
        return self.reader.user_columns(self.log.user_ids[moments.user], moments.as_of_us)

    def user_features(self, user: np.ndarray, as_of_us: np.ndarray) -> np.ndarray:
        return self.reader.user_columns(self.log.user_ids[user], as_of_us).features

    def names(self, prepared: Preparation) -> warm_start.Names:
        return warm_start.Names(
            item_ids=self.log.item_ids[prepared.known_items].astype(str),
            event_types=self.log.event_types.astype(str),
            terms=prepared.terms.names if prepared.terms else np.array([], str),
            cut_us=prepared.cut_us,
        )

    def fingerprint(self, phase: str) -> str:
        """Of everything that decides the run's numbers."""
        settings = self.settings.model_dump_json(exclude=set(NOT_LEARNING))
        taught = "" if self.teachers is None else f" {self.teachers.as_json()}"
        digest = hashlib.sha256(f"{artifact.FORMAT} {settings} {self.log_fingerprint()}{taught}".encode())
        return f"{phase}-{digest.hexdigest()[:16]}"

    def log_fingerprint(self) -> str:
        """Of what is learnt from: the log, the catalogue and the impressions."""
        digest = hashlib.sha256()
        if self.refused is not None:
            for values in (self.refused.user, self.refused.item, self.refused.time_us, self.refused.weight):
                digest.update(np.ascontiguousarray(values).tobytes())
        if self.catalogue is not None and self.catalogue.exists():
            digest.update(self.catalogue.read_bytes())
        for values in (self.log.user, self.log.item, self.log.event_type, self.log.time_us):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]


def start(
    events: Path,
    features: FeatureSettings,
    settings: TrainingSettings,
    *,
    catalogue: Path | None = None,
    extent: Extent | None = None,
) -> Run:
    """Reads the log, or so much of it, and the impressions; `catalogue` is the file of the items, if there is one."""
    reader = open_log(events, features, extent)
    log = reader.engagements()
    refused = None if settings.impressions is None else read_refused(settings.impressions, log)
    return Run(reader=reader, log=log, settings=settings, catalogue=catalogue, refused=refused)
