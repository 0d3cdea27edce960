"""What the runtimes on PyTorch share: whether it is there, and where a module runs."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

from serving_svc.runtimes.base import Matrix, ModelUnusableError, RuntimeConfig, Scorer, columns


class TorchConfig(RuntimeConfig):
    """Settings of the runtimes on PyTorch."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPU where the replica was given one."""


def require_torch() -> None:
    """Raises ImportError where PyTorch is not installed, without importing it."""
    if find_spec("torch") is None:
        raise ImportError("PyTorch is not installed: pip install torch")


def scorer_of(module: Any, config: TorchConfig, outputs: int) -> Scorer:
    """A scorer that runs a module without gradients.

    Raises ModelUnusableError when a GPU is asked for and can't be had.
    """
    import torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise ModelUnusableError("a GPU is asked for, and the replica has none")
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.set_num_threads(config.threads)
    module = module.to(device).eval()

    def score(matrix: Matrix) -> Matrix:
        with torch.inference_mode():
            result = module(torch.from_numpy(matrix).to(device))
        return columns(result.float().cpu().numpy(), outputs)

    return score
