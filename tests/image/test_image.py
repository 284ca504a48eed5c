"""What is in the image, what is not, and what it says of itself."""

from __future__ import annotations

import tomllib

from session_service import __version__

from .conftest import ROOT
from .engine import Engine


def test_it_runs_as_a_fixed_user_that_is_not_root(engine: Engine, image: str) -> None:
    assert engine.run("--rm", "--entrypoint", "id", image, "-u").strip() == "10001"
    assert engine.inspect(image)["Config"]["User"] == "10001:10001"


def test_that_user_owns_nothing_and_can_write_no_file_of_the_service(engine: Engine, image: str) -> None:
    assert engine.output_in(image, "find / -xdev -user 10001") == ""
    assert engine.run("--rm", "--entrypoint", "sh", image, "-c", "find /app /usr -writable ! -type l") == ""


def test_there_is_no_compiler_in_it(engine: Engine, image: str) -> None:
    tools = "cc gcc g++ c++ clang ld as make"
    assert engine.output_in(image, f"for tool in {tools}; do command -v $tool; done; true") == ""


def test_what_it_was_built_from_is_not_in_it(engine: Engine, image: str) -> None:
    leftovers = "-name 'session_service*.whl' -o -name 'grpcio*.whl' -o -path '*/.cache/pip' -o -path /src"
    assert engine.output_in(image, f"find / -xdev \\( {leftovers} \\)") == ""


def test_its_packages_fit_together_and_the_extras_are_among_them(engine: Engine, image: str) -> None:
    assert "No broken requirements" in engine.output_in(image, "pip check && python -c 'import jwt, uvloop'")


def test_nothing_is_left_to_be_compiled_at_each_start(engine: Engine, image: str) -> None:
    listing = "import session_service; print(session_service.__cached__)"
    assert engine.output_in(image, f"test -f $(python -c '{listing}') && echo compiled") == "compiled\n"


def test_it_declares_how_it_is_called_stopped_and_asked(engine: Engine, image: str) -> None:
    inspected = engine.inspect(image)
    config = inspected["Config"]
    assert config["Entrypoint"] == ["session-service"]
    assert config["Cmd"] == ["serve", "--insecure", "session_service.examples:apps"]
    assert config["WorkingDir"] == "/app"
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["ExposedPorts"]) == ["50051/tcp"]
    assert "SESSION_SERVICE_LISTEN=0.0.0.0:50051" in config["Env"]
    health = config.get("Healthcheck") or inspected["Healthcheck"]  # Docker's place, and Podman's
    assert health["Test"] == ["CMD", "session-service", "healthcheck"]


def test_its_labels_say_what_the_distribution_says(engine: Engine, image: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    labels = engine.inspect(image)["Config"]["Labels"]
    assert {name: labels[f"org.opencontainers.image.{name}"] for name in ("title", "description", "version")} == {
        "title": project["name"],
        "description": project["description"],
        "version": __version__,
    }
    assert labels["org.opencontainers.image.licenses"] == project["license"]
