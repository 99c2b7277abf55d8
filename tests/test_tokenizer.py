"""Picture -> codes -> picture, on odd grids too."""

from dataclasses import replace
from functools import partialmethod

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mars_dist.config import SpectrogramConfig, TokenizerConfig
from mars_dist.scales import Size
from mars_dist.tokenizer import Tokenizer, resample_tokens
from mars_dist.training.compilation import compile_blocks

TINY = TokenizerConfig(patch=Size(4, 2), codebook_size=32, code_width=6, width=16, depth=2, head_width=8)

# The patch grid of the pictures of `short` is 4x2.
SCHEDULES = {
    "the patch grid": (Size(1, 1), Size(2, 2), Size(4, 2)),
    "smaller": (Size(1, 1), Size(1, 2), Size(1, 2), Size(3, 2)),
    "larger": (Size(1, 1), Size(3, 3), Size(5, 4)),
    "smaller and larger": (Size(1, 1), Size(1, 1), Size(1, 3), Size(3, 3)),
}


def build(config: TokenizerConfig, spectrogram: SpectrogramConfig) -> Tokenizer:
    torch.manual_seed(0)
    tokenizer = Tokenizer(config, spectrogram)
    tokenizer.quantizer.codebook_Rc.data.normal_()
    return tokenizer


def pictures(spectrogram: SpectrogramConfig, batch: int = 3) -> Tensor:
    return torch.rand(batch, *spectrogram.picture_shape) * 2 - 1


@pytest.fixture(params=SCHEDULES)
def tokenizer(request: pytest.FixtureRequest, short: SpectrogramConfig) -> Tokenizer:
    return build(replace(TINY, scales=SCHEDULES[request.param]), short)


def test_shapes(tokenizer: Tokenizer, short: SpectrogramConfig) -> None:
    x_BCHW = pictures(short)
    y_BCHW, f_BChw, quantized = tokenizer(x_BCHW)
    schedule = tokenizer.config.schedule
    assert y_BCHW.shape == x_BCHW.shape
    assert f_BChw.shape == (3, 6, *schedule.latent_grid)
    assert quantized.codes_BL.shape == (3, schedule.num_tokens)
    assert quantized.residuals_BLc.shape == (3, schedule.num_tokens, 6)


def test_codes_hold_all_that_the_reconstruction_needs(tokenizer: Tokenizer, short: SpectrogramConfig) -> None:
    x_BCHW = pictures(short)
    reconstruction = tokenizer(x_BCHW)
    codes_BL = tokenizer.encode(x_BCHW)
    assert torch.equal(codes_BL, reconstruction.quantized.codes_BL)
    torch.testing.assert_close(tokenizer.decode(codes_BL), reconstruction.picture_BCHW, rtol=0, atol=1e-5)


