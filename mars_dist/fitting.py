"""The codes of the last scale, fitted to one another.

What a code adds reaches its neighbours through phi, so the codes that are nearest token by token are not those whose
sum is nearest to what is missing. Iterated conditional modes (Besag 1986; for additive codes: Martinez et al.,
Revisiting additive quantization, ECCV 2016): each token takes the code that is best beside the others' as they are.
Suffixes: B batch, C code width over all branches, P branches, c d e code width of one branch, h w the latent grid, y x
the tokens of it that move together, i j the window of phi, V codebook size.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mars_dist.devices import full_float32

WINDOW = 3
"""Of phi. What tokens so far apart add does not overlap: a third of the rows and of the columns moves together."""


@torch.no_grad()
@full_float32()
def fit(missing_BChw: Tensor, codes_BhwP: Tensor, codebook_PVc: Tensor, weight_Ccij: Tensor, bias_C: Tensor) -> Tensor:
    """Codes (B, h, w, P) whose details, half as they are and half through phi, come nearer to what is missing.

    Each token is looked at once, beginning with the codes given; the squared distance never grows.
    """
    branches, (height, width) = len(codebook_PVc), missing_BChw.shape[2:]
    pull_Ceij = what_pulls(weight_Ccij, branches)
    pull_Pceij = pull_Ceij.unflatten(0, (branches, -1))
    inside = taps_inside(height, pull_Ceij), taps_inside(width, pull_Ceij)
    # The inner products of what two details at one place add inside the grid, and of what each code adds with itself.
    gram_ijPcd = torch.einsum("pceij,pdeij->ijpcd", pull_Pceij, pull_Pceij)
    square_ijPV = torch.einsum("pceij,pvc->ijpve", pull_Pceij, codebook_PVc).square().sum(-1)
    gram_hwPcd = torch.einsum("hi,wj,ijpcd->hwpcd", *inside, gram_ijPcd)
    square_hwPV = torch.einsum("hi,wj,ijpv->hwpv", *inside, square_ijPV)
    codes_BhwP = codes_BhwP.clone()
    detail_BChw = to_channels(look_up(codes_BhwP, codebook_PVc))
    phi_BChw = F.conv2d(detail_BChw, weight_Ccij, bias_C, padding=WINDOW // 2, groups=branches)
    rest_BChw = missing_BChw - (detail_BChw + phi_BChw) / 2
    for row in range(min(WINDOW, height)):
        for column in range(min(WINDOW, width)):
            # With a border of one cell the windows of these tokens lie side by side.
            here = (slice(row, None, WINDOW), slice(column, None, WINDOW))
            bordered_BChw = F.pad(rest_BChw, (WINDOW // 2,) * 4)
            pull_BCyx = F.conv2d(bordered_BChw[:, :, row:, column:], pull_Ceij, stride=WINDOW, groups=branches)
            now_ByxPc = look_up(codes_BhwP[:, *here], codebook_PVc)
            pull_ByxPc = pull_BCyx.permute(0, 2, 3, 1).unflatten(-1, (branches, -1))
            pull_ByxPc = pull_ByxPc + torch.einsum("yxpcd,byxpd->byxpc", gram_hwPcd[here], now_ByxPc)
            product_ByxPV = torch.einsum("byxpc,pvc->byxpv", pull_ByxPc, codebook_PVc)
            codes_BhwP[:, *here] = (square_hwPV[here] - 2 * product_ByxPV).argmin(-1)
            moved_BCyx = to_channels(look_up(codes_BhwP[:, *here], codebook_PVc) - now_ByxPc)
            added_BChw = F.conv_transpose2d(moved_BCyx, pull_Ceij, stride=WINDOW, groups=branches)
            windows = (slice(row, row + added_BChw.shape[2]), slice(column, column + added_BChw.shape[3]))
            bordered_BChw[:, :, *windows] -= added_BChw
            rest_BChw = F.pad(bordered_BChw, (-(WINDOW // 2),) * 4)
    return codes_BhwP


def what_pulls(weight_Ccij: Tensor, branches: int) -> Tensor:
    """The convolution that says what each detail would gain by: the transpose of half itself and half phi."""
    weight_Pecij = weight_Ccij.flip(2, 3).unflatten(0, (branches, -1)) / 2
    weight_Pecij[..., WINDOW // 2, WINDOW // 2] += torch.eye(weight_Pecij.shape[1], device=weight_Ccij.device) / 2
    return weight_Pecij.transpose(1, 2).flatten(0, 1)


def taps_inside(length: int, like: Tensor) -> Tensor:
    """(length, WINDOW): 1 where what a detail adds through a tap lies inside the grid, else 0."""
    places = torch.arange(length, device=like.device)[:, None] + torch.arange(WINDOW, device=like.device) - WINDOW // 2
    return ((places >= 0) & (places < length)).to(like.dtype)


def look_up(codes_P: Tensor, codebook_PVc: Tensor) -> Tensor:
    """(..., P), the index of a code in each branch -> (..., P, c), the codes."""
    num_branches, codebook_size, _ = codebook_PVc.shape
    first_rows_P = torch.arange(0, num_branches * codebook_size, codebook_size, device=codebook_PVc.device)
    return F.embedding(codes_P + first_rows_P, codebook_PVc.flatten(0, 1))


def to_channels(x_ByxPc: Tensor) -> Tensor:
    """(B, y, x, P, c) -> (B, C, y, x)."""
    return x_ByxPc.flatten(3).permute(0, 3, 1, 2)
