"""Whether the device still answers."""

from __future__ import annotations

import torch


class BrokenDeviceError(Exception):
    """After an illegal access, every later call of the process fails, whatever it is."""


def check_device() -> None:
    """Raises where an error before has left the GPU unusable for this process; another can go on without what was tried.

    Raises:
        BrokenDeviceError: nothing runs any more.
    """
    try:
        torch.zeros(1, device="cuda").add_(1).item()
    except Exception as error:
        raise BrokenDeviceError(str(error)) from error
