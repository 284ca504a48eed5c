"""Reflection: what a server says of its services, so that tools need no files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2

from ..errors import ProtocolError
from .auth import Authenticator, metadata_of, peer_of
from .statuses import StatusGuard

__all__ = ["REFLECTION_SERVICES", "reflection_handlers"]

# grpcio-reflection has v1alpha only; v1 differs from it by its name alone. Some tools ask for one, some for the other.
V1ALPHA = reflection.SERVICE_NAME
V1 = V1ALPHA.replace("v1alpha", "v1")
REFLECTION_SERVICES = (V1, V1ALPHA)


def reflection_handlers(
    names: Iterable[str], authenticate: Authenticator, refused: Callable[[ProtocolError], object]
) -> tuple[grpc.GenericRpcHandler, ...]:
    """Return reflection, for those who may call.

    Args:
        names: the services to tell of; reflection itself is added.
        authenticate: who calls; raises where nobody may.
        refused: told of each call that ends with an error.
    """
    # The servicer is an async generator, and takes what finds files as a pool does, which its types do not know.
    files: Any = _Files()
    servicer: Any = reflection.aio.ReflectionServicer((*names, *REFLECTION_SERVICES), files)

    async def reflect(
        requests: AsyncIterator[reflection_pb2.ServerReflectionRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        async with StatusGuard(context, refused):
            authenticate(metadata_of(context), peer_of(context))
            async for response in servicer.ServerReflectionInfo(requests, context):
                yield response

    handler = grpc.stream_stream_rpc_method_handler(
        reflect,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return tuple(
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in REFLECTION_SERVICES
    )


class _Files:
    """The descriptor pool of the process, which also finds v1's own file, and the file of a method.

    protobuf's pool finds messages, fields, enums and services by name, but no methods (the C implementation, 7.35).
    """

    def __init__(self) -> None:
        self._pool = Default()
        self._v1 = DescriptorPool()  # not the process's: another library may have its own
        file = FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        file.options.Clear()  # it says that v1alpha is deprecated
        self._v1.Add(text_format.Parse(str(file).replace("v1alpha", "v1"), FileDescriptorProto()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileByName(self, name: str) -> FileDescriptor:
        """Return the file; raises KeyError."""
        try:
            return self._pool.FindFileByName(name)
        except KeyError:
            return self._v1.FindFileByName(name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """Return the file that defines it; raises KeyError."""
        for pool in (self._pool, self._v1):
            try:
                return pool.FindFileContainingSymbol(symbol)
            except KeyError:
                pass
        parent, _, method = symbol.rpartition(".")
        file = self.FindFileContainingSymbol(parent) if parent else None
        service = file.services_by_name.get(parent.removeprefix(f"{file.package}.")) if file is not None else None
        if file is None or service is None or method not in service.methods_by_name:
            raise KeyError(symbol)
        return file
