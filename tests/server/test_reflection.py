"""Reflection, as tools ask for it: by either of its names, for whatever the protos define."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as pb

from ..protocol.peer import Serve

NAMES = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]


async def app() -> None:
    pass


async def ask(
    channel: grpc.aio.Channel, service: str, request: pb.ServerReflectionRequest
) -> pb.ServerReflectionResponse:
    call = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        pb.ServerReflectionRequest.SerializeToString,
        pb.ServerReflectionResponse.FromString,
    )()
    await call.write(request)
    await call.done_writing()
    response = await call.read()
    assert isinstance(response, pb.ServerReflectionResponse)
    assert await call.code() is grpc.StatusCode.OK
    return response


@pytest.mark.parametrize("service", NAMES)
async def test_either_name_lists_the_services(serve: Serve, service: str) -> None:
    channel = (await serve({"app": app})).channel

    response = await ask(channel, service, pb.ServerReflectionRequest(list_services=""))

    assert [service.name for service in response.list_services_response.service] == [
        "grpc.health.v1.Health",
        *NAMES,
        "session_service.v1.SessionService",
    ]


@pytest.mark.parametrize("service", NAMES)
@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("session_service.v1.SessionService", "session_service/v1/session.proto"),
        ("session_service.v1.SessionService.Attach", "session_service/v1/session.proto"),
        ("session_service.v1.SessionService.ParseSessionInfo", "session_service/v1/session.proto"),
        ("session_service.v1.Open", "session_service/v1/session.proto"),
        ("session_service.v1.Open.app", "session_service/v1/session.proto"),
        ("session_service.v1.CloseReason", "session_service/v1/session.proto"),
        ("google.rpc.ErrorInfo", "google/rpc/error_details.proto"),
        ("grpc.health.v1.Health.Check", "grpc_health/v1/health.proto"),
        (NAMES[0], "grpc_reflection/v1/reflection.proto"),
        (f"{NAMES[0]}.ServerReflectionInfo", "grpc_reflection/v1/reflection.proto"),
        (NAMES[1], "grpc_reflection/v1alpha/reflection.proto"),
    ],
)
async def test_whatever_has_a_name_has_a_file(serve: Serve, service: str, symbol: str, file: str) -> None:
    channel = (await serve({"app": app})).channel

    response = await ask(channel, service, pb.ServerReflectionRequest(file_containing_symbol=symbol))

    files = [FileDescriptorProto.FromString(data) for data in response.file_descriptor_response.file_descriptor_proto]
    assert file in [each.name for each in files]
    again = await ask(channel, service, pb.ServerReflectionRequest(file_by_filename=file))
    assert again.file_descriptor_response == response.file_descriptor_response


@pytest.mark.parametrize("service", NAMES)
@pytest.mark.parametrize(
    "symbol",
    [
        "",
        ".",
        "nowhere",
        "session_service.v1",
        "session_service.v1.SessionService.Nothing",
        "session_service.v1.Open.no.b",
    ],
)
async def test_what_is_not_there_is_not_found(serve: Serve, service: str, symbol: str) -> None:
    channel = (await serve({"app": app})).channel

    response = await ask(channel, service, pb.ServerReflectionRequest(file_containing_symbol=symbol))

    assert response.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
