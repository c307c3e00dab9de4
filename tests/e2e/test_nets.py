"""Real models on real kinds of data, through the whole platform: the same as the same model outside, bit by bit.

One party owns the model, another the data, and a third gets the result; none of them sees what another one has.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.conftest import until
from tests.support.nets import RAPIDOCR, SILERO, from_wheel, outside

from mesatee import tensors
from mesatee.cli import up
from mesatee.cli.demo import stage
from mesatee.errors import MesateeError
from mesatee.party import data, functions, results, tasks
from mesatee.protocol import onnx, wire
from mesatee.protocol.model_card import ModelCard, Tensor

SECONDS = 120
MAGIKA = Path(str(metadata.distribution("magika").locate_file("magika/models/standard_v3_3/model.onnx")))
WARM_SECONDS = 600


def card(model: bytes, warm: int) -> ModelCard:
    facts = onnx.read(model)

    def said(ports: tuple[onnx.Port, ...]) -> tuple[Tensor, ...]:
        return tuple(
            Tensor.model_validate(
                {
                    "name": port.name,
                    "dtype": port.dtype,
                    # A card's dimension is a number or a name.
                    "shape": tuple("any" if size is None else size for size in port.shape or ()),
                }
            )
            for port in ports
        )

    return ModelCard(
        kind="onnx",
        digest=hashlib.sha256(model).hexdigest(),
        inputs=said(facts.inputs),
        outputs=said(facts.outputs),
        licence="as its wheel says",
        metrics={},
        warm=warm,
    )


class Stand:
    """A model, some data, and a task on both."""

    def __init__(self, people: stage.Stage, folder: Path) -> None:
        self.people, self.folder = people, folder
        self.models, self.rows, self.reader = (
            people.of(name) for name in ("hospital-a", "hospital-b", "scientist")
        )

    def put(self, owner: Any, content: bytes, **options: Any) -> tuple[str, str]:
        """The digest of the dataset, and of its sealed file."""
        path = self.folder / f"x{secrets.token_hex(4)}.bin"
        sealed = data.seal(owner.identity, content, path, format="bytes")
        return data.put(owner, sealed, path.stem, **options).digest, sealed.digest

    def task(
        self, model: str, given: dict[str, np.ndarray], runs: int = 1, **arguments: Any
    ) -> wire.TaskView:
        """Proposed by the reader, approved by both owners."""
        rows, _ = self.put(self.rows, tensors.write(given))
        names = {item.name for item in self.reader.functions()}
        function = (
            functions.find(self.reader, "onnx_run").digest
            if "onnx_run" in names
            else functions.put_builtin(self.reader, "onnx_run").digest
        )
        posted = tasks.new(
            self.reader,
            f"t{secrets.token_hex(4)}",
            function=function,
            inputs={"model": model, "tensors": rows},
            outputs={"result": ("scientist",), "diagnostics": ("scientist",)},
            accept=self.people.accept,
            environment=self.people.environment,
            arguments=arguments,
            runs=runs,
        )
        for owner in (self.models, self.rows):
            tasks.approve(owner, tasks.review(owner, owner.task(posted.digest)))
        return self.reader.task(posted.digest)

    def run(self, view: wire.TaskView) -> dict[str, np.ndarray]:
        """One run, and what the reader gets of it."""
        tasks.run(self.reader, view)
        ended = tasks.watch(self.reader, view.digest, seconds=SECONDS)
        target = self.folder / f"r{secrets.token_hex(4)}"
        result = results.take(self.reader, self.reader.task(view.digest), target, ended.digest)
        assert ended.failure is None, result.outputs["diagnostics"].read_text()
        return tensors.read(result.outputs["result"].read_bytes())


@pytest.fixture
def stand(people: stage.Stage, tmp_path: Path) -> Stand:
    return Stand(people, tmp_path)


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert np.array_equal(found[name], array), name


def threads_of(pid: int) -> Iterator[int]:
    """Of each process below this one, how many threads it has."""
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        for number in child.read_text().split():
            try:
                yield len(list(Path(f"/proc/{number}/task").iterdir()))
                yield from threads_of(int(number))
            except FileNotFoundError:
                continue


def test_magika_warm_and_withdrawn(stand: Stand, service: up.Service) -> None:
    """A run whose model waits needs the model's file no more, but its owner's leave as before."""
    model = MAGIKA.read_bytes()
    digest, file = stand.put(stand.models, model, card=card(model, WARM_SECONDS))
    random = np.random.default_rng(1)
    given = {"bytes": random.integers(0, 256, (4, 2048)).astype(np.int32)}
    view = stand.task(digest, given, runs=3, threads=2)
    wanted = outside(model, given, threads=2)
    same(stand.run(view), wanted)
    process = service.process("worker").child
    assert process is not None
    until(lambda: max(threads_of(process.pid), default=0) > 1)
    # Its threads are there before it has been run on zeros.
    time.sleep(1)
    (blob,) = service.home.rglob(file)
    hidden = blob.rename(stand.folder / "hidden")
    same(stand.run(view), wanted)
    hidden.rename(blob)
    tasks.withdraw(stand.models, stand.models.task(view.digest))
    with pytest.raises(MesateeError, match="no valid approval by hospital-a"):
        tasks.run(stand.reader, view)


@pytest.mark.slow
def test_silero_vad_hears_step_by_step(stand: Stand) -> None:
    """The state goes from piece to piece; speech is a made vowel, with pauses."""
    model = from_wheel(SILERO, "*/silero_vad.onnx")
    rate, size, context = 16_000, 512, 64
    time_line = np.arange(3 * rate) / rate
    voice = sum(np.sin(2 * np.pi * 120 * n * time_line) / n for n in range(1, 30)) * (
        np.sin(4 * time_line) > 0
    )
    sound = (0.1 * voice + 0.001 * np.random.default_rng(2).standard_normal(len(time_line))).astype(
        np.float32
    )
    pieces = sound[: len(sound) // size * size].reshape(-1, 1, size)
    before = np.concatenate((np.zeros((1, 1, context), np.float32), pieces[:-1, :, -context:]))
    moving = np.concatenate((before, pieces), axis=2)
    start = np.zeros((2, 1, 128), np.float32)
    sr = np.array(rate, np.int64)
    digest, _ = stand.put(stand.models, model, card=card(model, 0))
    found = stand.run(
        stand.task(digest, {"input": moving, "sr": sr, "state": start}, state={"stateN": "state"})
    )
    said, state = [], start
    for piece in moving:
        step = outside(model, {"input": piece, "sr": sr, "state": state})
        state = step["stateN"]
        said.append(step["output"])
    same(found, {"output": np.stack(said), "stateN": state})
    assert np.ptp(found["output"]) > 0.01, "it says something"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "shape"),
    [("*_det_small.onnx", (1, 3, 160, 320)), ("*_rec_small.onnx", (2, 3, 48, 320))],
)
def test_rapidocr_finds_and_reads(stand: Stand, pattern: str, shape: tuple[int, ...]) -> None:
    """Black bars on white, as its own preparation scales them: detection and recognition."""
    model = from_wheel(RAPIDOCR, pattern)
    image = np.ones(shape, np.float32)
    for at in range(8, shape[3] - 8, 24):
        image[:, :, shape[2] // 4 : -shape[2] // 4, at : at + 6] = -1
    digest, _ = stand.put(stand.models, model, card=card(model, 0))
    found = stand.run(stand.task(digest, {"x": image}))
    same(found, outside(model, {"x": image}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [lambda model: model[:-100], lambda model: model.replace(b"Conv", b"CONV")]
)
def test_a_damaged_model_is_bad_input_and_nothing_else_is_said(
    stand: Stand, damage: Callable[[bytes], bytes]
) -> None:
    model = MAGIKA.read_bytes()
    digest, _ = stand.put(stand.models, damage(model), card=card(model, 0))
    view = stand.task(digest, {"bytes": np.zeros((1, 2048), np.int32)})
    tasks.run(stand.reader, view)
    assert tasks.watch(stand.reader, view.digest, seconds=SECONDS).failure == "bad_input"
