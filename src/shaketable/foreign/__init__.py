"""Networks from elsewhere: studies of what transformers, timm, torchvision and Lightning return."""

from shaketable.foreign.experts import unstacked
from shaketable.foreign.huggingface import from_huggingface
from shaketable.foreign.lightning import from_lightning
from shaketable.foreign.vision import from_timm, from_torchvision

__all__ = ["from_huggingface", "from_lightning", "from_timm", "from_torchvision", "unstacked"]
