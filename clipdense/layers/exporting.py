"""Whether the model is traced for an export, where sizes are symbols and no value is known."""

from __future__ import annotations

import torch


def exporting() -> bool:
    """Whether ``torch.export`` traces.  Code must then not branch on values or sizes of its inputs."""
    asked = getattr(torch.compiler, 'is_exporting', None)  # torch 2.7 and newer
    return bool(asked and asked())
