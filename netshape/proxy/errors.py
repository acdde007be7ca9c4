"""Refusals of the proxy's HTTP API: a status code and a message, as Toxiproxy's clients expect them."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request that cannot be met.

    Attributes:
        status: HTTP status code.
        message: What is wrong; clients show it to their users.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        return {"error": self.message, "status": self.status}


def bad_body(reason: str) -> ApiError:
    """The body of a request is not what it must be."""
    return ApiError(400, f"bad request body: {reason}")


def missing_field(name: str) -> ApiError:
    """A field without a default is absent or empty."""
    return ApiError(400, f"missing required field: {name}")


def proxy_not_found() -> ApiError:
    """No proxy has the name."""
    return ApiError(404, "proxy not found")


def proxy_exists() -> ApiError:
    """A proxy of the name exists already."""
    return ApiError(409, "proxy already exists")


def toxic_not_found() -> ApiError:
    """The proxy has no toxic of the name."""
    return ApiError(404, "toxic not found")


def toxic_exists() -> ApiError:
    """The proxy has a toxic of the name already."""
    return ApiError(409, "toxic already exists")


def invalid_toxic_type() -> ApiError:
    """No toxic is of the type."""
    return ApiError(400, "invalid toxic type")


def invalid_stream() -> ApiError:
    """The stream is neither of the two directions."""
    return ApiError(400, "stream was invalid, can be either upstream or downstream")


def cannot_listen(address: str, error: OSError) -> ApiError:
    """The operating system refuses the listening address: status 500, as Toxiproxy has it."""
    reason = (error.strerror or str(error)).lower()
    return ApiError(500, f"listen tcp {address}: {reason}")
