"""The orders in which kernels want weights, and the way back to torch's: fastconv.ops.pack_*."""

import torch
from torch import Tensor

# The values of the parabola of three weights at the points 0, sqrt(1/2), -sqrt(1/2), sqrt(2),
# -sqrt(2) and infinity, each but the last over the derivative there of x (x^2 - 1/2) (x^2 - 2).
_A, _B = 0.5**0.5, 2**0.5
WINOGRAD_POINTS = (
    (1.0, 0.0, 0.0),
    *((-2 / 3, -2 / 3 * a, -1 / 3) for a in (_A, -_A)),
    *((1 / 6, 1 / 6 * b, 1 / 3) for b in (_B, -_B)),
    (0.0, 0.0, 1.0),
)
# And back, from the values at 0, sqrt(2), -sqrt(2) and infinity.
PARABOLA = (
    (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 3 / _B, -3 / _B, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
)


def at_winograd_points(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (6, 6, O, C): what multiplies the transformed inputs; computed in float64."""
    points = torch.tensor(WINOGRAD_POINTS, dtype=torch.float64, device=weight.device)
    return torch.einsum("ih,jw,ochw->ijoc", points, points, weight.double()).to(weight.dtype)


def unpack_dense(weight: Tensor, bias: Tensor | None) -> Tensor:
    """(O, C, kh, kw) from panels: (panels, kh, kw, C, columns), O as bias has values, or all.

    For Winograd's products these have a dimension before them; or it is (1, 6, 6, panels, C,
    columns), at their points, and comes back with the rounding of these.
    """
    if weight.dim() == 6 and weight.shape[2] == 3:
        weight = weight[0]
    elif weight.dim() == 6:
        back = torch.tensor(PARABOLA, dtype=torch.float64, device=weight.device)
        wide = weight[0].double()
        weight = torch.einsum("hi,wj,ijpcn->phwcn", back, back, wide).to(weight.dtype)
    plain = weight.permute(0, 4, 3, 1, 2).flatten(0, 1)
    return plain if bias is None else plain[: bias.numel()]


def unpack_pointwise_pairs(input: Tensor, weight: Tensor) -> Tensor:
    """A weight in pairs, as fastconv.ops.pack_pointwise_pairs gives it, in bfloat16 again."""
    if weight.dtype != torch.int32 or input.dtype != torch.bfloat16 or weight.dim() != 4:
        return weight
    rows = weight.flatten(1).contiguous().view(torch.bfloat16)
    channels = input.shape[1]
    fits = rows.shape[1] == channels + channels % 2
    return rows[:, : channels if fits else None, None, None]


def panels_of(out_channels: int) -> list[int]:
    """The output channels of each panel of fastconv.ops.pack_pointwise_panels."""
    count = max(-(-out_channels // 16) // 2, 1)
    return [32] * (count - 1) + [out_channels - 32 * (count - 1)]


def unpack_pointwise(input: Tensor, weight: Tensor) -> Tensor:
    """A weight in pairs or panels as (O, C, 1, 1) again, any other as it is."""
    if weight.dim() != 3 or weight.shape[0] != 1:
        return unpack_pointwise_pairs(input, weight)
    _, out_channels, channels = weight.shape
    *_, last = panels_of(out_channels)
    head, tail = weight.flatten().split([(out_channels - last) * channels, last * channels])
    whole = head.view(-1, channels, 32).transpose(1, 2).reshape(-1, channels)
    return torch.cat([whole, tail.view(channels, last).t()])[:, :, None, None]
