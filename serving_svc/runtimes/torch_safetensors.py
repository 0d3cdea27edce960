"""Neural networks as safetensors: weights, and an architecture that is data and no program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from serving_svc.runtimes.base import ModelUnusableError, Scorer
from serving_svc.runtimes.torch_device import TorchConfig, require_torch, scorer_of

require_torch()

ARCHITECTURE = "modelyard.architecture"
"""Key of the file's metadata: a JSON list of layers, each a list of a name and its arguments."""

LAYERS = frozenset(
    {
        *("Linear", "BatchNorm1d", "LayerNorm", "Dropout", "Flatten"),
        *("ReLU", "LeakyReLU", "ELU", "GELU", "SiLU", "Tanh", "Sigmoid", "Softplus", "Softmax"),
    }
)
"""Classes of `torch.nn` that an architecture may name."""

MOST_LAYERS = 1_000
MOST_WIDTH = 1_000_000


class SafetensorsRuntime:
    """Layers of `torch.nn` one after the other, with their weights in a safetensors file.

    The file's metadata has `modelyard.architecture`, for example
    `[["Linear", 30, 64], ["ReLU"], ["Linear", 64, 1], ["Sigmoid"]]`; the tensors are named as in
    the state of a `torch.nn.Sequential` of these layers.
    """

    Config: ClassVar[type[BaseModel]] = TorchConfig
    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"cpu", "cuda", "format:safetensors"})

    def __init__(self, config: TorchConfig) -> None:
        self._config = config

    def load(self, path: Path, inputs: int, outputs: int) -> Scorer:  # noqa: ARG002
        """Load a file; raises ModelUnusableError."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                written = (file.metadata() or {}).get(ARCHITECTURE, "")
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelUnusableError("it is no safetensors file") from error
        module = network(written)
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:
            raise ModelUnusableError("its tensors do not fit its architecture") from error
        return scorer_of(module, self._config, outputs)


def network(written: str) -> Any:
    """The network of an architecture, with weights yet to be set; raises ModelUnusableError."""
    from torch import nn

    try:
        layers = json.loads(written)
    except ValueError as error:
        raise ModelUnusableError(f"its metadata has no {ARCHITECTURE}") from error
    if not isinstance(layers, list) or not 0 < len(layers) <= MOST_LAYERS:
        raise ModelUnusableError(f"{ARCHITECTURE} must be a list of 1 to {MOST_LAYERS} layers")
    made = []
    for at, layer in enumerate(layers):
        name, arguments = _checked(layer, at)
        try:
            made.append(getattr(nn, name)(*arguments))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModelUnusableError(f"layer {at} has arguments that {name} refuses") from error
    return nn.Sequential(*made)


def _checked(layer: Any, at: int) -> tuple[str, list[int | float]]:
    if not isinstance(layer, list) or not layer or layer[0] not in LAYERS:
        raise ModelUnusableError(f"layer {at} must be one of {', '.join(sorted(LAYERS))}")
    for each in layer[1:]:
        if not isinstance(each, int | float) or not abs(each) <= MOST_WIDTH:
            raise ModelUnusableError(f"layer {at} may have numbers up to {MOST_WIDTH:,} alone")
    return layer[0], layer[1:]
