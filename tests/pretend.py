"""A pretended GPU, for machines without one.

A tensor of the device "pretend" holds a CPU tensor and says that it lies elsewhere; torch's own
Python backend makes training, DDP and autograd believe it. As on CUDA

    an operation on tensors of two devices is refused, but for copies and plain numbers;
    `.numpy()` is refused;
    a collective on a tensor of another device is refused, in nccl's words;

and `Gpu` notes what crossed between host and GPU, and the device of every tensor in a collective.

A process keeps the backend for ever, so this is for processes of their own: the fixture
`other_process`, or torch's spawn.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
Shape = tuple[int, ...]


@dataclass
class Gpu:
    """What happened on the pretended GPU."""

    to_host: list[Shape] = field(default_factory=list)  # of tensors; () is one number
    to_gpu: list[Shape] = field(default_factory=list)
    collectives: list[tuple[str, list[str]]] = field(default_factory=list)  # name, device types
    waits: int = 0  # of the host for the GPU

    def forget(self) -> None:
        """Start to note anew."""
        self.to_host, self.to_gpu, self.collectives, self.waits = [], [], [], 0


_gpu = Gpu()


class Module:
    """What torch asks of `torch.pretend`."""

    chosen: int | None = None

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @classmethod
    def set_device(cls, index: int) -> None:
        cls.chosen = index

    @staticmethod
    def synchronize(device: Any = None) -> None:
        _gpu.waits += 1

    @staticmethod
    def empty_cache() -> None:
        pass

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        pass

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


@functools.cache
def device() -> torch.device:
    """Give torch the pretended GPU, and return it."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    return torch.device(NAME, 0)


class Pretended(torch.Tensor):
    """A tensor that says that it lies on the pretended GPU."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Pretended:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=device(),
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __reduce_ex__(self, protocol):  # torch.save; read again with map_location="cpu"
        return self.inner.__reduce_ex__(protocol)

    def tolist(self):
        _gpu.to_host.append(tuple(self.shape))
        return self.inner.tolist()

    def new_tensor(self, data, **options):
        return torch.tensor(data, **{"dtype": self.dtype, **options}).to(self.device)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU tensors inside, and note or refuse what a GPU would have to do."""
    name = func._schema.name
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    ours = {id(x.inner): x for x in tensors if isinstance(x, Pretended)}
    ends_on_gpu = bool(ours)
    if kwargs.get("device") is not None:
        ends_on_gpu = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if name.startswith("c10d::"):
        _note_collective(name, tensors)
    elif name in ("aten::_to_copy", "aten::copy_"):
        _note_copy(name, args, ends_on_gpu)
    elif name == "aten::_local_scalar_dense" and ours:
        _gpu.to_host.append(())
    elif ours and any(x.ndim for x in tensors if not isinstance(x, Pretended)):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")
    inside = tree_map(lambda x: x.inner if isinstance(x, Pretended) else x, (args, kwargs))
    found = func(*inside[0], **inside[1])

    def outside(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        return ours.get(id(x)) if id(x) in ours else Pretended(x) if ends_on_gpu else x

    return tree_map(outside, found)


def _note_collective(name: str, tensors: list[torch.Tensor]) -> None:
    devices = sorted({x.device.type for x in tensors})
    _gpu.collectives.append((name, devices))
    if devices != [NAME]:
        raise RuntimeError(f"No backend type associated with device type {devices} ({name})")


def _note_copy(name: str, args: Any, ends_on_gpu: bool) -> None:
    source = args[0] if name == "aten::_to_copy" else args[1]
    target_on_gpu = ends_on_gpu if name == "aten::_to_copy" else isinstance(args[0], Pretended)
    if isinstance(source, Pretended) and not target_on_gpu:
        _gpu.to_host.append(tuple(source.shape))
    elif target_on_gpu and not isinstance(source, Pretended):
        _gpu.to_gpu.append(tuple(source.shape))


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Factories(TorchFunctionMode):
    """torch.tensor builds below every dispatch: let it build on the CPU, and copy."""

    def __torch_function__(self, func: Callable[..., Any], types, args=(), kwargs=None):
        options = dict(kwargs or {})
        place = options.pop("device", None) if func is torch.tensor else None
        made = func(*args, **options)
        return made if place is None else made.to(place)


@contextlib.contextmanager
def gpu() -> Iterator[Gpu]:
    """Compute on the pretended GPU, "pretend", while the context lasts."""
    device()
    _gpu.forget()
    # A wrapped tensor made in inference mode cannot stand for a view of one made before.
    with mock.patch("torch.inference_mode", torch.no_grad), _Factories(), _Dispatch():
        yield _gpu
