"""Which model types exist: type name -> where its class is. Data, so that listing models imports none of them.

A model class has `config_class` (a `Config` with `type_name`) and is built by `Class(config)`.
"""

from __future__ import annotations

import importlib
from typing import Any

from wavespike.config import from_dict
from wavespike.errors import ConfigError, nearest
from wavespike.models.base import Model

MODEL_TYPES: dict[str, str] = {
    "vocos": "wavespike.models.vocos:Vocos",
    "spiking-vocos": "wavespike.models.spiking_vocos:SpikingVocos",
    "griffin-lim": "wavespike.models.griffin_lim:GriffinLim",
    "specgrad": "wavespike.models.specgrad:SpecGrad",
    "audiodec": "wavespike.models.audiodec:AudioDec",
    "fourier-codec": "wavespike.models.fourier_codec:FourierCodec",
    "source-filter-codec": "wavespike.models.source_filter_codec:SourceFilterCodec",
    "hifigan": "wavespike.models.hifigan:HiFiGAN",
    "sparch": "wavespike.models.sparch:SpArch",
}


def model_class(type_name: str) -> type[Model[Any]]:
    """The class of a model type. Raises ConfigError naming the nearest type."""
    if type_name not in MODEL_TYPES:
        raise ConfigError(f"expected a model type of {', '.join(MODEL_TYPES)}, got {type_name!r}{nearest(str(type_name), MODEL_TYPES)}")
    module, name = MODEL_TYPES[type_name].split(":")
    found: type[Model[Any]] = getattr(importlib.import_module(module), name)
    return found


def build(config: dict[str, Any]) -> Model[Any]:
    """A model with random weights from plain data with a `type` key (what `config.json` and recipes hold)."""
    data = dict(config)
    cls = model_class(data.pop("type", None))
    return cls(from_dict(cls.config_class, data, "model"))
