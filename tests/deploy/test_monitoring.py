"""Alerts and the dashboard: what they ask for exists, and each alert fires on its fault."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.running.metrics_endpoint import count_workers

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/longtail.json").read_text())
ALERTS = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SELECTOR = re.compile(r"(longtail_\w+)(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\bby \(([^)]*)\)")


def metrics() -> dict[str, set[str]]:
    """The labels of every series that the gateway has."""
    telemetry = Telemetry()
    count_workers(telemetry.registry, wanted=1, ready=lambda: 1)
    labels: dict[str, set[str]] = {}
    for collector in set(telemetry.registry._collector_to_names):  # every metric that is registered, kept or not
        for metric in getattr(collector, "describe", list)():
            names = {metric.name + suffix for suffix in SUFFIXES[metric.type]}
            labels |= {name: {*getattr(collector, "_labelnames", ()), "le"} for name in names}
    return labels


def expressions() -> Iterator[tuple[str, str]]:
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_metric_and_label_that_is_asked_for_exists(where: str, expression: str) -> None:
    known = metrics()
    held = {"job", "instance"}
    for name, matchers in SELECTOR.findall(expression):
        assert name in known, f"{where} asks for {name}, which the gateway does not have"
        held |= known[name]
        asked = set(re.findall(r"(\w+)\s*[!=]", matchers))
        assert asked <= known[name] | {"job", "instance"}, f"{where} asks {name} for {asked}"
    if "longtail_" in expression:
        for labels in GROUPING.findall(expression):
            assert {label.strip() for label in labels.split(",")} <= held, f"{where} groups by {labels}"


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for _, expression in expressions() for name, _ in SELECTOR.findall(expression)}
    missing = [
        name
        for name in {re.sub("_(bucket|sum|count)$", "", name) for name in metrics()}
        if not any(one.startswith(name) for one in shown)
    ]
    assert not missing


def test_panels_have_titles_and_ids_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_grafana_is_told_where_things_lie() -> None:
    compose = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text())
    grafana = compose["services"]["grafana"]
    mounted = {mount.split(":")[1]: DEPLOY.parent / mount.split(":")[0] for mount in grafana["volumes"]}
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/longtail.yml").read_text())["providers"]
    assert (mounted[provider["options"]["path"]] / "longtail.json").exists()
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert grafana["profiles"] == ["observe"]


def test_every_alert_has_a_test_of_its_own() -> None:
    tests = yaml.safe_load((DEPLOY / "prometheus/alerts_test.yml").read_text())["tests"]
    fired = {one["alertname"] for test in tests for one in test.get("alert_rule_test", []) if one["exp_alerts"]}
    assert fired == {rule["alert"] for rule in ALERTS}


@pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not installed: Debian's package prometheus has it"
)
def test_each_alert_fires_on_its_fault_and_none_on_a_quiet_day() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", str(DEPLOY / "prometheus/alerts_test.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
