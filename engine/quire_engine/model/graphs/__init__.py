"""Steps captured once and replayed: what is captured, and how."""

from .capture import Capture, CaptureRefused, CudaCapture, Replay
from .decode_graphs import DecodeGraphs, padded

__all__ = ["Capture", "CaptureRefused", "CudaCapture", "DecodeGraphs", "Replay", "padded"]
