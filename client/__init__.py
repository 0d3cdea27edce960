"""Python SDK and command line of Modelyard."""

from client.errors import ModelyardError, ProblemError
from client.sdk import Client

__all__ = ["Client", "ModelyardError", "ProblemError"]
