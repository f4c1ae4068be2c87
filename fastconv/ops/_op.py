"""One op of the dispatcher, and all that PyTorch wants to know about it registered in one place."""

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, compiler
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling
from torch.utils._pytree import tree_map

from fastconv import _C
from fastconv.dispatch import (
    Choice,
    decide,
    forced,
    needs_reference,
    refused,
    state,
    tell,
    use_backend,
)
from fastconv.ops._check import check_like_input, check_tensors

AUTOCAST_DEVICES = ("cpu", "cuda")
WATCHERS = (  # that are to see a call of an op, or to change it: the dispatcher knows them
    torch._C._get_tracing_state,
    torch._C._are_functorch_transforms_active,
    torch._C._len_torch_dispatch_stack,
    torch._C._len_torch_function_stack,
    torch._C._is_any_autocast_enabled,
    torch._C._autograd._profiler_enabled,
)
BESIDE_DISPATCHER = ("triton", "reference")  # what no dispatch key leads to
AUTOCAST_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})

_AUTOCAST_KEYS = torch._C.DispatchKeySet(
    torch._C.DispatchKey.AutocastCPU
) | torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)

_library = torch.library.Library("fastconv", "FRAGMENT")

# Names the backend of the op that takes its result, for the keys under which compiled graphs are
# kept: the op alone does not say what it became.
_library.define("on(Tensor(a) input, str backend) -> Tensor(a)")
_library.impl("on", lambda input, backend: input, "CompositeImplicitAutograd")


OPS: dict[str, "Op"] = {}  # every op by its name


