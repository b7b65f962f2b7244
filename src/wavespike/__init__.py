"""wavespike: speech to what a network sees and back, with dense or spiking networks, offline or live.

    import wavespike
    vocoder = wavespike.load("vocos-24k")
    audio = vocoder(audio)                      # copy-synthesis, [B, T] at vocoder.sample_rate
    audio = vocoder.decode(vocoder.features(audio))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "load": "wavespike.hub.load",
    "save": "wavespike.hub.load",
    "presets": "wavespike.hub.load",
    "Vocos": "wavespike.models.vocos",
    "AudioDec": "wavespike.models.audiodec",
    "SpikingVocos": "wavespike.models.spiking_vocos",
    "SpArch": "wavespike.models.sparch",
    "record_spikes": "wavespike.nn.recording",
    "energy": "wavespike.metrics.energy",
    "MelConfig": "wavespike.signal.mel",
    "WavespikeError": "wavespike.errors",
}
__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:
    from wavespike.errors import WavespikeError as WavespikeError
    from wavespike.hub.load import load as load
    from wavespike.hub.load import presets as presets
    from wavespike.hub.load import save as save
    from wavespike.metrics.energy import energy as energy
    from wavespike.models.audiodec import AudioDec as AudioDec
    from wavespike.models.sparch import SpArch as SpArch
    from wavespike.models.spiking_vocos import SpikingVocos as SpikingVocos
    from wavespike.models.vocos import Vocos as Vocos
    from wavespike.nn.recording import record_spikes as record_spikes
    from wavespike.signal.mel import MelConfig as MelConfig


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'wavespike' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
