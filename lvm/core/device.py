"""The device that a process computes on: the CPU, or one GPU."""

from __future__ import annotations

import os
import socket

import numpy as np
import torch
from jaxtyping import Int

from lvm.core.errors import DeviceError

CPU = torch.device("cpu")


def claim(name: str) -> torch.device:
    """Make a device the current one of this process, and return it with its index.

    "cuda" is the GPU that this process was given: Ray sets CUDA_VISIBLE_DEVICES for a trial, and
    the current device for each worker of Ray Train. Raises DeviceError where there is no such GPU.
    """
    device = torch.device(name)
    if device.type == "cpu":
        return CPU
    module = torch.get_device_module(device)
    count = module.device_count() if module.is_available() else 0
    index = device.index
    if index is None:
        index = module.current_device() if count else 0
    if index >= count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
        raise DeviceError(
            f"{socket.gethostname()} has no {device} for this process: PyTorch {torch.__version__} "
            f"sees {count} such devices (CUDA_VISIBLE_DEVICES={visible}); install a GPU build of "
            "torch and its driver there, or set schedule.use_gpu = false."
        )
    module.set_device(index)
    return torch.device(device.type, index)


def claim_if_there(use_gpu: bool) -> torch.device:
    """Return this process's GPU if one is wanted and there, else the CPU."""
    return claim("cuda") if use_gpu and torch.cuda.is_available() else CPU


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def ids_on(ids: Int[np.ndarray, "*shape"], device: torch.device) -> Int[torch.Tensor, "*shape"]:
    """Return row numbers as int64 on a device; always a copy, since Ray's arrays are read-only."""
    return torch.from_numpy(np.array(ids, dtype=np.int64)).to(device)
