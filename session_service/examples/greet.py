"""Asks a name and an age, insists on good answers, and greets: a wizard, written as a plain function in a thread."""

from collections.abc import Callable
from typing import TypeVar

from session_service import get_current_session

__all__ = ["greet"]

T = TypeVar("T")


def greet() -> None:
    """Ask, check, greet. The client answers each ``ask`` with an ``answer`` event."""
    session = get_current_session()
    name = session.params.get("name") or ask("What is your name?", name_of)
    age = ask(f"How old are you, {name}?", age_of)
    session.send_task_command({"command": "greeting", "spec": {"text": f"Hello {name}, {age} is a fine age!"}})


def ask(question: str, parse: Callable[[object], T]) -> T:
    """Ask until ``parse`` accepts the answer."""
    session = get_current_session()
    problem = None
    while True:
        session.send_task_command({"command": "ask", "spec": {"question": question, "problem": problem}})
        try:
            return parse(session.next_client_event()["data"])
        except ValueError as error:
            problem = str(error)


def name_of(data: object) -> str:
    """Check a name."""
    if not isinstance(data, str) or not data.strip():
        raise ValueError("a name is some text")
    return data.strip()


def age_of(data: object) -> int:
    """Check an age."""
    if not isinstance(data, (int, str)) or not str(data).strip().isdecimal():
        raise ValueError("an age is a whole number of years")
    age = int(data)
    if age > 150:
        raise ValueError(f"nobody is {age} years old")
    return age
