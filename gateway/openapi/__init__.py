"""The OpenAPI 3.1 document and the reference page, made from the contracts and their comments."""

from gateway.openapi.document import build_document, encoded_document
from gateway.openapi.page import reference_page

__all__ = ["build_document", "encoded_document", "reference_page"]