class Op:
    """A callable that takes the raw op's arguments by the cheapest way that is right.

    Args:
        name: of the op in torch.ops.fastconv; its schema is in csrc/ops/library.cpp.
        tensors: how many of its arguments, from the first, are tensors or None.
        reference: the op in eager torch; serves dtypes, devices and modes without a kernel.
        fake: shape and strides of the result.
        setup_context, backward: as in torch.library.register_autograd.
        batched: positions of the arguments that carry the batch in dimension 0 and share a rank;
            vmap folds its dimension into theirs, and goes one by one where another is mapped.
        autocast: whether torch.autocast casts the tensors to its dtype, as it does for conv2d.
        unbatched: whether a call may also give the arguments in `batched` without the batch: one
            image, (C, H, W).
        parts: computes the same from ops that have gradients, where one is wanted; by default the
            op has its own.
    """

    def __init__(
        self,
        name: str,
        *,
        tensors: int,
        reference: Callable[..., Any],
        fake: Callable[..., Any],
        setup_context: Callable[..., None],
        backward: Callable[..., Any],
        batched: Sequence[int] = (),
        autocast: bool = False,
        unbatched: bool = False,
        parts: Callable[..., Any] | None = None,
    ) -> None:
        OPS[name] = self
        self.name = name
        self.raw = getattr(torch.ops.fastconv, name).default
        self._eager = self.raw._op  # what an OpOverload calls: 0.2 us less
        # Past the dispatcher, or by it where that fails.
        self.direct = _C.direct(name, self._dispatched, WATCHERS)
        self.fake = fake
        self.tensors = tensors
        self.reference = reference
        self.batched = batched
        self.autocast = autocast
        self.unbatched = unbatched
        schema = self.raw._schema.arguments[:tensors]
        self._names = [a.name for a in schema]
        self._optional = [a.name for a in schema if isinstance(a.type, torch.OptionalType)]
        self.parts = parts
        self.under_transforms = _transformed_function(self, setup_context, backward)
        self.with_gradient = _autograd_function(self._eager, setup_context, backward)
        self.with_chosen_gradient = _autograd_function(
            self._on_chosen, *_on_one_backend(setup_context, backward)
        )

        _library.impl(name, self._fall_back, "CompositeExplicitAutograd")
        torch.library.register_fake(self.raw, fake)
        torch.library.register_autograd(self.raw, backward, setup_context=setup_context)
        torch.library.register_vmap(self.raw, self.vmap)
        torch.library.register_torch_dispatch(self.raw, FunctionalTensorMode, self._decompose)
        if autocast:
            for key in ("AutocastCPU", "AutocastCUDA"):
                _library.impl(name, self._autocast_kernel, key)

        self.raw_out = getattr(getattr(torch.ops.fastconv, name), "out", None)
        if self.raw_out is not None:
            _library.impl(f"{name}.out", self._fall_back_into, "CompositeExplicitAutograd")
            torch.library.register_fake(self.raw_out, self._fake_into)

    def run(self, *arguments: Any, out: Tensor | None = None) -> Any:
        # torch.compiler.is_compiling() in its two parts: 0.1 us less.
        if (
            is_dynamo_compiling()
            or compiler._is_compiling_flag
            or state.choosing
            or forward_ad._current_level >= 0
        ):
            return self._dispatched(*arguments, out=out)
        return self.direct(*arguments) if out is None else self.direct(*arguments, out=out)

    __call__ = run  # Python finds its way to a method 0.2 us sooner than to a call

    def _dispatched(self, *arguments: Any, out: Tensor | None = None) -> Any:
        """A call by torch's dispatcher, or by what stands in for it where it cannot serve."""
        self._check(arguments)
        if self.unbatched and arguments[0].dim() == 3:
            return self._one_image(arguments, out)
        if self.parts and out is None and differentiates(*arguments[: self.tensors]):
            return self.parts(*arguments)
        # The autograd kernel of a custom op is Python and costs 3 us even where no gradient is
        # wanted (1x8x8x8 input: 5.6 us a call with it, 3.0 us past it), so it is passed by then.
        if out is not None:
            return self._into(out, arguments)
        if needs_reference(arguments[0]):
            return self._fall_back(*arguments)
        if torch.compiler.is_compiling() or torch._C._get_tracing_state():
            return self._traced(arguments)
        if torch._C._are_functorch_transforms_active():
            return self.under_transforms.apply(*self._cast(arguments))
        if state.choosing or refused(arguments[0]):
            return self._by_choice(arguments)
        if torch.is_grad_enabled() and _requires_grad(*arguments[: self.tensors]):
            return self.with_gradient.apply(*self._cast(arguments))
        with torch._C._AutoDispatchBelowAutograd():
            return self._eager(*arguments)

    def _traced(self, arguments: Sequence[Any]) -> Any:
        """The op as torch.compile and its like are to see it."""
        if _differentiated_by_transform():
            # What register_autograd makes has no rule for torch.func, and under_transforms, which
            # has one, is more than torch.compile follows.
            return self.reference(*arguments)
        if torch.compiler.is_exporting():
            return self.raw(*arguments)
        if state.choosing == "reference":
            return self.reference(*arguments)
        if state.choosing or not arguments[0].is_cpu:
            marked = torch.ops.fastconv.on(arguments[0], state.choosing or "auto")
            return self.raw(marked, *arguments[1:])
        return self.raw(*arguments)

    def _by_choice(self, arguments: Sequence[Any]) -> Any:
        """As the end of a call, where a backend is forced or measurements may speak for another."""
        arguments = self._cast(arguments)
        if torch.is_grad_enabled() and _requires_grad(*arguments[: self.tensors]):
            return self.with_chosen_gradient.apply(*arguments)
        with (
            torch._C._AutoDispatchBelowAutograd(),
            torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS),
        ):
            return self._on_chosen(*arguments)

    def _on_chosen(self, *arguments: Any) -> Any:
        """The op on the backend chosen, below autograd and autocast."""
        if arguments[0].is_meta or (arguments[0].is_cpu and forced() == "auto"):
            return self._eager(*arguments)
        choice = decide(self.name, arguments)
        if choice.backend in BESIDE_DISPATCHER:
            return self._beside_dispatcher(choice, arguments)
        return self._eager(*arguments)

    def _fall_back(self, *arguments: Any) -> Any:
        """The op where the dispatcher has no kernel of ours for it."""
        if torch.compiler.is_compiling():
            return self.reference(*arguments)
        return self._beside_dispatcher(decide(self.name, arguments), arguments)

    def _beside_dispatcher(self, choice: Choice, arguments: Sequence[Any]) -> Any:
        tell(self.name, arguments[0], choice)
        if choice.backend == "triton":
            return triton_kernel(self.name)(*arguments)
        return self.reference(*arguments)

    def _decompose(self, mode: Any, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """What torch.compile sees in place of the op: its Triton kernels, where they are chosen."""
        choice = decide(self.name, args)
        if torch.compiler.is_exporting():  # an exported program keeps the op, for any machine
            return mode.__torch_dispatch__(op, types, args, kwargs)
        if choice.backend == "triton":
            with mode:
                return triton_kernel(self.name)(*args, **kwargs)
        if choice.backend == "reference" and refused(args[0]):
            with mode:
                return self.reference(*args, **kwargs)
        return mode.__torch_dispatch__(op, types, args, kwargs)

    def _check(self, arguments: Sequence[Any]) -> None:
        """Raises TypeError for what is no tensor."""
        check_tensors(self.name, self._optional, **dict(zip(self._names, arguments, strict=False)))

    def _one_image(self, arguments: Sequence[Any], out: Tensor | None) -> Any:
        one = (
            a.unsqueeze(0) if i in self.batched and a is not None else a
            for i, a in enumerate(arguments)
        )
        if out is None:
            return self(*one).squeeze(0)
        self(*one, out=_tensor(self.name, out).unsqueeze(0))
        return out

    def _into(self, out: Tensor, arguments: Sequence[Any]) -> Tensor:
        """The op with its result written to out, as torch's functions with out= have it."""
        assert self.raw_out is not None
        _tensor(self.name, out)
        if torch.is_grad_enabled() and _requires_grad(out, *arguments[: self.tensors]):
            raise RuntimeError(
                f"{self.name}(): functions with out=... arguments don't support automatic "
                "differentiation, but one of the arguments requires grad."
            )
        if needs_reference(arguments[0]):
            return self._fall_back_into(*arguments, out=out)
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return self._copy_into(out, self(*arguments))  # functional, and then one write
        with torch._C._AutoDispatchBelowAutograd():
            if state.choosing or refused(arguments[0]):
                choice = decide(self.name, arguments)
                if choice.backend in BESIDE_DISPATCHER:
                    return self._copy_into(out, self._beside_dispatcher(choice, arguments))
            return self.raw_out(*arguments, out=out)

    def _copy_into(self, out: Tensor, result: Tensor) -> Tensor:
        check_like_input(self.name, result, out=out)
        if out.shape != result.shape:
            raise RuntimeError(
                f"{self.name}: expected out of shape {tuple(result.shape)}, got {tuple(out.shape)}"
            )
        return out.copy_(result)

    def _fall_back_into(self, *arguments: Any, out: Tensor) -> Tensor:
        return self._copy_into(out, self._fall_back(*arguments))

    def _fake_into(self, *arguments: Any, out: Tensor) -> Tensor:
        return self._copy_into(out, self.fake(*arguments))

    def recompute(self, *arguments: Any) -> Any:
        """The op within a backward pass, where autocast has had its say in the forward pass."""
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS):
            return self(*arguments)

    def _autocast_kernel(self, *arguments: Any) -> Any:
        cast = self._cast(arguments)
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS):
            return self.raw(*cast)

    def _cast(self, arguments: Sequence[Any]) -> Sequence[Any]:
        device = arguments[0].device.type
        if not (self.autocast and device in AUTOCAST_DEVICES and torch.is_autocast_enabled(device)):
            return arguments
        dtype = torch.get_autocast_dtype(device)
        cast = (
            a.to(dtype) if a is not None and a.dtype in AUTOCAST_DTYPES else a
            for a in arguments[: self.tensors]
        )
        return *cast, *arguments[self.tensors :]

    def vmap(self, info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        """The batching rule, in the form of torch.library.register_vmap."""
        # A list argument comes with a dimension for each of its elements: none is mapped.
        in_dims = tuple(dim if isinstance(dim, int) else None for dim in in_dims)
        mapped = [i for i, dim in enumerate(in_dims) if dim is not None]
        if all(i in self.batched and arguments[i].dim() > 1 for i in mapped):
            output = self(*self._folded(info.batch_size, in_dims, arguments))
            output = tree_map(lambda t: t.unflatten(0, (info.batch_size, -1)), output)
        else:
            output = self._one_by_one(info.batch_size, in_dims, arguments)
        return output, tree_map(lambda _: 0, output)

    def _folded(self, size: int, in_dims: Sequence[int | None], arguments: Sequence[Any]) -> list:
        folded = list(arguments)
        for i in self.batched:
            if arguments[i] is None:
                continue
            dim = in_dims[i]
            value = arguments[i].expand(size, *arguments[i].shape) if dim is None else arguments[i]
            folded[i] = value.movedim(dim or 0, 0).flatten(0, 1)
        return folded

    def _one_by_one(
        self, size: int, in_dims: Sequence[int | None], arguments: Sequence[Any]
    ) -> Any:
        def pick(value: Any, dim: int | None, index: int) -> Any:
            return value if dim is None else value.select(dim, index)

        pairs = list(zip(arguments, in_dims, strict=True))
        outputs = [self(*(pick(value, dim, i) for value, dim in pairs)) for i in range(size)]
        if isinstance(outputs[0], tuple):
            return tuple(torch.stack(column) for column in zip(*outputs, strict=True))
        return torch.stack(outputs)


@torch.compiler.assume_constant_result  # it guards what transforms there are by itself
def _differentiated_by_transform() -> bool:
    """Whether torch.func.grad or another of its derivatives is to see the op, not vmap alone."""
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() != torch._C._functorch.TransformType.Vmap for level in levels)


