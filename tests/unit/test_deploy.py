"""What is deployed beside the services: it asks for metrics that exist, and its parts fit together."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.metrics import Samples, everything, names

ROOT = Path(__file__).parent.parent.parent
PROMETHEUS = ROOT / "deploy/prometheus"
GRAFANA = ROOT / "deploy/grafana"
# What Prometheus itself adds: series, labels of every target, and those of its alerts.
BUILT_IN = {"up", "ALERTS"}
TARGET_LABELS = {"job", "instance"}
WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "bool"}

SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")


def loaded(path: Path) -> Any:
    return msgspec.yaml.decode(path.read_bytes())


def alerts() -> list[dict[str, Any]]:
    return [rule for group in loaded(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]


def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GRAFANA / "dashboards/smsim.json").read_text())
    return found


def queries() -> dict[str, str]:
    """Every PromQL expression, by where it stands."""
    found = {rule["alert"]: rule["expr"] for rule in alerts()}
    for panel in board()["panels"]:
        for target in panel.get("targets", []):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    return found


def metrics_in(expression: str) -> set[str]:
    """The names of metrics in an expression: all that is no function, keyword, label, string or duration."""
    bare = re.sub(r'"[^"]*"', "", expression)
    for noise in (r"\{[^}]*\}", r"\[[^\]]*\]", GROUPING.pattern):
        bare = re.sub(noise, " ", bare)
    found = re.findall(r"(?<![\w.])([a-zA-Z_:][\w:]*)\b(?!\s*\()", bare)
    return set(found) - WORDS


def test_names_are_found_in_expressions() -> None:
    """The test below is blind to nothing: functions, labels, strings and durations aside, every name counts."""
    expression = (
        'sum by (le, job) (rate(a_total{b="c_d",e!~"f"}[5m])) / max(g) > 1e3 and time() - h or absent(i)'
    )
    assert metrics_in(expression) == {"a_total", "g", "h", "i"}


async def test_every_metric_and_label_that_is_asked_for_exists() -> None:
    """A metric, label or label's value that is renamed in a service breaks this, not an alert at night."""
    services = list((await everything()).values())
    known = names(services)
    for where, expression in queries().items():
        asked = metrics_in(expression)
        assert asked, where
        assert asked <= known | BUILT_IN, where
        labels = {label for name in asked for label in _labels(services, name)}
        for group in GROUPING.findall(expression):
            assert {label.strip() for label in group.split(",")} <= labels | TARGET_LABELS, where
        for name, matchers in SELECTOR.findall(expression):
            for label, how, value in MATCHER.findall(matchers):
                if label not in TARGET_LABELS and name not in BUILT_IN:
                    assert _matches(services, name, label, how, value), (where, label, value)


def _labels(services: list[Samples], name: str) -> set[str]:
    return {label for one in services for labels in one.labels(name) for label in labels}


def _matches(services: list[Samples], name: str, label: str, how: str, value: str) -> bool:
    """Whether some sample has a value there that the matcher speaks of, be it to leave it out."""
    values = [labels.get(label) for one in services for labels in one.labels(name)]
    pattern = value if "~" in how else re.escape(value)
    return any(found is not None and re.fullmatch(pattern, found) for found in values)


async def test_every_alert_is_explained_and_every_metric_documented() -> None:
    """Summary, description, a runbook that leads to a section of its own; every metric of ours is documented."""
    document = (ROOT / "docs/monitoring.md").read_text()
    sections = {line[4:].lower() for line in document.splitlines() if line.startswith("### ")}
    for rule in alerts():
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
        path, section = rule["annotations"]["runbook"].split("#")
        assert path == "docs/monitoring.md"
        assert section == rule["alert"].lower()
    assert sections == {rule["alert"].lower() for rule in alerts()}
    for samples in (await everything()).values():
        for family in samples.families:
            if family.name.startswith("smsim_"):
                assert re.search(rf"`{family.name}(_total)?[`{{]", document), family.name


def test_every_alert_is_tested() -> None:
    """alerts_test.yml has each of them fire."""
    tested = (PROMETHEUS / "alerts_test.yml").read_text()
    assert [rule["alert"] for rule in alerts() if rule["alert"] not in tested] == []


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt install prometheus"
)
@pytest.mark.parametrize(
    "command", [["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]], ids=" ".join
)
def test_promtool_is_content(command: list[str]) -> None:
    """The configuration and the rules are valid, and the rules do what alerts_test.yml says."""
    done = subprocess.run(
        ["promtool", *command], cwd=PROMETHEUS, text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_what_the_stack_serves() -> None:
    """Each job is a service of docker-compose.yml, at the port that its METRICS_PORT says."""
    services = loaded(ROOT / "docker-compose.yml")["services"]
    jobs = loaded(PROMETHEUS / "prometheus.yml")["scrape_configs"]
    scraped = {n: dns for job in jobs for dns in job.get("dns_sd_configs", []) for n in dns["names"]}
    assert scraped.keys() == {"sender", "monitor", "gateway"}
    for name, dns in scraped.items():
        assert services[name]["environment"]["METRICS_PORT"] == str(dns["port"])
        assert services[name]["environment"]["METRICS_HOST"] == "0.0.0.0"
        assert set(services[name]["networks"]) & set(services["prometheus"]["networks"])
        assert f"smsim-{name}" in {job["job_name"] for job in jobs}


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_the_services_are_hardened_and_stay_on_this_machine(name: str) -> None:
    """Only with the profile; no privileges, a read-only root, limits; ports on 127.0.0.1; pinned images."""
    service = loaded(ROOT / "docker-compose.yml")["services"][name]
    assert service["profiles"] == ["observability"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    variable, image = re.fullmatch(r"\$\{(\w+):-(.+)\}", service["image"]).groups()  # type: ignore[union-attr]
    assert re.search(r":v?\d+\.\d+\.\d+$", image)
    assert f"{variable}={image}" in (ROOT / ".env.example").read_text().splitlines()
    for volume in service["volumes"]:
        source, _, mode = (*volume.split(":"), "rw")[:3]
        assert not source.startswith(".") or (mode == "ro" and (ROOT / source).is_dir())


def test_the_dashboard_is_provisioned_with_its_datasource() -> None:
    """Every panel asks the datasource that is provisioned, which is the stack's Prometheus; the home page exists."""
    (source,) = loaded(GRAFANA / "provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = loaded(GRAFANA / "provisioning/dashboards/smsim.yml")["providers"]
    grafana = loaded(ROOT / "docker-compose.yml")["services"]["grafana"]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in grafana["volumes"]}
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (ROOT / mounted[str(home.parent)] / home.name).is_file()

    for panel in board()["panels"]:
        asked = [panel, *panel.get("targets", [])] if panel["type"] != "row" else []
        assert all(one["datasource"] == {"type": "prometheus", "uid": source["uid"]} for one in asked)


def test_the_panels_have_room() -> None:
    """No id twice, nothing beside the grid, no panel over another."""
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        mine = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not mine & cells, panel["title"]
        cells |= mine
