"""deploy/kubernetes: what Kubernetes accepts, and what the server needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest
import yaml

from session_service.cli.serve import serve
from session_service.server.server import LIVE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
RESOURCES = sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")

# The first with `sleep` in preStop, and the newest whose schemas the validator brings.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]

# What a server may take beyond its grace (protocol E3).
BEYOND_GRACE = 20


def load(name: str) -> dict[str, Any]:
    """Return the one resource of a file."""
    (resource,) = yaml.safe_load_all((FOLDER / name).read_text())
    assert isinstance(resource, dict)
    return resource


DEPLOYMENT, SERVICE, BUDGET = (load(f"{kind}.yaml") for kind in ("deployment", "service", "poddisruptionbudget"))
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
ENVIRONMENT = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
GRACE = float(ENVIRONMENT["SESSION_SERVICE_SHUTDOWN_GRACE"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", RESOURCES)
def test_each_manifest_fits_the_schema_of_its_kind(name: str, version: str) -> None:
    kubernetes_validate.validate(load(name), version, strict=True)


def test_kustomize_takes_all_manifests_and_replaces_their_image() -> None:
    kustomization = load("kustomization.yaml")
    assert sorted(kustomization["resources"]) == RESOURCES
    assert [image["name"] for image in kustomization["images"]] == [CONTAINER["image"]]


def test_the_service_and_the_budget_find_the_pods() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    for selector in (DEPLOYMENT["spec"]["selector"]["matchLabels"], SERVICE["spec"]["selector"]):
        assert selector.items() <= labels.items()
    assert BUDGET["spec"]["selector"] == DEPLOYMENT["spec"]["selector"]
    assert {port["targetPort"] for port in SERVICE["spec"]["ports"]} <= PORTS.keys()


def test_a_client_that_comes_back_finds_its_pod() -> None:
    assert SERVICE["spec"]["sessionAffinity"] == "ClientIP"


def test_a_drain_has_ended_before_kubernetes_kills() -> None:
    wait = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert wait + GRACE + BEYOND_GRACE < POD["terminationGracePeriodSeconds"]


def test_no_drain_is_taken_for_a_dead_server() -> None:
    assert CONTAINER["livenessProbe"]["grpc"]["service"] == LIVE  # tests/server/test_admin.py: a drain does not end it
    assert "service" not in CONTAINER["readinessProbe"]["grpc"]


@pytest.mark.parametrize("name", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_the_probes_ask_the_port_of_the_image_by_gRPC(name: str) -> None:
    assert CONTAINER[name]["grpc"]["port"] == PORTS["grpc"]
    assert f"\nEXPOSE {PORTS['grpc']}\n" in (ROOT / "Dockerfile").read_text()


def test_the_pod_runs_as_the_user_of_the_image() -> None:
    context = POD["securityContext"]
    assert f"\nUSER {context['runAsUser']}:{context['runAsGroup']}\n" in (ROOT / "Dockerfile").read_text()


def test_its_arguments_are_a_call_of_the_command() -> None:
    command, *arguments = CONTAINER["args"]
    assert command == serve.name
    with serve.make_context(command, arguments) as context:
        assert context.params["apps"] == ("session_service.examples:apps",)
