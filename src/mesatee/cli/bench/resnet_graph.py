"""ResNet-50 in ONNX format, with seeded random weights.

Layers and sizes are those of He and others, "Deep residual learning for image recognition" (2015), table 1, with the
stride in the 3 x 3 convolution of a block, as today's libraries have it; 25.6 million parameters, 102 MB.
"""

from __future__ import annotations

from typing import Any, Final

from ...protocol.onnx_writer import FLOAT32, Attribute, graph, model, node, tensor, value

SEED: Final = 2015
BLOCKS: Final = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
"""Blocks of a stage, channels within them, and the stride of the first."""
EXPANSION: Final = 4
CLASSES: Final = 1_000
IMAGE: Final = (3, 224, 224)
QUIET_SCALE: Final = 0.2
"""Of the last normalisation in a block, so that sums over many blocks stay small."""


class _Builder:
    def __init__(self) -> None:
        import numpy as np

        self._random = np.random.default_rng(SEED)
        self.nodes: list[bytes] = []
        self.tensors: list[bytes] = []

    def weight(self, name: str, array: Any) -> str:
        import numpy as np

        data = np.ascontiguousarray(array, np.float32)
        self.tensors.append(tensor(name, FLOAT32, data.shape, data.tobytes()))
        return name

    def add(self, operator: str, inputs: list[str], name: str, **attributes: Attribute) -> str:
        self.nodes.append(node(operator, inputs, [name], attributes))
        return name

    def convolve(
        self, source: str, name: str, sizes: tuple[int, int, int], stride: int = 1, scale: float = 1.0
    ) -> str:
        """Convolution and normalisation; `sizes` are channels in, channels out, and the side of the kernel."""
        import numpy as np

        inside, outside, side = sizes
        spread = (2 / (inside * side * side)) ** 0.5
        kernel = self._random.standard_normal((outside, inside, side, side), np.float32) * spread
        self.add(
            "Conv",
            [source, self.weight(f"{name}.kernel", kernel)],
            f"{name}.conv",
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=[side // 2] * 4,
        )
        near = self._random.uniform(0.9, 1.1, (4, outside))
        parts = (near[0] * scale, near[1] - 1, near[2] - 1, near[3])
        names = [
            self.weight(f"{name}.{part}", array)
            for part, array in zip(("scale", "shift", "mean", "variance"), parts, strict=True)
        ]
        return self.add("BatchNormalization", [f"{name}.conv", *names], name)

    def block(self, source: str, name: str, channels: tuple[int, int], stride: int) -> str:
        """A bottleneck with its shortcut; `channels` are those that come in, and those within."""
        before, within = channels
        after = within * EXPANSION
        path = self.add("Relu", [self.convolve(source, f"{name}.a", (before, within, 1))], f"{name}.a.relu")
        path = self.add(
            "Relu", [self.convolve(path, f"{name}.b", (within, within, 3), stride)], f"{name}.b.relu"
        )
        path = self.convolve(path, f"{name}.c", (within, after, 1), scale=QUIET_SCALE)
        if stride != 1 or before != after:
            source = self.convolve(source, f"{name}.shortcut", (before, after, 1), stride)
        return self.add("Relu", [self.add("Add", [path, source], f"{name}.sum")], name)


def resnet50() -> bytes:
    """The file; each call gives the same bytes."""
    import numpy as np

    made = _Builder()
    path = made.add("Relu", [made.convolve("data", "first", (IMAGE[0], 64, 7), 2)], "first.relu")
    path = made.add("MaxPool", [path], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, (blocks, within, stride) in enumerate(BLOCKS):
        for number in range(blocks):
            path = made.block(path, f"s{stage}b{number}", (channels, within), stride if number == 0 else 1)
            channels = within * EXPANSION
    path = made.add("Flatten", [made.add("GlobalAveragePool", [path], "mean")], "features")
    random = np.random.default_rng(SEED + 1)
    matrix = random.standard_normal((channels, CLASSES), np.float32) / channels**0.5
    made.add("Gemm", [path, made.weight("matrix", matrix), made.weight("bias", np.zeros(CLASSES))], "scores")
    return model(
        graph(
            made.nodes,
            [value("data", FLOAT32, ("images", *IMAGE))],
            [value("scores", FLOAT32, ("images", CLASSES))],
            made.tensors,
        ),
        {"": 17},
    )


__all__ = ["CLASSES", "IMAGE", "resnet50"]
