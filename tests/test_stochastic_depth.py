import pytest
import torch

from fastconv.models.stochastic_depth import StochasticDepth


def test_drops_whole_images_and_keeps_the_mean():
    input = torch.ones(10_000, 2, 1, 3, dtype=torch.float64, requires_grad=True)
    output = StochasticDepth(0.2)(input)
    rows = output.flatten(1)
    assert (rows == rows[:, :1]).all()
    assert set(output.unique().tolist()) == {0, 1.25}
    assert output.mean().item() == pytest.approx(1, abs=0.02)  # 4 deviations
    output.sum().backward()
    assert torch.equal(input.grad, output)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_draw_at_every_call_in_the_dtype_of_the_input(dtype):
    layer, input = StochasticDepth(0.5), torch.ones(64, 1, dtype=dtype)
    assert layer(input).dtype == dtype
    assert not torch.equal(layer(input), layer(input))


def test_nothing_happens_in_eval_mode_or_without_probability():
    input = torch.randn(4, 2)
    assert StochasticDepth(0.9).eval()(input) is input
    assert StochasticDepth(0)(input) is input


@pytest.mark.parametrize("probability", [-0.1, 1, float("nan")])
def test_bad_probability(probability):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        StochasticDepth(probability)
