"""The settings of the Triton kernels that a network calls, searched by measuring on a GPU."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fastconv.dispatch import BackendError, Call
from fastconv.dispatch.machine import interprets_triton, why_no_triton
from fastconv.dispatch.triton_limits import why_not
from fastconv.ops.residual_add import masks_on
from fastconv.progress import Progress, part, silent

if TYPE_CHECKING:
    from fastconv.triton_kernels.search import Found


@dataclass(frozen=True)
class Tuned:
    """What a search came to for one bucket of calls."""

    bucket: str
    settings: dict[str, int]
    changed: dict[str, int]  # those that are not the default
    microseconds: float
    default_microseconds: float
    tried: int
    unfit: int  # candidates that did not compile or did not fit into shared memory
    wrong: int  # and those that computed something else


@dataclass(frozen=True)
class Tuning:
    """What `tune` did: a row for each bucket that it searched."""

    gpu: str
    path: str  # where the settings are kept
    known: int  # buckets that were tuned before, or have settings that ship with fastconv
    rows: list[Tuned]


Calls = dict[Call, list[Any]]  # the arguments of each, its tensors on the meta device


class _Recorder(TorchDispatchMode):
    """Every different call of an op that has a Triton kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[Call, list[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, op = func._schema.name.partition("::")
        if namespace == "fastconv" and func._overloadname != "out":
            call = Call.of(op, args)
            if not why_not(call):
                self.calls.setdefault(call, tree_map_only(Tensor, _Like.of, list(args)))
        return func(*args, **(kwargs or {}))


class _Like(NamedTuple):
    """What a tensor is but for its numbers and its device."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor, dtype: torch.dtype | None = None) -> "_Like":
        """Of a tensor, or where it has floats of the tensor in dtype."""
        dtype = dtype if dtype and tensor.is_floating_point() else tensor.dtype
        return cls(tuple(tensor.shape), tensor.stride(), dtype)

    def on(self, device: str) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=device)


def calls_of(
    model: nn.Module,
    images: Tensor,
    training: bool = False,
    dtype: torch.dtype | None = None,
) -> Calls:
    """The calls of ours that model(images) makes, with its gradients where it is for training.

    Nothing is computed: all may be on the meta device. dtype is that of the calls, if not theirs.
    """
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    model.train(training)
    # Fake tensors of a CPU: those on the meta device lose their layout in torch's convolutions, and
    # those of a GPU want one for their gradients.
    with (
        masks_on("cpu"),
        FakeTensorMode(),
        _Recorder() as seen,
        torch.set_grad_enabled(training),
    ):
        state = {name: _Like.of(tensor, dtype).on("cpu") for name, tensor in state.items()}
        for name, _ in model.named_parameters():
            state[name].requires_grad_(training)
        fake = _Like.of(images, dtype).on("cpu")
        outputs = torch.func.functional_call(model, state, (fake,))
        if training:
            sum(output.sum() for output in tree_leaves(outputs)).backward()
    return {
        call: [a.on("meta") if isinstance(a, _Like) else a for a in arguments]
        for call, arguments in seen.calls.items()
    }


def tune(
    calls: Calls,
    device: torch.device,
    *,
    again: bool = False,
    clock: Callable[[Callable[[], Any]], float] | None = None,
    progress: Progress = silent,
) -> Tuning:
    """Searches the settings of all launches of calls on a GPU and keeps them for later processes.

    Args:
        calls: as calls_of finds them. The numbers they compute on are random.
        device: of device_named.
        again: searches too what was tuned before.
        clock: microseconds of a call; of Triton's do_bench if not given.

    Raises:
        BackendError: a call does not fit into the GPU's memory.
        OSError: the settings cannot be written.
    """
    from fastconv.triton_kernels import KERNELS, _tuned, search  # imports Triton

    _tuned.keep(device, {})  # what cannot be kept is told before the search
    # The calls that ask least come first: what they settle, those with more kernels need not.
    wanted = [(call, search.asked_by(KERNELS[call.op], calls[call])) for call in calls]
    wanted.sort(key=lambda item: len(item[1]))
    buckets = {bucket for _, asked in wanted for bucket in asked}
    known = set() if again else buckets & set(_tuned.rows_on(device))
    left, total = buckets - known, len(buckets - known)
    rows: list[Tuned] = []
    for call, asked in wanted:
        for bucket in asked:
            if bucket not in left:
                continue
            left.remove(bucket)
            share = part(progress, len(rows) / total, (len(rows) + 1) / total)
            try:
                arguments = tree_map_only(Tensor, partial(_filled, device=device), calls[call])
                found = search.search(KERNELS[call.op], arguments, bucket, clock, share)
            except torch.OutOfMemoryError as error:
                raise BackendError(f"{bucket}: the GPU has too little memory; try less") from error
            _tuned.keep(device, {bucket: found.row})
            rows.append(Tuned(str(bucket), **_told(found)))
    gpu = _tuned.name_of(device)
    assert gpu is not None
    return Tuning(gpu, str(_tuned.path_of(gpu)), len(known), rows)


def device_named(name: str) -> torch.device:
    """The device of that name. Raises ValueError where there is none, BackendError where Triton
    kernels cannot be timed on it; both say why.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"expected a device like cuda or cuda:1, got {name!r}") from None
    if device.type == "cpu" and interprets_triton():
        return device  # for tests, which bring a clock
    if device.type != "cuda":
        raise ValueError(f"tuning times kernels on a GPU: expected a device like cuda, got {name}")
    if not torch.cuda.is_available():
        raise BackendError(
            "tuning times kernels on a GPU, and torch sees none: `fastconv doctor` tells why"
        )
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise ValueError(f"expected a GPU of the {count} here, got {name}")
    major, minor = torch.cuda.get_device_capability(device)
    if reason := why_no_triton(10 * major + minor):
        raise BackendError(f"tuning is of Triton kernels: {reason}")
    return torch.device("cuda", torch.cuda.current_device()) if device.index is None else device


def _filled(tensor: Tensor, device: torch.device) -> Tensor:
    """Random numbers in the shape, dtype and layout of a tensor; of bytes, random bits."""
    numbers = torch.empty_like(tensor, device=device)
    return numbers.normal_() if numbers.is_floating_point() else numbers.random_()


def _told(found: "Found") -> dict[str, Any]:
    settings, default = asdict(found.row.settings), asdict(found.default)
    changed = {name: value for name, value in settings.items() if value != default[name]}
    times = {"microseconds": found.row.microseconds}
    times["default_microseconds"] = found.row.default_microseconds
    counts = {"tried": found.tried, "unfit": found.unfit, "wrong": found.wrong}
    return {"settings": settings, "changed": changed, **times, **counts}
