"""Bark's tokens to speech with a Vocos: text -> Bark (through transformers) -> EnCodec tokens -> Vocos -> WAV.

    pip install 'wavespike[encodec,hub]'
    python examples/bark_tokens.py "Hello, my name is Suno." hello.wav

Bark writes eight EnCodec codebooks (6 kbit/s) and would decode them with EnCodec; Vocos decodes the same tokens to clearer speech.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from torch import Tensor

import wavespike
from wavespike import Vocos


def bark_tokens(bark: Any, **inputs: Any) -> Tensor:
    """What `bark.generate(**inputs)` is about to give to EnCodec: codes [K, B, L]."""
    bark.codec_decode = lambda codes, lengths=None: codes  # on this object only: take the tokens instead of decoding them
    try:
        codes: Tensor = bark.generate(**inputs)
    finally:
        del bark.codec_decode
    return codes.transpose(0, 1)


def bandwidth_of(vocoder: Vocos, codebooks: int) -> Tensor:
    """The bandwidth_id [1] of a number of codebooks: 2 for Bark's eight."""
    features = vocoder.config.features
    return torch.tensor([[features.codebooks(b) for b in features.bandwidths].index(codebooks)])


def speak(bark: Any, vocoder: Vocos, **inputs: Any) -> Tensor:
    """Waveform [B, T] at `vocoder.sample_rate`."""
    codes = bark_tokens(bark, **inputs)
    return vocoder.decode(vocoder.codes_to_features(codes), bandwidth_id=bandwidth_of(vocoder, codes.shape[0]))


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Text to speech with Bark and a Vocos vocoder")
    parser.add_argument("text")
    parser.add_argument("out", help="WAV file to write")
    parser.add_argument("--bark", default="suno/bark-small", help="hub id or folder of a Bark")
    parser.add_argument("--vocoder", default="charactr/vocos-encodec-24khz", help="hub id or folder of a Vocos with EnCodec features")
    parser.add_argument("--voice", default=None, help="a voice preset of Bark, such as v2/en_speaker_6")
    args = parser.parse_args(words)

    import soundfile
    from transformers import AutoProcessor, BarkModel

    processor, bark = AutoProcessor.from_pretrained(args.bark), BarkModel.from_pretrained(args.bark)
    vocoder = wavespike.load(args.vocoder)
    audio = speak(bark, vocoder, **processor(args.text, voice_preset=args.voice))
    soundfile.write(args.out, audio[0].numpy(), vocoder.sample_rate)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
