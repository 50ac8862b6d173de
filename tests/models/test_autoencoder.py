"""Encoder, decoder and patch discriminator: scale, grids, and what one row knows of another."""

from __future__ import annotations

import pytest
import torch

from t2i_cli.models import Decoder, Encoder, PatchDiscriminator
from t2i_cli.pixels import to_images
from tests.toys import Toys, awaken, toy_config


@pytest.fixture
def pair() -> tuple[Encoder, Decoder]:
    torch.manual_seed(0)
    encoder, decoder = Encoder(toy_config()), Decoder(toy_config())
    awaken(encoder, decoder)
    return encoder, decoder


def toys() -> torch.Tensor:
    return to_images(torch.from_numpy(Toys().pixels))


def test_latents_have_unit_variance_in_every_cell_whatever_the_picture(pair) -> None:
    encoder, _ = pair
    pictures = toys()
    # (almost) nothing, everything, noise far out of range
    odd = [
        torch.rand(1, 4, 32, 32) * 1e-3,
        torch.ones(1, 4, 32, 32),
        torch.randn(1, 4, 32, 32) * 50,
    ]
    latents = encoder(torch.cat([pictures, *odd])).detach()
    assert latents.shape == (19, 16, 8, 8)
    assert latents.dtype == torch.float32
    assert float(latents.mean(1).abs().max()) < 1e-4
    assert torch.allclose(latents.var(1, unbiased=False), torch.ones(19, 8, 8), atol=0.02)
    assert float(latents.abs().max()) <= 16**0.5  # what the store of references counts on


def test_the_decoder_draws_any_grid_of_cells(pair) -> None:
    _, decoder = pair
    for height, width in ((8, 8), (4, 4), (5, 7), (16, 2)):
        drawn = decoder(torch.randn(2, 16, height, width))
        assert drawn.shape == (2, 4, 4 * height, 4 * width)
        assert drawn.dtype == torch.float32


def test_the_decoder_sees_cells_and_not_where_they_are(pair) -> None:
    """A picture of many equal cells is the same in the middle of a small grid and of a large one."""
    _, decoder = pair
    cell = torch.randn(1, 16, 1, 1)
    small, large = (decoder(cell.expand(1, 16, n, n)).detach() for n in (16, 24))
    patch = 4  # px a cell
    middle_small = small[..., 7 * patch : 9 * patch, 7 * patch : 9 * patch]
    middle_large = large[..., 11 * patch : 13 * patch, 11 * patch : 13 * patch]
    assert torch.allclose(middle_small, middle_large, atol=1e-5)


@pytest.mark.parametrize("network", ["encoder", "decoder", "patch_discriminator"])
def test_no_row_hangs_on_another(pair, network: str) -> None:
    encoder, decoder = pair
    images = toys()[:4]
    if network == "patch_discriminator":
        judge = PatchDiscriminator().eval()

        def run(rows: torch.Tensor) -> torch.Tensor:
            return judge(rows, rows[:, :3])

        given = images
    else:
        run, given = (encoder, images) if network == "encoder" else (decoder, encoder(images))
    with torch.no_grad():
        together = run(given)
        alone = torch.cat([run(row[None]) for row in given])
    assert torch.allclose(together, alone, atol=1e-5)
    assert float((together[0] - together[1]).abs().max()) > 1e-4


@pytest.mark.parametrize("network", [0, 1])
def test_bf16_is_near_fp32_and_gives_fp32(pair, network: int) -> None:
    encoder, decoder = pair
    run, given = ((encoder, toys()), (decoder, torch.randn(4, 16, 8, 8)))[network]
    with torch.no_grad():
        exact = run(given)
        run.trunk_dtype = torch.bfloat16
        rough = run(given)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert float((rough - exact).norm() / exact.norm()) < 0.05


def test_every_parameter_of_the_pair_is_trained(pair) -> None:
    encoder, decoder = pair
    (decoder(encoder(toys())) - toys()).abs().mean().backward()
    for network in pair:
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().max()) > 0, name


def test_patch_discriminator_says_something_of_every_patch() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator().eval()
    images = toys()[:2]
    logits = judge(images, images[:, :3]).detach()
    assert logits.shape == (2, 1, 8, 8)
    changed = images.clone()
    changed[0, :, :4, :4] += 1  # a corner of the first picture
    moved = (judge(changed, changed[:, :3]) - logits).abs().detach()
    assert float(moved[0, 0, 0, 0]) > 1e-4
    assert float(moved[0, 0, 6:, 6:].max()) == 0  # far from the change
    assert float(moved[1].max()) == 0


def test_patch_discriminator_reads_the_picture_and_its_background() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator().eval()
    images = toys()[:2]
    plain = judge(images, images[:, :3])
    assert not torch.allclose(plain, judge(images, images[:, :3] + 0.5))
    assert not torch.allclose(plain, judge(images + 0.5, images[:, :3]))


def test_patch_discriminator_has_a_bounded_slope() -> None:
    """Spectral norms are one (Miyato et al. 2018), however large the weights are."""
    torch.manual_seed(0)
    judge = PatchDiscriminator()
    with torch.no_grad():
        for conv in judge.convs:
            conv.parametrizations.weight.original.mul_(100)
    images = toys()[:2]
    for _ in range(30):  # power iterations
        judge(images, images[:, :3])
    judge.eval()
    for conv in judge.convs:
        matrix = conv.weight.detach().flatten(1)
        assert float(torch.linalg.matrix_norm(matrix, 2)) == pytest.approx(1, abs=0.05)