@cache
def triton_kernel(name: str) -> Callable[..., Any]:
    """The op of that name in fastconv.triton_kernels, which only those import who have Triton."""
    return importlib.import_module("fastconv.triton_kernels").KERNELS[name].run


def _tensor(op: str, out: Any) -> Tensor:
    if not isinstance(out, Tensor):
        check_tensors(op, out=out)
    return out


def _autograd_function(
    run: Callable[..., Any], setup_context: Callable[..., None], backward: Callable[..., Any]
) -> type[torch.autograd.Function]:
    """The op with its gradient, for eager calls: what register_autograd makes costs more a call.

    1x8x8x8, one thread of a Zen 5, forward and with its backward pass: pointwise 20 and 66 us that
    way, 10 and 47 us this way; depthwise 27 and 81 us, 12 and 56 us.
    """

    def forward(ctx: Any, *arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = _C.keeping_memory(run, *arguments)
        setup_context(ctx, arguments, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type("Op", (torch.autograd.Function,), members)


def _on_one_backend(
    setup_context: Callable[..., None], backward: Callable[..., Any]
) -> tuple[Callable[..., None], Callable[..., Any]]:
    """Both, with the backward pass on the backend forced in the forward pass.

    Autograd runs the backward pass of CUDA tensors in a thread of its own.
    """

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        setup_context(ctx, inputs, output)
        ctx.backend = forced()

    def recall(ctx: Any, *cotangents: Tensor) -> Any:
        with use_backend(ctx.backend):
            return backward(ctx, *cotangents)

    return remember, recall


def _transformed_function(
    op: Op, setup_context: Callable[..., None], backward: Callable[..., Any]
) -> type[torch.autograd.Function]:
    """The op for torch.func transforms, which do not see register_autograd."""

    def forward(*arguments: Any) -> Any:
        chooses = state.choosing or refused(arguments[0])
        return op._on_chosen(*arguments) if chooses else op.raw(*arguments)

    return type(
        "OpFunction",
        (torch.autograd.Function,),
        {
            "forward": staticmethod(forward),
            "setup_context": staticmethod(setup_context),
            "backward": staticmethod(backward),
            "vmap": staticmethod(op.vmap),
        },
    )


def differentiates(*tensors: Tensor | None) -> bool:
    """Whether a gradient or a transform of torch.func may be wanted of a call on these tensors."""
    if torch._C._are_functorch_transforms_active():
        return True
    return torch.is_grad_enabled() and _requires_grad(*tensors)


def _requires_grad(*tensors: Tensor | None) -> bool:
    for tensor in tensors:  # noqa: SIM110  any() costs 0.4 us more of a call's 5
        if tensor is not None and tensor.requires_grad:
            return True
    return False


class DerivedOp(Op):
    """An op whose gradients are those of its reference, in eager torch."""

    def __init__(
        self, name: str, *, tensors: int, reference: Callable[..., Any], **settings: Any
    ) -> None:
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.save_for_backward(*inputs[:tensors])
            ctx.rest = inputs[tensors:]

        def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
            saved = ctx.saved_tensors
            given = [i for i, tensor in enumerate(saved) if tensor is not None]

            def of_given(*tensors: Tensor) -> Any:
                values = dict(zip(given, tensors, strict=True))
                return reference(*(values.get(i) for i in range(len(saved))), *ctx.rest)

            vjp = torch.func.vjp(of_given, *(saved[i] for i in given))[1]
            gradients = vjp(cotangents[0] if len(cotangents) == 1 else cotangents)
            of = dict(zip(given, gradients, strict=True))
            return *(of.get(i) for i in range(len(saved))), *(None for _ in ctx.rest)

        super().__init__(
            name,
            tensors=tensors,
            reference=reference,
            setup_context=setup_context,
            backward=backward,
            **settings,
        )


class BackwardOp(DerivedOp):
    """The backward pass of an op."""


class FusedOp(DerivedOp):
    """A block of ops for inference; torch.autocast casts its tensors as it does for the parts."""

    def __init__(self, name: str, *, parts: Callable[..., Any], **settings: Any) -> None:
        super().__init__(name, parts=parts, autocast=True, unbatched=True, **settings)
