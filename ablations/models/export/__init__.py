"""Trained models in the formats of other programs: timm and ONNX."""

from ablations.models.export.onnx import onnx_model
from ablations.models.export.timm import timm_files

__all__ = ["onnx_model", "timm_files"]
