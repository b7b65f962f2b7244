"""AudioDec's checkpoints: `checkpoint-{N}steps.pkl` (read with weights_only) beside `config.yml` (safe YAML).

`load(DIR_OR_PKL)` gives the autoencoder or the vocoder that the configuration names; `join` makes one codec of two checkpoints.
Streaming buffers of the original are dropped; everything else must fit exactly.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavespike.errors import CheckpointError, UsageError, nearest
from wavespike.hub.importers.files import read_pickle, read_yaml
from wavespike.models.audiodec import AudioDec, AudioDecConfig, DecoderConfig, EncoderConfig
from wavespike.models.base import Model
from wavespike.models.hifigan import HiFiGAN, HiFiGANConfig
from wavespike.nn.conv import upstream_weight_norm_names
from wavespike.nn.rvq import RVQConfig


def _pair(encoder: str, encoder_steps: int, decoder: str, decoder_steps: int) -> tuple[str, str]:
    return f"exp/{encoder}/checkpoint-{encoder_steps}steps.pkl", f"exp/{decoder}/checkpoint-{decoder_steps}steps.pkl"


_VCTK, _UNIV, _LIBRITTS = "autoencoder/symAD_vctk_48000_hop300", "autoencoder/symADuniv_vctk_48000_hop300", "autoencoder/symAD_libritts_24000_hop300"
_SYMAAD, _C16 = "autoencoder/symAAD_vctk_48000_hop300", "autoencoder/symAD_c16_vctk_48000_hop320"

RELEASED: dict[str, tuple[str, str]] = {
    "libritts_v1": _pair(_LIBRITTS, 500000, "vocoder/AudioDec_v1_symAD_libritts_24000_hop300_clean", 500000),
    "libritts_sym": _pair(_LIBRITTS, 500000, _LIBRITTS, 1000000),
    "vctk_v0": _pair(_VCTK, 200000, "vocoder/AudioDec_v0_symAD_vctk_48000_hop300_clean", 500000),
    "vctk_v1": _pair(_VCTK, 200000, "vocoder/AudioDec_v1_symAD_vctk_48000_hop300_clean", 500000),
    "vctk_v2": _pair(_VCTK, 200000, "vocoder/AudioDec_v2_symAD_vctk_48000_hop300_clean", 500000),
    "vctk_sym": _pair(_VCTK, 200000, _VCTK, 700000),
    "vctk_denoise": _pair("denoise/symAD_vctk_48000_hop300", 200000, "vocoder/AudioDec_v1_symAD_vctk_48000_hop300_clean", 500000),
    "vctk_univ": _pair(_UNIV, 500000, "vocoder/AudioDec_v3_symADuniv_vctk_48000_hop300_clean", 500000),
    "vctk_univ_sym": _pair(_UNIV, 500000, _UNIV, 1000000),
    "vctk_activate_sym": _pair(_SYMAAD, 200000, _SYMAAD, 700000),
    "vctk_c16h320_sym": _pair(_C16, 500000, _C16, 1000000),
}
"""The released models -> encoder and decoder checkpoints below the folder into which the release was unpacked."""

_AUTOENCODER_KEYS = {"input_channels", "output_channels", "encode_channels", "decode_channels", "code_dim", "codebook_num", "codebook_size", "bias",
                     "enc_ratios", "dec_ratios", "enc_strides", "dec_strides", "mode", "codec", "projector", "quantier", "use_weight_norm"}
_VOCODER_KEYS = {"in_channels", "out_channels", "channels", "kernel_size", "upsample_scales", "upsample_kernel_sizes", "resblock_kernel_sizes",
                 "resblock_dilations", "groups", "bias", "use_additional_convs", "nonlinear_activation", "nonlinear_activation_params", "use_weight_norm", "stats"}


def recognises(source: Path) -> bool:
    """Is this a checkpoint of AudioDec: a `.pkl`, a folder of them with `config.yml`, or a released name beside `exp/`?"""
    if source.is_file():
        return source.suffix == ".pkl" and (source.parent / "config.yml").is_file()
    if source.is_dir():
        return (source / "config.yml").is_file() and bool(list(source.glob("checkpoint-*steps.pkl")))
    return source.name in RELEASED and (source.parent / "exp").is_dir()


def load(source: Path) -> Model[Any]:
    """An `AudioDec` (autoencoder), a `HiFiGAN` (vocoder alone), or, for a released name (`vctk_v1`) beside `exp/`, its encoder and decoder joined.

    Raises CheckpointError for a damaged, unsafe or unknown checkpoint.
    """
    if source.name in RELEASED and not source.exists():
        encoder, decoder = (source.parent / p for p in RELEASED[source.name])
        codec = _load_one(encoder)
        assert isinstance(codec, AudioDec)
        return join(codec, _load_one(decoder))
    return _load_one(source)


def join(codec: Model[Any], decoder: Model[Any]) -> AudioDec:
    """The encoder and quantiser of `codec` with the decoder of another checkpoint: a vocoder, or an autoencoder of a later stage."""
    if not isinstance(codec, AudioDec):
        raise UsageError(f"expected an autoencoder to join with a decoder, got a {type(codec).__name__}; name the autoencoder first")
    c = codec.config
    if isinstance(decoder, HiFiGAN):
        config = dataclasses.replace(c, decoder=decoder.config)
        part: torch.nn.Module = decoder.generator
    elif isinstance(decoder, AudioDec):
        d = decoder.config
        if (d.activate, d.weight_norm, d.bias, d.causal, d.quantizer.dim) != (c.activate, c.weight_norm, c.bias, c.causal, c.quantizer.dim):
            raise CheckpointError("expected a decoder of the same kind as the encoder's (activate, weight_norm, bias, causal, code dimension), got another")
        config = dataclasses.replace(c, decoder=d.decoder, output_channels=d.output_channels)
        part = decoder.decoder
    else:
        raise UsageError(f"expected a vocoder or an autoencoder as decoder, got a {type(decoder).__name__}")
    joined = AudioDec(config)
    state = {k: v for k, v in codec.state_dict().items() if not k.startswith("decoder.")}
    state.update({f"decoder.{k}": v for k, v in part.state_dict().items()})
    joined.load_state_dict(state)
    return joined.eval()


def _load_one(source: Path) -> Model[Any]:
    path = _checkpoint_file(source)
    config = _read_config(path.parent / "config.yml")
    state = _read_generator(path)
    vocoder = "upsample_scales" in config["generator_params"]
    model: Model[Any] = HiFiGAN(_vocoder_config(config)) if vocoder else AudioDec(_autoencoder_config(config))
    names = {_our_name(k, vocoder): (v, k) for k, v in upstream_weight_norm_names(state).items() if not k.endswith("pad_buffer")}
    own = model.state_dict()
    ours = {k: (v.t() if re.search(r"levels\.\d+\.(codebook|vector_sum)$", k) else v) for k, (v, _) in names.items()}
    ours.update({k: torch.tensor(True) for k in own if k.endswith(".started")})
    missing, surplus = sorted(own.keys() - ours.keys()), sorted(ours.keys() - own.keys())
    if missing or surplus:
        raise CheckpointError(
            f"{path}: expected exactly the keys of its config.yml, got {len(missing)} missing ({', '.join(missing[:2])}) and {len(surplus)} surplus "
            f"({', '.join(names[k][1] for k in surplus[:2])}); do both files belong together?"
        )
    for key, value in ours.items():
        if value.shape != own[key].shape:
            raise CheckpointError(f"{path}: expected {key} of shape {list(own[key].shape)}, got {list(value.shape)}; do checkpoint and config.yml belong together?")
    model.load_state_dict({k: v.to(own[k].dtype) for k, v in ours.items()})
    return model.eval()


def _our_name(name: str, vocoder: bool) -> str:
    name = re.sub(r"\.(?:conv|deconv)\.(weight|bias|parametrizations\..*)$", r".\1", name)  # upstream wraps every convolution once
    if vocoder:
        name = re.sub(r"^blocks\.(\d+)\.blocks\.(\d+)\.", r"blocks.\1.stacks.\2.", name)
        name = re.sub(r"^blocks\.(\d+)\.(convs\d)", r"blocks.\1.stacks.0.\2", name)
        return f"generator.{name}"
    name = re.sub(r"^decoder\.conv_blocks\.(\d+)\.1\.", r"decoder.conv_blocks.\1.", name)  # 0 is the activation of symAAD
    name = re.sub(r"^projector\.project\.0\.", "projector.project.", name)  # conv1d_bn is a sequence of two
    name = re.sub(r"^projector\.project\.1\.", "projector.norm.", name)
    name = re.sub(r"^quantizer\.codebook\.layers\.(\d+)\.embed$", r"quantizer.levels.\1.codebook", name)
    name = re.sub(r"^quantizer\.codebook\.layers\.(\d+)\.embed_avg$", r"quantizer.levels.\1.vector_sum", name)
    return re.sub(r"^quantizer\.codebook\.layers\.(\d+)\.", r"quantizer.levels.\1.", name)


def _checkpoint_file(source: Path) -> Path:
    if source.suffix == ".pkl":
        if not source.is_file():
            raise CheckpointError(f"{source}: expected a checkpoint of the release, found none; unpack it there")
        return source
    found = [(int(m[1]), p) for p in source.glob("checkpoint-*steps.pkl") if (m := re.fullmatch(r"checkpoint-(\d+)steps\.pkl", p.name))]
    if not found:
        raise CheckpointError(f"{source}: expected checkpoint-*steps.pkl, found none; unpack the release below this folder")
    return max(found)[1]


def _read_generator(path: Path) -> dict[str, Tensor]:
    data = read_pickle(path)
    generator = data["model"].get("generator") if isinstance(data.get("model"), dict) else None
    if not isinstance(generator, dict) or not all(isinstance(v, Tensor) for v in generator.values()):
        raise CheckpointError(f"{path}: expected model.generator with tensors as AudioDec saves it, got another content")
    return generator


def _read_config(path: Path) -> dict[str, Any]:
    config = read_yaml(path)
    if not isinstance(config.get("generator_params"), dict) or "sampling_rate" not in config:
        raise CheckpointError(f"{path}: expected sampling_rate and generator_params, got neither; is it AudioDec's config.yml?")
    params = config["generator_params"]
    known = _VOCODER_KEYS if "upsample_scales" in params else _AUTOENCODER_KEYS
    for key in params:
        if key not in known:
            raise CheckpointError(f"{path}: generator_params.{key}: unknown key{nearest(str(key), known)}")
    return config


def _expect(path: str, value: Any, *allowed: Any) -> None:
    if value not in allowed:
        raise CheckpointError(f"config.yml: {path}: expected {' or '.join(map(str, allowed))}, got {value!r}")


def _autoencoder_config(config: dict[str, Any]) -> AudioDecConfig:
    g = config["generator_params"]
    _expect("mode", g.get("mode", "causal"), "causal", "noncausal")
    _expect("codec", g.get("codec", "audiodec"), "audiodec", "activate_audiodec")
    _expect("quantier", g.get("quantier", "residual_vq"), "residual_vq")
    _expect("projector", g.get("projector", "conv1d"), "conv1d", "conv1d_bn")
    try:
        return AudioDecConfig(
            sample_rate=int(config["sampling_rate"]), input_channels=g.get("input_channels", 1), output_channels=g.get("output_channels", 1),
            encoder=EncoderConfig(channels=g["encode_channels"], ratios=tuple(g["enc_ratios"]), strides=tuple(g["enc_strides"])),
            projector=g.get("projector", "conv1d"),
            quantizer=RVQConfig(dim=g["code_dim"], num_codebooks=g["codebook_num"], codebook_size=g["codebook_size"]),
            decoder=DecoderConfig(channels=g["decode_channels"], ratios=tuple(g["dec_ratios"]), strides=tuple(g["dec_strides"])),
            bias=g.get("bias", True), activate=g.get("codec") == "activate_audiodec", weight_norm=g.get("use_weight_norm", False),
            causal=g.get("mode", "causal") == "causal",
        )
    except KeyError as error:
        raise CheckpointError(f"config.yml: generator_params.{error.args[0]}: expected this key, found none") from error


def _vocoder_config(config: dict[str, Any]) -> HiFiGANConfig:
    g = config["generator_params"]
    _expect("nonlinear_activation", g.get("nonlinear_activation", "LeakyReLU"), "LeakyReLU")
    scales = tuple(g["upsample_scales"])
    _expect("upsample_kernel_sizes", g.get("upsample_kernel_sizes", [2 * s for s in scales]), [2 * s for s in scales])
    try:
        return HiFiGANConfig(
            sample_rate=int(config["sampling_rate"]), in_channels=g["in_channels"], out_channels=g["out_channels"], channels=g["channels"],
            kernel_size=g["kernel_size"], upsample_scales=scales, resblock_kernel_sizes=tuple(g["resblock_kernel_sizes"]),
            resblock_dilations=tuple(tuple(d) for d in g["resblock_dilations"]), groups=g.get("groups", 1), bias=g.get("bias", True),
            additional_convs=g.get("use_additional_convs", True), negative_slope=g.get("nonlinear_activation_params", {}).get("negative_slope", 0.1),
            weight_norm=g.get("use_weight_norm", True),
        )
    except KeyError as error:
        raise CheckpointError(f"config.yml: generator_params.{error.args[0]}: expected this key, found none") from error
