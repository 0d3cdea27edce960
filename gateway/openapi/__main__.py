"""`python -m gateway.openapi > contracts/openapi.json` writes the golden document."""

from __future__ import annotations

import sys

from gateway.openapi.document import encoded_document
from gateway.transcoder.contracts import load_contracts, published_methods

#: The golden document does not change with every release of the distribution.
GOLDEN_VERSION = "v1"

if __name__ == "__main__":
    methods = list(published_methods(load_contracts()))
    sys.stdout.buffer.write(encoded_document(methods, GOLDEN_VERSION))
