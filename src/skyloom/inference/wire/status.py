"""Error categories on the two wires; the one place that knows both tables."""

import enum

from skyloom.core.errors import Category


class GrpcStatus(enum.IntEnum):
    """gRPC's own numbers; grpcio has them too, and is not loaded for them."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


HTTP_STATUS = {
    Category.INVALID: 400,
    Category.UNAUTHENTICATED: 401,
    Category.DENIED: 403,
    Category.NOT_FOUND: 404,
    Category.CONFLICT: 409,
    Category.LIMIT: 429,
    Category.STORAGE_FULL: 507,
    Category.UNAVAILABLE: 503,
    Category.INTERNAL: 500,
}

GRPC_STATUS = {
    Category.INVALID: GrpcStatus.INVALID_ARGUMENT,
    Category.UNAUTHENTICATED: GrpcStatus.UNAUTHENTICATED,
    Category.DENIED: GrpcStatus.PERMISSION_DENIED,
    Category.NOT_FOUND: GrpcStatus.NOT_FOUND,
    Category.CONFLICT: GrpcStatus.ABORTED,
    Category.LIMIT: GrpcStatus.RESOURCE_EXHAUSTED,
    Category.STORAGE_FULL: GrpcStatus.UNAVAILABLE,
    Category.UNAVAILABLE: GrpcStatus.UNAVAILABLE,
    Category.INTERNAL: GrpcStatus.INTERNAL,
}
