"""Where things lie under the state directory (`--state-dir`, LONGTAIL_STATE_DIR, default `var`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StateDir:
    """Names of the folders of one installation; makes none of them."""

    root: Path

    @property
    def downloads(self) -> Path:
        """Public data sets as fetched."""
        return self.root / "downloads"

    @property
    def events(self) -> Path:
        """The event log: `*.parquet` from imports, `segments/*.jsonl` from feedback."""
        return self.root / "events"

    @property
    def quarantine(self) -> Path:
        """Rows an import refused, with the reason."""
        return self.root / "quarantine"

    @property
    def items(self) -> Path:
        """The catalogue: `items.parquet`, item attributes and text."""
        return self.root / "items"

    @property
    def features(self) -> Path:
        """Feast's offline files, `<view>.parquet`."""
        return self.root / "features"

    @property
    def feast(self) -> Path:
        """`feature_store.yaml`, the registry, and the SQLite online store."""
        return self.root / "feast"

    @property
    def training(self) -> Path:
        """Checkpoints, the trained model, report.json and report.html."""
        return self.root / "training"

    @property
    def exports(self) -> Path:
        """SavedModels not yet published, `<version>/`."""
        return self.root / "exports"

    @property
    def models(self) -> Path:
        """The model base path a model server watches, `<version>/`."""
        return self.root / "models" / "longtail"

    @property
    def audit(self) -> Path:
        """Who used the scope `admin`, a file a day."""
        return self.root / "audit"

    @property
    def decisions(self) -> Path:
        """The decision log."""
        return self.root / "decisions"

    @property
    def campaigns(self) -> Path:
        """Whom campaigns chose."""
        return self.root / "campaigns"

    @property
    def reports(self) -> Path:
        """What `longtail report` writes."""
        return self.root / "reports"
