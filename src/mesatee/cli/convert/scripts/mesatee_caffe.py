"""Runs a Caffe net by OpenCV, which still reads them, for comparison: the conversion itself is MesaTEE's own."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from mesatee_converting import answer, samples

VERSIONS = {"opencv": cv2.__version__}


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """What OpenCV makes of the sample."""
    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromCaffe(job["model"], job["weights"])
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    # Fused layers round in another way.
    net.enableFusion(False)
    net.enableWinograd(False)
    sample = samples([(name, "float32", shape) for name, shape in job["inputs"].items()], job)
    for name, value in sample.items():
        net.setInput(np.ascontiguousarray(value), name)
    names = job["outputs"]
    # OpenCV names outputs by layers; a layer's last one gives its blob.
    values = net.forward(net.getUnconnectedOutLayersNames())
    expected = dict(zip(names, values, strict=True))
    return answer(b"", sample, expected, VERSIONS)
