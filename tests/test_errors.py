"""The tree of exceptions, and what they carry."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from google.rpc import code_pb2

from session_service import errors

PROTOCOL = Path(__file__).parents[1] / "docs/protocol.md"


def tree_of_the_docstring() -> dict[str, str]:
    """Return each name in the tree at the top of errors.py with the name that it hangs under."""
    assert errors.__doc__ is not None
    parents: dict[str, str] = {}
    above: list[str] = ["Exception"]
    for line in errors.__doc__.splitlines():
        branch = re.match(r"    ((?:│   |    )*)[├└]── (\w+(?:, \w+)*)(?:$|  )", line)
        if branch is None:
            continue
        depth = len(branch[1]) // 4 + 1
        names = branch[2].split(", ")
        parents |= dict.fromkeys(names, above[depth - 1])
        above[depth:] = [names[0]]
    return parents


def exceptions() -> dict[str, type[errors.SessionException]]:
    return {
        name: member
        for name, member in vars(errors).items()
        if inspect.isclass(member) and issubclass(member, errors.SessionException)
    }


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    classes = {}
    for name, exception in exceptions().items():
        assert exception.__base__ is not None
        classes[name] = exception.__base__.__name__
    assert tree_of_the_docstring() == classes


def test_every_exception_is_public() -> None:
    assert exceptions().keys() == set(errors.__all__) - {"Code", "PROTOCOL_ERRORS", "Retry"}


def test_every_exception_says_when_it_is_raised() -> None:
    assert [name for name, exception in exceptions().items() if not exception.__doc__] == []


def test_what_is_caught_as_ours_is_no_exception_of_python_s_own() -> None:
    assert errors.SessionException.__bases__ == (Exception,)
    assert all(len(exception.__bases__) == 1 for exception in exceptions().values())


def test_the_details_of_a_protocol_error_are_text_for_they_become_metadata() -> None:
    error = errors.ProtocolViolation("ack 7 is beyond what was sent (5)", sent=5, hint="none")
    assert str(error) == "ack 7 is beyond what was sent (5)"
    assert error.details == {"sent": "5", "hint": "none"}
    assert errors.Draining("shutting down").details == {}


def test_a_payload_error_names_the_path_of_the_fault() -> None:
    error = errors.PayloadError("spec.items[3].when", "datetime is no JSON value")
    assert error.path == "spec.items[3].when"
    assert str(error) == "spec.items[3].when: datetime is no JSON value"


def test_a_gap_says_from_where_to_send_again_d2() -> None:
    error = errors.SequenceGap(expected=4, first=7)
    assert error.expected == 4
    assert error.details == {"expected": "4"}
    assert "4" in str(error)
    assert "7" in str(error)


@pytest.mark.parametrize("by_same_client", [True, False])
def test_a_take_over_says_whether_it_was_by_the_same_client_a3(by_same_client: bool) -> None:
    assert errors.TakenOver(by_same_client).by_same_client is by_same_client


# --- the status of each ---


def rows_of_the_page() -> list[tuple[str, str, str]]:
    """Return the status, the reason and what a client does, of each row of the table of docs/protocol.md, Errors."""
    table = PROTOCOL.read_text().split("| what happened | status | reason | retry | rule |\n")[1].split("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]
    return [(status, reason, retry) for _, status, reason, retry, _ in cells if reason.isupper()]


def test_the_table_of_the_protocol_is_what_the_errors_say() -> None:
    page = {(status, reason, re.split(r"\W", retry)[0]) for status, reason, retry in rows_of_the_page()}
    assert page == {(kind.code.name, kind.reason, kind.retry.value) for kind in errors.PROTOCOL_ERRORS}


def test_every_error_that_ends_a_stream_has_a_status_and_a_reason_of_its_own() -> None:
    leaves = {kind for kind in exceptions().values() if issubclass(kind, errors.ProtocolError)}
    leaves -= {errors.ProtocolError, errors.RemoteError, errors.Refusal}
    assert leaves == set(errors.PROTOCOL_ERRORS)
    assert len({kind.reason for kind in leaves}) == len(leaves)


def test_the_numbers_are_those_of_google_rpc() -> None:
    assert {code.name: code.value for code in errors.Code}.items() <= dict(code_pb2.Code.items()).items()


def test_a_stream_that_its_own_client_took_over_may_come_back_a3() -> None:
    assert errors.TakenOver(by_same_client=True).retry is errors.Retry.RESUME
    assert errors.TakenOver(by_same_client=False).retry is errors.Retry.NEVER
    assert ("ABORTED", "TAKEN_OVER", "NEVER, or RESUME") in rows_of_the_page()
