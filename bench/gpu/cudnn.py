"""cuDNN's own local response normalisation, which torch has no function for, through ctypes."""

import ctypes
import functools
from ctypes import byref, c_double, c_float, c_int, c_uint, c_void_p

import torch
from torch import Tensor

TYPES = {torch.float32: 0, torch.float16: 2}  # it has no bfloat16
NCHW, NHWC = 0, 1
CROSS_CHANNEL = 0


def has_local_response_norm(dtype: torch.dtype) -> bool:
    return dtype in TYPES and torch.cuda.is_available() and torch.backends.cudnn.is_available()


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL("libcudnn.so.9")  # torch has loaded it


def _check(status: int) -> None:
    if status != 0:
        _library().cudnnGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f"cuDNN: {_library().cudnnGetErrorString(status).decode()}")


@functools.cache
def _handle() -> c_void_p:
    handle = c_void_p()
    _check(_library().cudnnCreate(byref(handle)))
    return handle


@functools.cache
def _tensor(shape: tuple[int, ...], nhwc: bool, dtype: torch.dtype) -> c_void_p:
    descriptor = c_void_p()
    _check(_library().cudnnCreateTensorDescriptor(byref(descriptor)))
    layout = NHWC if nhwc else NCHW
    _check(_library().cudnnSetTensor4dDescriptor(descriptor, layout, TYPES[dtype], *shape))
    return descriptor


@functools.cache
def _norm(size: int, alpha: float, beta: float, k: float) -> c_void_p:
    descriptor = c_void_p()
    _check(_library().cudnnCreateLRNDescriptor(byref(descriptor)))
    _check(
        _library().cudnnSetLRNDescriptor(
            descriptor, c_uint(size), c_double(alpha), c_double(beta), c_double(k)
        )
    )
    return descriptor


def _run(function: str, size: int, tensors: list[Tensor], output: Tensor) -> Tensor:
    x = tensors[0]
    nhwc = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    shape = _tensor(tuple(x.shape), nhwc, x.dtype)
    _check(_library().cudnnSetStream(_handle(), c_void_p(torch.cuda.current_stream().cuda_stream)))
    one, zero = c_float(1), c_float(0)
    arguments = [byref(one)]
    for tensor in tensors:
        arguments += [shape, c_void_p(tensor.data_ptr())]
    arguments += [byref(zero), shape, c_void_p(output.data_ptr())]
    norm = _norm(size, 1e-4, 0.75, 1.0)
    _check(getattr(_library(), function)(_handle(), norm, c_int(CROSS_CHANNEL), *arguments))
    return output


def local_response_norm(x: Tensor, size: int) -> Tensor:
    return _run("cudnnLRNCrossChannelForward", size, [x], torch.empty_like(x))


def local_response_norm_backward(g: Tensor, x: Tensor, y: Tensor, size: int) -> Tensor:
    return _run("cudnnLRNCrossChannelBackward", size, [y, g, x], torch.empty_like(x))
