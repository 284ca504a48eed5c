"""``session-service healthcheck``: asks the standard gRPC health service, for containers and scripts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from .options import ADDRESS_VARIABLE, DEFAULT_ADDRESS, check_address, seconds
from .streams import say
from .tls import channel_credentials, tls_options

if TYPE_CHECKING:
    import grpc

__all__ = ["healthcheck"]


@click.command()
@click.argument("address", default=DEFAULT_ADDRESS, envvar=ADDRESS_VARIABLE, callback=check_address)
@click.option(
    "--service",
    default="",
    metavar="NAME",
    help="Ask for this name; `live` is served until the server ends, also while it drains.",
)
@seconds("--timeout", default=5.0, help="How long to wait for the answer.")
@tls_options
def healthcheck(address: str, service: str, timeout: float, **tls: str | None) -> int:
    """Exit 0 if the server at ADDRESS is serving, else 1, and say why.

    ADDRESS is HOST:PORT or unix:PATH; without it, $SESSION_SERVICE_ADDRESS or 127.0.0.1:50051.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # grpc reads it when it is imported
    problem = _ask(address, service, timeout, channel_credentials(**tls))
    if problem is None:
        return 0
    say(f"{address} is not serving: {' '.join(problem.split())}")
    return 1


def _ask(address: str, service: str, timeout: float, credentials: grpc.ChannelCredentials | None) -> str | None:
    """Return what is wrong."""
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

    # Container engines hand http_proxy to every container, and gRPC would take even the loopback interface through it.
    options = [("grpc.enable_http_proxy", 0)]
    with (
        grpc.insecure_channel(address, options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options)
    ) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
        )
        try:
            response = check(HealthCheckRequest(service=service), timeout=timeout)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    if response.status == HealthCheckResponse.SERVING:
        return None
    return HealthCheckResponse.ServingStatus.Name(response.status)
