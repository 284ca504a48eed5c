"""An app in the image, as docs/image.md shows it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from session_client import CloseReason, SyncSessionClient

from .conftest import ROOT
from .engine import Container, Engine, Start

PAGE = (ROOT / "docs" / "image.md").read_text()
APP = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)[0]
COPIED, WITH_PACKAGES = re.findall(r"^```dockerfile\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
(MOUNTED,) = re.findall(r"^(docker run .*:/app.*)$", PAGE, re.MULTILINE)


@pytest.fixture
def folder(folder: Path) -> Path:
    """Save the README's app."""
    (folder / "order.py").write_text(APP)
    return folder


def order(container: Container) -> None:
    """Order tea, and get a receipt."""
    with SyncSessionClient(container.address) as client, client.open("order") as session:
        assert next(session).command == "ask"
        session.send_event("add", "tea")
        assert next(session).command == "ask"
        session.send_event("done")
        assert next(session).spec == {"items": ["tea"]}
        assert list(session) == []
    assert session.closed is not None
    assert session.closed.reason is CloseReason.COMPLETED


def build(engine: Engine, dockerfile: str, folder: Path, image: str) -> str:
    """Build an image of the app upon ``image``."""
    tag = "session-service-order:test"
    (folder / "Dockerfile").write_text(dockerfile.replace("FROM session-service\n", f"FROM {image}\n"))
    engine.build(tag, folder)
    return tag


def test_an_app_is_copied_into_an_image_of_its_own(engine: Engine, image: str, folder: Path, start: Start) -> None:
    order(start(image=build(engine, COPIED, folder, image)))


def test_such_an_image_can_have_packages_and_is_still_not_roots(
    engine: Engine, image: str, folder: Path, start: Start
) -> None:
    container = start(image=build(engine, WITH_PACKAGES, folder, image))
    order(container)
    assert container.execute("python", "-c", "import slugify, os; print(os.getuid())") == "10001\n"


def test_an_app_is_mounted_and_its_folder_left_as_it_was(image: str, folder: Path, start: Start) -> None:
    words = shlex.split(MOUNTED.replace("$PWD", str(folder)))
    name = words.index("session-service")
    volume = words[words.index("-v") + 1].removesuffix(":ro")  # writable here, and nothing is written all the same
    folder.chmod(0o777)
    order(start(*words[name + 1 :], image=image, options=("--volume", volume)))
    assert [path.name for path in folder.iterdir()] == ["order.py"]
