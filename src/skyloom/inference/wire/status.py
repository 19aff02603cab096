"""Error categories on the two wires; the one place that knows both tables."""

import grpc

from skyloom.core.errors import Category

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
    Category.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Category.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Category.DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Category.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Category.CONFLICT: grpc.StatusCode.ABORTED,
    Category.LIMIT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Category.STORAGE_FULL: grpc.StatusCode.UNAVAILABLE,
    Category.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Category.INTERNAL: grpc.StatusCode.INTERNAL,
}