def test_the_encoders_convolutions_are_not_rounded_to_tf32(
    short: SpectrogramConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, where cuDNN may: here the switch is looked at."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    tokenizer, rounded = build(replace(TINY, scales=SCHEDULES["smaller"], stem=2), short), list[bool]()
    for part in tokenizer.encoder.patches.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_pre_hook(lambda *_: rounded.append(torch.backends.cudnn.allow_tf32))
    tokenizer.encode(pictures(short))
    assert rounded == [False] * 4 and torch.backends.cudnn.allow_tf32


def test_codes_do_not_depend_on_the_batch(tokenizer: Tokenizer, short: SpectrogramConfig) -> None:
    x_BCHW = pictures(short)
    alone = [tokenizer.encode(x_BCHW[i : i + 1]) for i in range(3)]
    assert torch.equal(torch.cat(alone), tokenizer.encode(x_BCHW))


def test_bypass_goes_round_the_quantizer(tokenizer: Tokenizer, short: SpectrogramConfig) -> None:
    x_BCHW = pictures(short)
    bypassed = tokenizer(x_BCHW, bypass=True)
    assert torch.equal(bypassed.picture_BCHW, tokenizer.picture(bypassed.latents_BChw))
    assert not torch.allclose(bypassed.picture_BCHW, tokenizer(x_BCHW).picture_BCHW, atol=1e-4)


def test_latents_are_normalised_over_their_channels(tokenizer: Tokenizer, short: SpectrogramConfig) -> None:
    f_BChw = tokenizer.latents(pictures(short))
    torch.testing.assert_close(f_BChw.mean(1), torch.zeros_like(f_BChw[:, 0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(f_BChw.var(1, correction=0), torch.ones_like(f_BChw[:, 0]), rtol=0, atol=0.02)


def test_the_picture_pulls_every_weight_of_encoder_and_decoder(tokenizer: Tokenizer, short: SpectrogramConfig) -> None:
    x_BCHW = pictures(short)
    reconstruction = tokenizer(x_BCHW)
    (F.mse_loss(reconstruction.picture_BCHW, x_BCHW) + reconstruction.quantized.loss).backward()
    for part in (tokenizer.encoder, tokenizer.decoder):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), name


def test_latents_and_pictures_are_float32_where_weights_are_not(tokenizer: Tokenizer, short: SpectrogramConfig) -> None:
    x_BCHW = pictures(short)
    f_BChw = tokenizer.encoder(x_BCHW)
    y_BCHW = tokenizer.decoder(f_BChw)
    low_f_BChw = tokenizer.encoder.bfloat16()(x_BCHW.bfloat16())
    low_y_BCHW = tokenizer.decoder.bfloat16()(f_BChw.bfloat16())
    assert low_f_BChw.dtype == low_y_BCHW.dtype == torch.float32
    torch.testing.assert_close(low_f_BChw, f_BChw, rtol=0, atol=0.2)
    torch.testing.assert_close(low_y_BCHW, y_BCHW, rtol=0, atol=0.02)


def test_a_latent_and_a_query_start_from_their_own_place(short: SpectrogramConfig) -> None:
    tokenizer = build(replace(TINY, scales=SCHEDULES["the patch grid"], depth=0), short)
    x_BCHW = pictures(short, batch=1)
    other_BCHW = x_BCHW.clone()
    other_BCHW[..., 4:8, 2:4] += 1
    moved_hw = (tokenizer.latents(x_BCHW) != tokenizer.latents(other_BCHW))[0].any(0)
    assert moved_hw.nonzero().tolist() == [[1, 1]]
    f_BChw = torch.randn(1, 6, 4, 2)
    other_BChw = f_BChw.clone()
    other_BChw[..., 2, 0] += 1
    moved_HW = (tokenizer.picture(f_BChw) != tokenizer.picture(other_BChw))[0].any(0)
    assert moved_HW[8:12, :2].all()
    assert moved_HW.sum() == 4 * 2


def test_every_place_has_its_own_token(short: SpectrogramConfig) -> None:
    tokenizer = build(replace(TINY, scales=SCHEDULES["smaller"], depth=0), short).requires_grad_(False)
    x_BCHW, f_BChw = pictures(short, batch=1), torch.randn(1, 6, 3, 2)
    before_BChw, before_BCHW = tokenizer.latents(x_BCHW), tokenizer.picture(f_BChw)
    tokenizer.encoder.latent_tokens_SD[3] += 0.5 * torch.randn(16)
    tokenizer.decoder.query_tokens_PD[5] += 0.5 * torch.randn(16)
    assert (tokenizer.latents(x_BCHW) != before_BChw)[0].any(0).nonzero().tolist() == [[1, 1]]
    moved_HW = (tokenizer.picture(f_BChw) != before_BCHW)[0].any(0)
    assert moved_HW[8:12, 2:].all()
    assert moved_HW.sum() == 4 * 2


def test_tokens_are_resampled_in_place() -> None:
    x_BSD = torch.randn(2, 8, 3)
    assert resample_tokens(x_BSD, Size(4, 2), Size(4, 2)) is x_BSD
    x_B42D = x_BSD.view(2, 4, 2, 3)
    halved_BSD = resample_tokens(x_BSD, Size(4, 2), Size(2, 2)).view(2, 2, 2, 3)
    torch.testing.assert_close(halved_BSD[:, 0, 1], x_B42D[:, :2, 1].mean(1))
    tripled_BSD = resample_tokens(x_BSD, Size(4, 2), Size(12, 6)).view(2, 12, 6, 3)
    torch.testing.assert_close(tripled_BSD[:, 1::3, 1::3], x_B42D)
    both_BSD = resample_tokens(x_BSD, Size(4, 2), Size(2, 6)).view(2, 2, 6, 3)
    torch.testing.assert_close(both_BSD[:, :, 1::3], halved_BSD)


def test_free_latents_start_from_what_they_have_learnt_alone(short: SpectrogramConfig) -> None:
    config = replace(TINY, scales=SCHEDULES["the patch grid"], depth=0, latents="free")
    tokenizer = build(config, short)
    x_BCHW = pictures(short, batch=2)
    f_BChw = tokenizer.latents(x_BCHW)
    assert torch.equal(f_BChw[0], f_BChw[1])  # without blocks nothing tells them of the picture
    y_BCHW = tokenizer.picture(torch.randn_like(f_BChw))
    assert torch.equal(y_BCHW[0], y_BCHW[1])
    deep = build(replace(config, depth=1), short)
    f_BChw = deep.latents(x_BCHW)
    assert not torch.equal(f_BChw[0], f_BChw[1])


def test_a_stem_starts_as_nothing_and_then_sees_across_patches(short: SpectrogramConfig) -> None:
    config = replace(TINY, scales=SCHEDULES["the patch grid"], depth=0)
    plain, tokenizer = build(config, short), build(replace(config, stem=2), short)
    plain.encoder.patches[-1].load_state_dict(tokenizer.encoder.patches[-1].state_dict())
    for part in ("encoder", "decoder"):  # the stem moves the patch embedding's place in its sequence
        weights = {n: w for n, w in getattr(plain, part).state_dict().items() if not n.startswith("patches")}
        getattr(tokenizer, part).load_state_dict(weights, strict=False)
    x_BCHW = pictures(short, batch=1)
    torch.testing.assert_close(tokenizer.latents(x_BCHW), plain.latents(x_BCHW))
    f_BChw = torch.randn(1, 6, 4, 2)
    torch.testing.assert_close(tokenizer.picture(f_BChw), plain.picture(f_BChw))
    for part in (*tokenizer.encoder.patches[:2], *tokenizer.decoder.stem):
        part.second.weight.data.normal_()
    other_BCHW = x_BCHW.clone()
    other_BCHW[..., 3, 0] += 1
    moved_hw = (tokenizer.latents(x_BCHW) != tokenizer.latents(other_BCHW))[0].any(0)
    assert moved_hw[0, 0] and moved_hw[1, 0] and not moved_hw[3].any()


def test_each_branch_is_normalised_by_itself(short: SpectrogramConfig) -> None:
    tokenizer = build(replace(TINY, scales=SCHEDULES["smaller"], branches=2), short)
    for f_BChw in tokenizer.latents(pictures(short)).chunk(2, dim=1):
        torch.testing.assert_close(f_BChw.mean(1), torch.zeros_like(f_BChw[:, 0]), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo hides it from all but warnings as errors
def test_compiled_blocks_stay_compiled_for_parts_of_any_size(
    short: SpectrogramConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of an accumulated step, the last ones of a validation, one row alone; dynamo's own limit is 8 variants."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", torch._dynamo.config.recompile_limit)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    tokenizer = build(replace(TINY, scales=SCHEDULES["smaller"], depth=4), short)
    compile_blocks(tokenizer)
    for rows in (4, 3, 1, 4):
        tokenizer(pictures(short, rows)).picture_BCHW.square().mean().backward()
        tokenizer.eval()
        with torch.no_grad():
            for of_validation in (4, rows // 2 or 1):
                tokenizer(pictures(short, of_validation))
        tokenizer.train()
    refused = torch._dynamo.utils.counters["unimplemented"]
    torch._dynamo.reset()
    assert not any("limit" in reason for reason in refused)
