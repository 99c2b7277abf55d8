"""Numbers that depend on a key and a place alone."""

import torch

from mars_dist import noise


def test_it_is_splitmix64() -> None:
    """Against the published numbers of a stream."""
    found = noise.at(torch.tensor(1234567), torch.arange(5))
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [value % 2**64 for value in found.tolist()] == expected


def test_numbers_are_spread_evenly_and_each_for_itself() -> None:
    uniform = noise.uniform(noise.keys(0, range(500))[:, None], torch.arange(1000))
    assert 0 <= uniform.min() < 1e-4 and 1 - 1e-4 < uniform.max() < 1
    torch.testing.assert_close(
        torch.histc(uniform, 20, 0, 1) / uniform.numel(), torch.full((20,), 0.05), rtol=0.03, atol=0
    )
    centred = uniform - 0.5
    for neighbour in (centred.roll(1, 0), centred.roll(1, 1)):  # of the stream beside it; of the place before
        assert abs((centred * neighbour).mean() * 12) < 0.01


def test_seeds_and_ids_have_streams_of_their_own() -> None:
    keys = torch.cat([noise.keys(seed, range(-1, 100)) for seed in (0, 1, 2, -1, 2**63, 2**64 - 2)])
    assert len(keys.unique()) == len(keys)
    assert torch.equal(noise.keys(3, [5]), noise.keys(3, [4, 5])[1:])
