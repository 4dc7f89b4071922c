"""The precision that a training step computes in, and the loss scale that half precision needs.

Weights, gradients at weights, optimizers and scores stay in single precision; only the forward pass, and with it the
backward, runs its matrix products in the chosen one (torch's autocast). float16 has so few small numbers that a
gradient vanishes in it: the loss is multiplied by a scale before the backward pass, and every gradient divided by it
right after, before it is looked at, clipped or stepped by. Source: Micikevicius et al., "Mixed Precision Training"
(ICLR 2018), section 3.2, with the dynamic scale of torch's GradScaler.

How single-precision products are taken is a setting of its own: exactly ("highest"), or on a GPU through TF32, several
times as fast, with 11 of 24 bits of each factor. It is about all that autocast leaves alone: scores, whole validations
and rankings, a frozen tower's cached vectors. No CPU computes otherwise for it.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

FLOAT32, BFLOAT16, FLOAT16 = "float32", "bfloat16", "float16"
_LOWER = {BFLOAT16: torch.bfloat16, FLOAT16: torch.float16}

START_SCALE = 65536.0
_STEPS_TO_GROW = 2000  # GradScaler's: one lost step in about this many is what a scale at the edge costs
_LEAST, _MOST = 1.0, 2.0**24
HIGHEST, TF32 = "highest", "tf32"
_TORCH_WORDS = {HIGHEST: "highest", TF32: "high"}


def set_single_products(matmul: str, device: torch.device) -> None:
    """Say how this process multiplies in single precision from now on: "highest" or "tf32"."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision(_TORCH_WORDS[matmul])


def uses_tf32(device: torch.device) -> bool:
    """Whether a single-precision product on the device keeps TF32's bits alone."""
    return device.type == "cuda" and torch.get_float32_matmul_precision() != _TORCH_WORDS[HIGHEST]


class Precision:
    """One run's precision; the scale is 1 for ever unless it is float16.

    The scale stays a power of two, so that scaling and unscaling change no bit of a gradient that neither vanishes nor
    overflows. It lies on the device: no step waits for it.

    Args:
        name: "float32", "bfloat16" or "float16".
        scale, clean_steps: so far; `START_SCALE` and 0 at its beginning.
    """

    def __init__(self, name: str, scale: float, clean_steps: int, device: torch.device) -> None:
        self._lower = _LOWER.get(name)
        self._device_type = device.type
        self._is_scaled = name == FLOAT16
        # The scale, and the steps since it last changed that were finite.
        self._state = torch.tensor([scale if self._is_scaled else 1.0, clean_steps], device=device)

    def autocast(self) -> AbstractContextManager:
        """The context of the forward pass."""
        return nullcontext() if self._lower is None else torch.autocast(self._device_type, dtype=self._lower)

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss, (), whose backward pass gives the scaled gradients."""
        return loss * self._state[0] if self._is_scaled else loss

    def unscale(self, gradients: list[Tensor]) -> None:
        """Divide the gradients, of any shapes, by the scale, in place."""
        if self._is_scaled and gradients:
            torch._foreach_mul_(gradients, self._state[0].reciprocal())

    def can_lower_scale(self) -> Tensor:
        """Return, () bool, whether the scale can still be lowered, so that it may be why gradients are not finite."""
        return self._state[0] > _LEAST

    def update(self, keep: Tensor) -> None:
        """Halve the scale after a step that was not finite; double it after 2000 in a row that were.

        Args:
            keep: () bool, whether the step was finite.
        """
        if not self._is_scaled:
            return
        # By `where` and not by `if`: the scale is on the device, and the host does not know it.
        scale, clean = self._state
        clean = (clean + 1) * keep
        grows = clean >= _STEPS_TO_GROW
        scale = torch.where(keep, torch.where(grows, scale * 2, scale), scale / 2).clamp(_LEAST, _MOST)
        self._state = torch.stack([scale, clean * ~grows])

    def state(self) -> tuple[float, int]:
        """Return the scale and its clean steps; waits for the device."""
        scale, clean = self._state.tolist()
        return scale, int(clean)
