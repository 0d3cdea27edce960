"""Python SDK and command line of Modelyard."""

from client.errors import ConversionRefused, ModelyardError, ProblemError
from client.sdk import Client

__all__ = ["Client", "ConversionRefused", "ModelyardError", "ProblemError"]
