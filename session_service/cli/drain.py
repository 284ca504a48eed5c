"""``session-service drain``: has a server end in good order, as SIGTERM does."""

from __future__ import annotations

import click

from .admin import Admin, admin_options
from .options import check_seconds

__all__ = ["drain"]


def _check_grace(context: click.Context, parameter: click.Parameter, grace: float | None) -> float | None:
    return None if grace is None else check_seconds(context, parameter, grace)


@click.command()
@click.option(
    "--grace",
    type=float,
    callback=_check_grace,
    metavar="SECONDS",
    help="How long sessions may go on; what the server was started with by default.",
)
@admin_options
def drain(admin: Admin, grace: float | None, as_json: bool) -> None:
    """Have the server open no sessions any more, close what is left after the grace, and exit with 0.

    Returns at once; `session-service sessions watch` returns when the server has ended. Once more with a shorter
    grace, it ends sooner.
    """
    from google.protobuf import duration_pb2, json_format

    from ..v1 import admin_pb2 as pb

    request = pb.DrainRequest()
    if grace is not None:
        request.grace.CopyFrom(duration_pb2.Duration(seconds=int(grace), nanos=round(grace % 1 * 1e9)))
    response = admin.stub.Drain(request, timeout=admin.timeout, metadata=admin.metadata)
    if as_json:
        click.echo(json_format.MessageToJson(response, preserving_proto_field_name=True, indent=None))
    else:
        seconds = response.grace.seconds + response.grace.nanos / 1e9
        click.echo(f"draining: {response.sessions} sessions have {seconds:g} s to end by themselves")
