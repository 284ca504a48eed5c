"""Who asks for metrics, the dashboard and the alerts, asks for what a real server has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from session_service.server.auth.tokens import add_token

from ..cli.program import Program, Served
from ..protocol.peer import event
from .scrape import Scrape, metrics_address, scrape

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "session-service.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())

# What Prometheus itself adds to each sample.
OF_PROMETHEUS = {"job", "instance"}

Labels = dict[str, set[str]]


def panels() -> Iterator[dict[str, Any]]:
    for panel in DASHBOARD["panels"]:
        yield panel
        yield from panel.get("panels", [])


QUERIES = [(panel["title"], target["expr"]) for panel in panels() for target in panel.get("targets", [])]
RULES = [(rule["alert"], rule["expr"]) for group in ALERTS["groups"] for rule in group["rules"]]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


@pytest.fixture
async def served(program: Program) -> Served:
    """A server after a little traffic, with everything on that has metrics."""
    program.write("""
        from session_service import get_current_session

        async def echo():
            session = get_current_session()
            session.send_task_command({"command": "echo", "spec": (await session.next_client_event())["data"]})
    """)
    token = add_token(str(program.folder / "tokens"), "ada")
    served = await program.serve("--metrics-listen", "127.0.0.1:0", "--token-file", "tokens", "apps:echo")
    peer = await served.open("echo", metadata=[("authorization", f"Bearer {token}")])
    await peer.send(events=[event("say", 1)])
    await peer.receive_all()
    return served


def labels_of(found: Scrape) -> dict[str, Labels]:
    """Return the labels of each sample's name, and their values."""
    names: dict[str, Labels] = {}
    for metric in found.metrics:
        for sample in metric.samples:
            labels = names.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return names


def check(expression: str, names: dict[str, Labels]) -> set[str]:
    """Return the labels of an expression's result; fail where it asks for what there is not.

    Args:
        expression: PromQL, with Grafana's variables.
        names: the labels of each name, and their values.
    """
    return _check(promql_parser.parse(expression.replace("$__rate_interval", "5m")), names)


def _check(part: Any, names: dict[str, Labels]) -> set[str]:
    match part:
        case promql_parser.VectorSelector():
            assert part.name in names, f"there is no {part.name}"
            labels = names[part.name]
            for matcher in part.matchers.matchers:
                assert matcher.name in labels.keys() | OF_PROMETHEUS, f"{part.name} has no {matcher.name}"
                if not matcher.value.startswith("$") and matcher.name in labels:
                    assert matcher.value in labels[matcher.name], f"{matcher.name} is never {matcher.value}"
            return labels.keys() | OF_PROMETHEUS
        case promql_parser.MatrixSelector():
            return _check(part.vector_selector, names)
        case promql_parser.AggregateExpr():
            known = _check(part.expr, names)
            wanted = set(part.modifier.labels) if part.modifier is not None else set()
            assert wanted <= known, f"{part.expr} has no {wanted - known}"
            return wanted
        case promql_parser.BinaryExpr():
            return _check(part.lhs, names) | _check(part.rhs, names)
        case promql_parser.Call():
            return set().union(*(_check(argument, names) for argument in part.args))
        case promql_parser.NumberLiteral():
            return set()
    raise AssertionError(f"the test does not know {type(part)}")


async def test_each_query_of_the_dashboard_asks_for_what_there_is(served: Served) -> None:
    names = labels_of(await scrape(metrics_address(served.log())))
    assert len(QUERIES) > 20
    for panel, expression in QUERIES:
        try:
            check(expression, names)
        except (AssertionError, ValueError) as error:
            pytest.fail(f"{panel}: {error}: {expression}")


async def test_each_legend_names_labels_of_its_query(served: Served) -> None:
    names = labels_of(await scrape(metrics_address(served.log())))
    for panel in panels():
        for target in panel.get("targets", []):
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert shown <= check(target["expr"], names), panel["title"]


async def test_each_alert_asks_for_what_there_is(served: Served) -> None:
    names = labels_of(await scrape(metrics_address(served.log())))
    for alert, expression in RULES:
        labels = check(expression, names)
        (rule,) = (rule for group in ALERTS["groups"] for rule in group["rules"] if rule["alert"] == alert)
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= labels, alert


async def test_the_variables_of_the_dashboard_have_values(served: Served) -> None:
    names = labels_of(await scrape(metrics_address(served.log())))
    for name in ("job", "instance", "app"):
        query = re.fullmatch(r"label_values\((.+), (\w+)\)", VARIABLES[name]["query"]["query"])
        assert query is not None
        assert query[2] in check(query[1], names)
    used = set(re.findall(r"\$(?:{)?(\w+)", json.dumps(DASHBOARD["panels"]))) - {"__rate_interval"}
    assert used == VARIABLES.keys()


async def test_every_metric_is_on_the_dashboard_but_those_that_others_need(served: Served) -> None:
    found = await scrape(metrics_address(served.log()))
    ours = {metric.name for metric in found.metrics if metric.name.startswith("session_service_")}
    shown = "\n".join(expression for _, expression in QUERIES)
    missing = {name for name in ours if not re.search(rf"\b{name}(_total|_bucket)?\b", shown)}
    assert missing == {
        "session_service_event_loop_blocks",  # the lag says more
        "session_service_file_load_failures",  # and file_failing
        "session_service_file_loads",
        "session_service_threads_limit",
    }


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("sum(rate(session_service_evnets_total[5m]))", "there is no session_service_evnets_total"),
        ('session_service_sessions{stat="attached"}', "session_service_sessions has no stat"),
        ('session_service_sessions{state="attacked"}', "state is never attacked"),
        ("sum by (reason) (session_service_sessions)", "has no {'reason'}"),
        ("rate(session_service_sessions)", "expected type"),
    ],
)
def test_a_query_for_what_there_is_not_is_found_out(expression: str, fault: str) -> None:
    names = {"session_service_sessions": {"state": {"attached"}, "app": {"echo"}}}
    with pytest.raises((AssertionError, ValueError), match=re.escape(fault)):
        check(expression, names)


def test_no_two_panels_have_the_same_place_or_id() -> None:
    found = list(panels())
    assert len({panel["id"] for panel in found}) == len(found)
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in found
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24  # what Grafana's grid has
