"""Names of tasks and of data -> where their classes are. Data, so that nothing is imported before it is needed.

A task is a `wavespike.training.task.Task` with `config_class` (a `TaskConfig` with `type_name`); data a `wavespike.training.data.Data` with
`config_class` (a `DataConfig` with `type_name`).
"""

from __future__ import annotations

import importlib
from typing import Any

from wavespike.errors import ConfigError, nearest

TASK_TYPES: dict[str, str] = {
    "classification": "wavespike.training.classification:ClassificationTask",
    "adversarial": "wavespike.training.adversarial:AdversarialTask",
    "codec": "wavespike.training.codec:CodecTask",
    "diffusion": "wavespike.training.diffusion:DiffusionTask",
    "reconstruction": "wavespike.training.reconstruction:ReconstructionTask",
    "spiking-adversarial": "wavespike.training.distillation:SpikingAdversarialTask",
    "spiking-reconstruction": "wavespike.training.distillation:SpikingReconstructionTask",
}

DATA_TYPES: dict[str, str] = {
    "labelled-speech": "wavespike.training.speech_data:LabelledSpeech",
    "audio": "wavespike.training.audio_data:AudioData",
    "noisy-audio": "wavespike.training.noisy_data:NoisyAudioData",
}


def _find(table: dict[str, str], what: str, name: Any) -> Any:
    if name not in table:
        raise ConfigError(f"recipe.{what}.type: expected one of {', '.join(table)}, got {name!r}{nearest(str(name), table)}")
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def task_class(type_name: Any) -> Any:
    """The class of a task type. Raises ConfigError naming the nearest type."""
    return _find(TASK_TYPES, "task", type_name)


def data_class(type_name: Any) -> Any:
    """The class of a data type. Raises ConfigError naming the nearest type."""
    return _find(DATA_TYPES, "data", type_name)
