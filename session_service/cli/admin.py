"""What the commands for administrators have in common: where the admin service is, who calls, how a failure reads."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .options import check_address
from .streams import say
from .tls import channel_credentials, tls_options

if TYPE_CHECKING:
    import grpc

    from ..v1.admin_pb2_grpc import SessionAdminServiceStub

__all__ = ["Admin", "admin_options"]

# For one call: the admin service never makes anybody wait.
TIMEOUT = 20.0


def _check_admin(context: click.Context, parameter: click.Parameter, address: str | None) -> str:
    if not address:
        raise click.BadParameter("say where the admin service is: what `serve --admin-listen` was given.")
    return check_address(context, parameter, address)


_OPTIONS = (
    click.option(
        "--admin",
        metavar="ADDRESS",
        envvar="SESSION_SERVICE_ADMIN",
        show_envvar=True,
        callback=_check_admin,
        help="Where the admin service listens: HOST:PORT or unix:PATH.",
    ),
    click.option(
        "--token",
        envvar="SESSION_SERVICE_TOKEN",
        show_envvar=True,
        help="A bearer token; rather by the variable, since all users of the machine see arguments.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Write JSON, an object a line, for programs."),
)


class Admin(NamedTuple):
    """The admin service as a command sees it.

    Attributes:
        stub: by which to call.
        metadata: what goes with each call.
        timeout: of a call that answers at once.
    """

    stub: SessionAdminServiceStub
    metadata: tuple[tuple[str, str], ...]
    timeout: float = TIMEOUT


def admin_options(command: Callable[..., object]) -> Callable[..., Any]:
    """Give a command the options to reach the admin service, and ``as_json``; it is called with an `Admin` first.

    A call that fails is one line on stderr, and exit code 1.
    """

    @functools.wraps(command)
    def run(
        *,
        admin: str,
        token: str | None,
        tls_ca: str | None,
        tls_cert: str | None,
        tls_key: str | None,
        **options: object,
    ) -> int:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # grpc reads it when it is imported
        import grpc

        try:
            with _connect(admin, token, channel_credentials(tls_ca, tls_cert, tls_key)) as connected:
                command(connected, **options)
        except grpc.RpcError as error:
            from .terminal import printable

            say(f"{admin}: {printable(f'{error.code().name}: {error.details()}')}")
            return 1
        return 0

    decorated: Callable[..., Any] = tls_options(run)
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


@contextmanager
def _connect(address: str, token: str | None, credentials: grpc.ChannelCredentials | None) -> Iterator[Admin]:
    import grpc

    from ..v1.admin_pb2_grpc import SessionAdminServiceStub

    # As for `healthcheck`: a proxy of the environment is not for this.
    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if address.startswith("unix:"):
        options.append(("grpc.ssl_target_name_override", "localhost"))  # a certificate holds for no path
    with (
        grpc.insecure_channel(address, options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options)
    ) as channel:
        yield Admin(SessionAdminServiceStub(channel), (("authorization", f"Bearer {token}"),) if token else ())
