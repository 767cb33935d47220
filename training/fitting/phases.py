"""The phases that fit a recommender: the search on validation, the refit before the test, and that on the whole log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from training.evaluation.asking import make_sheet, validation_ndcg
from training.evaluation.scoring import ModelScorer, RetrievalScorer, model_scorer
from training.examples.lessons import AnyExamples, make_examples
from training.examples.preparation import Preparation
from training.examples.split import Question
from training.fitting import warm_start
from training.fitting.checkpoint import Checkpoints
from training.fitting.distillation import Phase
from training.fitting.fitting import Fit, fit
from training.fitting.progress import Progress
from training.fitting.runs import Run
from training.fitting.untrained import new_recommender
from training.model import Recommender

REFITS: Final[dict[Phase, str]] = {
    "refit": "refit on everything before the test",
    "whole": "refit on the whole log",
}
WARM_FROM: Final[dict[Phase, Phase]] = {"search": "search", "refit": "refit", "whole": "refit"}


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What the search found, ready to be asked the validation question."""

    fit: Fit
    prepared: Preparation
    scorer: ModelScorer


@dataclass(frozen=True, kw_only=True)
class Phases:
    """The phases of one run in one folder; with `resume` what is finished there is read, not fitted again."""

    run: Run
    folder: Path
    resume: bool
    warm: bool = False  # from the weights that the last training left in the folder
    progress: Progress

    def search(self, question: Question) -> Searched:
        """Fits until validation NDCG stalls, and keeps the best epoch."""
        run, epochs = self.run, self.run.settings.max_epochs
        prepared, examples, recommender = self._begun("search", question)
        features = run.user_columns(question.moments).features
        scorer = model_scorer(recommender, question, prepared.tables, features, prepared.popularity)
        watched = scorer if run.settings.encoder == "attention" else RetrievalScorer(model=scorer)
        fitted = self._fitted(
            recommender,
            examples,
            prepared,
            phase="search",
            fingerprint="search",
            name="search on validation",
            epochs=epochs,
            validate=validation_ndcg(make_sheet(question, prepared.tables.item_row, prepared.num_rows), watched),
        )
        return Searched(fit=fitted, prepared=prepared, scorer=scorer)

    def refit(self, question: Question, epochs: int, phase: Phase = "refit") -> tuple[Recommender, Preparation]:
        """Fits for so many epochs; nothing is validated."""
        prepared, examples, recommender = self._begun(phase, question)
        fitted = self._fitted(
            recommender,
            examples,
            prepared,
            phase=phase,
            fingerprint=f"{phase}-{epochs}",
            name=REFITS[phase],
            epochs=epochs,
        )
        return fitted.recommender, prepared

    def _begun(self, phase: Phase, question: Question) -> tuple[Preparation, AnyExamples, Recommender]:
        settings = self.run.settings
        prepared = self.run.prepared(question)
        examples = make_examples(prepared, self.run.user_features, settings)
        recommender = new_recommender(prepared, examples, settings, settings.max_epochs)
        if self.run.teachers is not None:
            self.run.teachers.teach(phase, recommender, prepared, examples)
        return prepared, examples, recommender

    def _fitted(
        self,
        recommender: Recommender,
        examples: AnyExamples,
        prepared: Preparation,
        *,
        phase: Phase,
        fingerprint: str,
        name: str,
        epochs: int,
        validate: Callable[[], float] | None = None,
    ) -> Fit:
        names, told = self.run.names(prepared), self.progress
        if self.warm:
            began = warm_start.start_from(self.folder / WARM_FROM[phase], recommender, names)
            told.on_note(f"{phase} {began}")
        told.on_phase(name, epochs)
        fitted = fit(
            recommender,
            examples,
            self.run.settings,
            epochs=epochs,
            checkpoints=Checkpoints(directory=self.folder / phase, fingerprint=self.run.fingerprint(fingerprint)),
            resume=self.resume,
            validate=validate,
            on_epoch=told.on_epoch,
            on_step=told.on_step,
        )
        if phase in WARM_FROM.values():
            warm_start.keep(self.folder / phase, recommender, names)
        return fitted
