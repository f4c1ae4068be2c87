"""Swapped networks under autocast, torch.func, vmap, checkpointing, fake tensors and tracing."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vmap
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import fastconv
from tests.small_network import CLASSES, SmallNetwork, images, plain_and_swapped


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters()]


def test_autocast():
    plain, swapped = plain_and_swapped()
    x = images()
    double = copy.deepcopy(plain).double().train()
    double(x.double()).square().sum().backward()
    exact = torch.cat([g.flatten() for g in gradients(double)])
    errors = []
    for model in (plain.train(), swapped.train()):
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x)
        assert output.dtype == torch.bfloat16
        output.float().square().sum().backward()
        rounded = torch.cat([g.flatten() for g in gradients(model)]).double()
        errors.append((rounded - exact).norm() / exact.norm())
    assert errors[1] < 1.5 * errors[0] < 0.1  # torch rounds between layers that are one here


def test_vmap_over_images_and_over_models():
    plain, swapped = plain_and_swapped()
    stack = torch.stack([images(2), images(2), images(2)])
    assert_close(vmap(swapped)(stack), torch.stack([plain(x) for x in stack]))

    models = [swapped, *(fastconv.swap_(SmallNetwork()).eval() for _ in range(2))]
    parameters, buffers = stack_module_state(models)
    ensemble = vmap(lambda p, b, x: functional_call(swapped, (p, b), (x,)), (0, 0, None))
    assert_close(
        ensemble(parameters, buffers, stack[0]), torch.stack([m(stack[0]) for m in models])
    )


def test_gradients_of_each_sample_by_functional_call():
    x, target, results = images(), torch.randint(CLASSES, (4,)), []
    for model in plain_and_swapped():

        def loss(parameters, x, target, model=model):
            output = functional_call(model, parameters, (x[None],))
            return F.cross_entropy(output, target[None])

        per_sample = vmap(grad(loss), (None, 0, 0))
        results.append(per_sample(dict(model.named_parameters()), x, target))
    assert_close(results[1], results[0])


def test_jacobians_directional_and_second_derivatives():
    plain, swapped = (model.double() for model in plain_and_swapped())
    x = images(1, 5).double()
    assert_close(jacrev(swapped)(x), jacrev(plain)(x))
    assert_close(jvp(swapped, (x,), (x.cos(),)), jvp(plain, (x,), (x.cos(),)))
    second = (hessian(lambda x, m=m: m(x).square().sum())(x) for m in (swapped, plain))
    assert_close(*second)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant):
    _, whole = plain_and_swapped()
    parts = copy.deepcopy(whole).train()
    x = images().requires_grad_()
    whole.train()(x).square().sum().backward()
    x.grad, expected = None, x.grad
    checkpoint(parts, x, use_reentrant=reentrant).square().sum().backward()
    assert_close((x.grad, *gradients(parts)), (expected, *gradients(whole)))


def test_meta_and_fake_tensors():
    plain, _ = plain_and_swapped()
    with torch.device("meta"):
        model = fastconv.swap_(SmallNetwork()).eval()
    assert model(images().to("meta")).shape == (4, CLASSES)
    model.to_empty(device="cpu").load_state_dict(plain.state_dict())
    x = images()
    assert_close(model(x), plain(x))
    with FakeTensorMode():
        model = fastconv.swap_(SmallNetwork())
        model(images()).sum().backward()
        assert [g.shape for g in gradients(model)] == [p.shape for p in plain.parameters()]
    fast = fastconv.optimize(plain, (x,))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert fast(mode.from_tensor(x)).shape == (4, CLASSES)


def test_inference_mode():
    plain, swapped = plain_and_swapped()
    x = images()
    with torch.inference_mode():
        expected, fast = plain(x), fastconv.optimize(plain, (x,))
        for model in (swapped, fast, fast):
            output = model(x)
            assert output.is_inference()
            assert_close(output, expected)
    for _ in range(2):  # outside of the mode it was made in; the second call uses planned memory
        assert_close(fast(x), expected)


def test_symbolic_trace():
    plain, swapped = plain_and_swapped()
    traced = torch.fx.symbolic_trace(swapped)
    x = images()
    assert_close(traced(x), plain(x))
    assert_close(fastconv.optimize(traced.eval(), (x,))(x), plain(x))
    called = {node.target for node in traced.graph.nodes if node.op == "call_function"}
    ours = {"batch_norm", "conv2d", "local_response_norm", "residual_add"}
    assert called == {getattr(fastconv.ops, name) for name in ours}


COMPILED = {
    "grad": lambda loss: grad(loss),
    "grad of grad": lambda loss: grad(lambda x: grad(loss)(x).square().sum()),
    "vmap": lambda loss: lambda x: vmap(lambda image: loss(image[None]))(x),
    "vmap of grad": lambda loss: lambda x: vmap(lambda image: grad(loss)(image[None]))(x),
}


@pytest.mark.parametrize("transform", COMPILED.values(), ids=COMPILED)
def test_compiled_transforms(transform):
    plain, swapped = (model.double() for model in plain_and_swapped())
    x = images(2, 6).double()
    compiled = torch.compile(
        transform(lambda x: swapped(x).square().sum()), backend="aot_eager", fullgraph=True
    )
    assert_close(compiled(x), transform(lambda x: plain(x).square().sum())(x))
