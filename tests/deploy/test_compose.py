"""compose.yaml and the configuration of its Prometheus."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from session_service.config import Config

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def test_it_fits_the_schema_of_compose() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_prometheus_asks_the_service_where_it_has_its_metrics() -> None:
    (volume,) = SERVICES["prometheus"]["volumes"]
    config = yaml.safe_load((ROOT / volume.split(":")[0] / "prometheus.yml").read_text())
    ((target,),) = (part["targets"] for job in config["scrape_configs"] for part in job["static_configs"])
    host, _, port = target.rpartition(":")
    assert SERVICES[host]["environment"]["SESSION_SERVICE_METRICS_LISTEN"] == f"0.0.0.0:{port}"


def test_nothing_of_it_can_be_reached_from_another_machine() -> None:
    published = [port for service in SERVICES.values() for port in service["ports"]]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_a_drain_has_ended_before_docker_kills() -> None:
    patience = int(SERVICES["session-service"]["stop_grace_period"].removesuffix("s"))
    assert Config().shutdown_grace + 20 < patience  # what a server may take beyond its grace (protocol E3)
