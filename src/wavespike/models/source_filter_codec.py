"""A codec of envelope and pitch: a causal network hears what the glottis and the tract do, a source-filter model speaks it (Dudley, 1939), RVQ between.

Papers: Zeghidour et al. 2021 (residual quantiser); Wang, Takaki and Yamagishi 2019 (harmonic plus noise source with network filters); Valin and Skoglund
2019 (an explicit pitch beside the envelope).
Equation: codes of a hop = (k, RVQ(W ConvNeXt(features))), k the pitch class, 0 unvoiced, else f0 = f_min (f_max / f_min)^((k - 1) / (N - 2));
stretch s of a hop: Y = A_s E_s + B_s Z_s, E and Z the spectra of a stretch of the pulse train at f0 and of noise, A and B the minimum-phase spectra
(Oppenheim and Schafer, 1975) of the log gains a, b = V ConvNeXt(z, k); y = sum of inverse(Y), each where its stretch begins; stretches fade into one another.
A minimum-phase answer begins with its cause: nothing waits for a frame to end, and the delay is left to the encoder, which hears what comes after the pitch that it tells.
No phase is transmitted: what a waveform-matching codec pays for it goes to the envelope. The pitch is an exact number to the decoder, integrated in
float64, so that any cutting of a stream gives the same waveform.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import ConfigError
from wavespike.models.frame_codec import FrameCodec, check_backbones
from wavespike.nn.convnext import ConvNeXtBackbone, ConvNeXtConfig
from wavespike.nn.pitch import PitchClasses, PitchEstimator
from wavespike.nn.pitch_code import PitchedRVQ, PitchScale
from wavespike.nn.rvq import RVQConfig
from wavespike.nn.spiking import SpikingConvNeXtBackbone, SpikingConvNeXtConfig
from wavespike.signal.correlation import PeriodCorrelation
from wavespike.signal.mel import MelConfig, mel_filterbank
from wavespike.signal.source import PulseState, counter_noise, pulse_segments
from wavespike.signal.stft import add_frames, hann_window


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFilterCodecConfig(Config):
    """Lengths in samples, frequencies in hertz.

    analysis_length   the encoder's window: the past that it hears, the hop at its end
    frame_length      of the analysis for the log-mel bands; half of it and one are the bins of the log gains
    subframes         stretches of the sources a hop, each through filters of its own
    crossfade         samples in which a stretch fades into the next
    behind            how long before the newest sample the stretches of a hop end: delay = behind + crossfade + hop - 1
    filter_length     of the transforms: a stretch and the answers of its filters
    bands, low_bins   log-mel bands of the last `frame_length` samples, and the lowest bins of the whole window, whose finer grid shows the harmonics
    pitch_dim, pitch_layers   size of the network that hears the pitch
    correlations      lengths of the newest stretches that it compares with those a period before; none: it hears what the encoder hears
    pitch_level       the place of the pitch among the codebooks; with fewer codebooks than that everything is whispered
    """

    type_name: ClassVar[str] = "source-filter-codec"

    sample_rate: int = 24000
    hop_length: int = 300
    frame_length: int = 600
    subframes: int = 2
    crossfade: int = 75
    behind: int = 225
    filter_length: int = 1050
    analysis_length: int = 1200
    bands: int = 80
    low_bins: int = 100
    pitch_level: int = 1
    pitch_dim: int = 64
    pitch_layers: int = 4
    correlations: tuple[int, ...] = ()
    encoder: ConvNeXtConfig = ConvNeXtConfig(input_channels=180, dim=192, intermediate_dim=576, num_layers=4, causal=True, embed_kernel_size=1)
    quantizer: RVQConfig = RVQConfig()
    decoder: ConvNeXtConfig | SpikingConvNeXtConfig = ConvNeXtConfig(input_channels=67, dim=192, intermediate_dim=576, num_layers=6, causal=True)

    def __post_init__(self) -> None:
        if self.subframes < 1 or self.hop_length % self.subframes:
            raise ConfigError(f"subframes: expected a divisor of {self.hop_length} (hop_length), got {self.subframes}")
        if self.frame_length % 2 or self.frame_length < 2:
            raise ConfigError(f"frame_length: expected an even number, got {self.frame_length}")
        if not 1 <= self.crossfade <= self.step:
            raise ConfigError(f"crossfade: expected 1..{self.step} (hop_length / subframes), got {self.crossfade}")
        if not 0 <= self.behind <= self.analysis_length - self.hop_length:
            raise ConfigError(f"behind: expected 0..{self.analysis_length - self.hop_length} (analysis_length - hop_length), got {self.behind}")
        if self.filter_length % 2 or self.filter_length < 2 * self.stretch:
            raise ConfigError(f"filter_length: expected an even number, at least twice {self.stretch} (hop_length / subframes + crossfade), got {self.filter_length}")
        if self.analysis_length < max(self.frame_length, self.hop_length) or self.analysis_length % 2:
            raise ConfigError(f"analysis_length: expected an even number, at least {max(self.frame_length, self.hop_length)}, got {self.analysis_length}")
        if not 1 <= self.low_bins <= self.analysis_length // 2:
            raise ConfigError(f"low_bins: expected 1..{self.analysis_length // 2}, got {self.low_bins}")
        if self.correlations and (min(self.correlations) < self.correlation.factor or self.correlation.needs > self.analysis_length):
            raise ConfigError(f"correlations: expected lengths that fit with the longest period into {self.analysis_length} (analysis_length), got {list(self.correlations)}, "
                              f"which need {self.correlation.needs}")
        if not 0 <= self.pitch_level < self.quantizer.num_codebooks or self.quantizer.num_codebooks < 2:
            raise ConfigError(f"pitch_level: expected one of two or more codebooks ({self.quantizer.num_codebooks}), got {self.pitch_level}")
        check_backbones(self.encoder, self.bands + self.low_bins, "bands + low_bins", self.decoder, self.quantizer.dim + 3, "quantizer.dim + 3: pitch")

    @property
    def step(self) -> int:
        """Samples from stretch to stretch."""
        return self.hop_length // self.subframes

    @property
    def stretch(self) -> int:
        """Samples of a source that go through one filter, those that fade in and out among them."""
        return self.step + self.crossfade

    @property
    def bins(self) -> int:
        return self.frame_length // 2 + 1

    @property
    def span(self) -> int:
        """Samples that the sound of one hop covers."""
        return self.filter_length + self.hop_length - self.step

    @property
    def correlation(self) -> PeriodCorrelation:
        """What the pitch network hears beside the features."""
        return PeriodCorrelation(self.sample_rate, self.correlations, PitchClasses.F_MIN_HZ, PitchClasses.F_MAX_HZ)

    @property
    def mel(self) -> MelConfig:
        """The bands that the encoder hears; power, so that they add up."""
        return MelConfig(sample_rate=self.sample_rate, n_fft=self.frame_length, hop_length=self.hop_length, n_mels=self.bands, power=2.0)


QUIET = 1e-7
"""Power under which the encoder hears nothing."""


@functools.lru_cache(maxsize=16)
def minimum_phase_matrix(bins: int, length: int, dtype: torch.dtype, device: str) -> Tensor:
    """Log gains at `bins` frequencies from 0 to half the rate -> those at the bins of a transform of `length` samples, and the phases of the causal filter
    with these gains (through the folded real cepstrum), [bins, 2 * (length / 2 + 1)]."""
    place = torch.linspace(0, bins - 1, length // 2 + 1, dtype=torch.float64)
    between = (1 - (place[None] - torch.arange(bins)[:, None]).abs()).clamp_min(0)
    cepstrum = torch.fft.irfft(between.to(torch.complex128), n=length)
    cepstrum[:, 1 : length // 2] *= 2
    cepstrum[:, length // 2 + 1 :] = 0
    return torch.cat([between, torch.fft.rfft(cepstrum).imag], 1).to(device=device, dtype=dtype)


@functools.lru_cache(maxsize=16)
def fading(length: int, crossfade: int, dtype: torch.dtype, device: str) -> Tensor:
    """Ones that rise over their first `crossfade` samples and fall over the last, so that a stretch and the next add up to one."""
    rise = torch.sin(0.5 * math.pi * (torch.arange(crossfade, dtype=torch.float64) + 0.5) / crossfade) ** 2
    return torch.cat([rise, rise.new_ones(length - 2 * crossfade), rise.flip(0)]).to(device=device, dtype=dtype)


class SpeechEncoder(nn.Module):
    """Frames [B, L, analysis_length], not windowed -> latents [B, 1 + D, L], the first of them the pitch class."""

    def __init__(self, config: SourceFilterCodecConfig, scale: PitchScale):
        super().__init__()
        self.config, self.scale = config, scale
        self.backbone = ConvNeXtBackbone(config.encoder)
        self.project = nn.Linear(config.encoder.dim, config.quantizer.dim)
        heard = config.encoder.input_channels + config.correlation.features
        self.pitch = PitchEstimator(heard, config.pitch_dim, config.pitch_layers, causal=True).float()  # only here may it err
        nn.init.trunc_normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)

    def features(self, frames: Tensor) -> Tensor:
        """[B, L, analysis_length] -> log-mel bands and the lowest log-magnitudes [B, bands + low_bins, L], about -1..1."""
        c = self.config
        short = frames[..., -c.frame_length :] * hann_window(c.frame_length, dtype=frames.dtype, device=frames.device)
        power = torch.view_as_real(torch.fft.rfft(short)).square().sum(-1)  # [B, L, F]
        bands = power @ mel_filterbank(c.mel).to(power).t()
        whole = torch.fft.rfft(frames * hann_window(c.analysis_length, dtype=frames.dtype, device=frames.device))
        low = torch.view_as_real(whole[..., 1 : 1 + c.low_bins]).square().sum(-1)
        return (0.1 * torch.log(torch.cat([bands, low], -1) + QUIET)).transpose(1, 2)

    def periods(self, frames: Tensor, features: Tensor) -> Tensor:
        """What the pitch network hears [B, bands + low_bins + correlations, L]: the features, and the newest samples beside those a period before."""
        return torch.cat([features, self.config.correlation(frames).transpose(1, 2)], 1) if self.config.correlations else features

    def latents(self, hidden: Tensor, logits: Tensor, voicing: Tensor) -> Tensor:
        """Hidden frames [B, L, dim], logits of the pitch [B, L, bins] and of voicing [B, L] -> latents [B, 1 + D, L]."""
        envelope = self.project(hidden).transpose(1, 2)
        envelope = envelope.float() if envelope.dtype in (torch.bfloat16, torch.float16) else envelope  # half precision has no 1,023
        index = self.scale.index(PitchClasses.hertz(logits.float()), voicing > 0)
        return torch.cat([index[:, None].to(envelope.dtype), envelope], 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents [B, 1 + D, L] and the logits of pitch and voicing."""
        features = self.features(frames)
        logits, voicing = self.pitch(self.periods(frames, features))
        return self.latents(self.backbone(features), logits, voicing), logits, voicing

    def initial_state(self, batch_size: int) -> list[list[Tensor]]:
        return [self.backbone.initial_state(batch_size), self.pitch.backbone.initial_state(batch_size)]

    def step(self, frames: Tensor, state: list[list[Tensor]]) -> tuple[Tensor, list[list[Tensor]]]:
        features = self.features(frames)
        hidden, first = self.backbone.step(features, state[0])
        heard, second = self.pitch.backbone.step(self.periods(frames, features), state[1])
        return self.latents(hidden, *self.pitch.split(heard)), [first, second]


