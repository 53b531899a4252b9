"""Mel powers by products of matrices are those of the Fourier transform."""

from __future__ import annotations

import pytest
import torch

from lightning_audio.frontend.fourier import framed, mel_powers


@pytest.mark.parametrize(
    ("size", "hop"), [(1024, 441), (400, 160), (30, 50), (97, 10), (401, 160), (2, 1), (1, 1)]
)
@pytest.mark.parametrize("magnitudes", [False, True])
def test_powers_are_those_of_the_fourier_transform(size: int, hop: int, magnitudes: bool) -> None:
    """Also of lengths that are odd or prime, and of frames that leave samples out."""
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.randn(3, 2 * size + 5 * hop + 3, generator=generator)
    window, filters = torch.rand(size, generator=generator), torch.rand(size // 2 + 1, 7, generator=generator)
    spectrum = torch.fft.rfft(waveforms.unfold(-1, size, hop).double() * window).abs()
    expected = (spectrum if magnitudes else spectrum.square()) @ filters.double()
    found = mel_powers(waveforms, window, hop, filters, magnitudes).double()
    assert ((found - expected).abs() / expected.amax()).max() < 3e-6


@pytest.mark.parametrize("length", [30, 31, 79, 80, 81, 500])
def test_frames_are_those_of_unfold(length: int) -> None:
    waveforms = torch.arange(2.0 * length).view(2, length)
    for hop in (1, 7, 30, 50):
        assert torch.equal(framed(waveforms, 30, hop), waveforms.unfold(-1, 30, hop))
