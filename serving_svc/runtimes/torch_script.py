"""TorchScript programs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from serving_svc.runtimes.base import ModelUnusableError, Scorer
from serving_svc.runtimes.torch_device import TorchConfig, require_torch, scorer_of

require_torch()


class TorchScriptRuntime:
    """TorchScript modules that take rows x inputs float32 and give rows x outputs.

    No Python of the model's runs; the operators of TorchScript do.
    """

    Config: ClassVar[type[BaseModel]] = TorchConfig
    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"cpu", "cuda", "format:torchscript"})

    def __init__(self, config: TorchConfig) -> None:
        self._config = config

    def load(self, path: Path, inputs: int, outputs: int) -> Scorer:  # noqa: ARG002
        """Load an archive; raises ModelUnusableError."""
        import torch

        try:
            module = torch.jit.load(str(path), map_location="cpu")
        except (RuntimeError, ValueError) as error:
            raise ModelUnusableError("PyTorch refuses it: no TorchScript archive") from error
        return scorer_of(module, self._config, outputs)