@dataclasses.dataclass
class VoiceState:
    """What the decoder keeps from hop to hop: the backbone's past, the pulse train and the last samples of both sources [B, kept]."""

    backbone: list[Tensor]
    train: PulseState
    position: Tensor
    pulses: Tensor
    noise: Tensor


class SpeechDecoder(nn.Module):
    """Quantised latents [B, 1 + D, L] -> the sound of every hop [B, L, span], to be overlap-added; of `missing` [B, L] frames the pitch is held, the rest not looked at."""

    def __init__(self, config: SourceFilterCodecConfig, scale: PitchScale):
        super().__init__()
        self.config, self.scale = config, scale
        d = config.decoder
        self.backbone: ConvNeXtBackbone | SpikingConvNeXtBackbone
        self.backbone = SpikingConvNeXtBackbone(d) if isinstance(d, SpikingConvNeXtConfig) else ConvNeXtBackbone(d)
        self.out = nn.Linear(d.dim, 2 * config.subframes * config.bins)
        nn.init.trunc_normal_(self.out.weight, std=0.005)
        nn.init.constant_(self.out.bias, -4.0)  # both sources have unit variance
        self.lost = nn.Parameter(torch.zeros(config.quantizer.dim))
        """What the decoder sees in place of a lost frame."""

    def pitch_input(self, index: Tensor) -> Tensor:
        """Pitch classes in use [B, L] -> what the network is told of them [B, 3, L]: voiced, pitch in -1..1, not sent."""
        return torch.stack([index > 0, (index > 0) * (index * (2 / (self.scale.size - 1)) - 1), index < 0], 1).to(self.out.weight.dtype)

    def heard(self, latents: Tensor, index: Tensor, missing: Tensor | None) -> Tensor:
        """Latents [B, 1 + D, L] and the pitch classes in use [B, L] -> the backbone's input [B, D + 3, L]."""
        z = latents[:, 1:]
        if missing is not None:
            z = torch.where(missing[:, None], self.lost[:, None], z)
        return torch.cat([self.pitch_input(index).to(z.dtype), z], 1)

    def excitation(self, index: Tensor, state: VoiceState) -> tuple[Tensor, Tensor]:
        """Pitch classes [B, l] -> stretches [B, l, subframes, stretch] of pulses and of noise; the state goes on."""
        c = self.config
        f0 = self.scale.hertz(index)
        new = pulse_segments(f0, index > 0, state.train, c.hop_length, c.sample_rate, state.pulses.dtype)
        pulses = torch.cat([state.pulses, new], 1)
        hiss = torch.cat([state.noise, counter_noise(state.position, new.shape[1], new.dtype)], 1)
        kept = state.pulses.shape[1]
        state.position = state.position + new.shape[1]
        state.pulses, state.noise = pulses[:, -kept:], hiss[:, -kept:]
        first, second = (x.unfold(-1, c.hop_length + c.crossfade, c.hop_length).unfold(-1, c.stretch, c.step) for x in (pulses, hiss))
        return first, second

    def speak(self, gains: Tensor, pulses: Tensor, noise: Tensor) -> Tensor:
        """Log gains [B, l, 2 * subframes * bins] and stretches of the sources [B, l, subframes, stretch] -> the sound of every hop [B, l, span]."""
        c = self.config
        with torch.autocast(gains.device.type, enabled=False):
            z = gains.float() if gains.dtype in (torch.bfloat16, torch.float16) else gains
            z = z.clamp(-20.0, 6.0).reshape(*z.shape[:-1], 2, c.subframes, c.bins)
            size, phase = (z @ minimum_phase_matrix(c.bins, c.filter_length, z.dtype, str(z.device))).chunk(2, -1)
            filters = torch.polar(torch.exp(size), phase)  # [B, l, 2, s, filter_length / 2 + 1]
            window = fading(c.stretch, c.crossfade, z.dtype, str(z.device))
            spectra = torch.fft.rfft(torch.stack([pulses, noise], -3) * window, n=c.filter_length)
            return add_frames(torch.fft.irfft((filters * spectra).sum(-3), n=c.filter_length), c.step)

    def forward(self, latents: Tensor, missing: Tensor | None = None) -> Tensor:
        return self.step(latents, self.initial_state(latents.shape[0]), missing)[0]

    def initial_state(self, batch_size: int) -> VoiceState:
        c, like = self.config, self.out.weight
        anywhere = self.training and torch.is_grad_enabled()  # training hears every phase of the pulses and every stretch of the noise
        at = torch.randint(2**31, (batch_size,), device=like.device) if anywhere else torch.zeros(batch_size, dtype=torch.int64, device=like.device)
        start = 2 * math.pi * torch.rand(batch_size, dtype=torch.float64, device=like.device) if anywhere else None
        kept = like.new_zeros(batch_size, c.crossfade)
        train = PulseState.silent(batch_size, like.device, start)
        return VoiceState(self.backbone.initial_state(batch_size), train, at, kept, kept)

    def step(self, latents: Tensor, state: VoiceState, missing: Tensor | None = None) -> tuple[Tensor, VoiceState]:
        index = state.train.hold(latents[:, 0].round().long(), missing)
        pulses, noise = self.excitation(index, state)
        hidden, state.backbone = self.backbone.step(self.heard(latents, index, missing), state.backbone)
        return self.speak(self.out(hidden), pulses, noise), state


class SourceFilterCodec(FrameCodec[SourceFilterCodecConfig]):
    """A codec of any configuration: audio [B, 1, T] <-> codes [B, K, L], causal."""

    config_class: ClassVar[type[Config]] = SourceFilterCodecConfig

    def __init__(self, config: SourceFilterCodecConfig):
        super().__init__(config)
        scale = PitchScale(config.quantizer.codebook_size)
        self.encoder = SpeechEncoder(config, scale)
        self.quantizer = PitchedRVQ(config.quantizer, config.pitch_level)
        self.decoder = SpeechDecoder(config, scale)

    @property
    def analysis_length(self) -> int:
        return self.config.analysis_length

    @property
    def span(self) -> int:
        return self.config.span

    @property
    def edge(self) -> int:
        return self.config.behind + self.config.crossfade

    def analyse(self, audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Audio [B, 1, T] -> latents [B, 1 + D, L], logits of pitch and voicing: what training looks at."""
        out: tuple[Tensor, Tensor, Tensor] = self.encoder(self.frames_of(audio))
        return out

    def latents(self, audio: Tensor) -> Tensor:
        return self.analyse(audio)[0]
