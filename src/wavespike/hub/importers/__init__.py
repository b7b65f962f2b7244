"""Importers of the originals' checkpoints, one module a system.

Each has `recognises(path) -> bool` and `load(path) -> Model`; a path is a folder or a file. IMPORTERS lists them; `wavespike.load` asks them in this order.
"""

from __future__ import annotations

IMPORTERS: tuple[str, ...] = (
    "wavespike.hub.importers.spiking_vocos",
    "wavespike.hub.importers.vocos",
    "wavespike.hub.importers.sparch",
    "wavespike.hub.importers.audiodec",
)
