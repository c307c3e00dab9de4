"""The small built-in functions in real children."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
import skimage.data
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from PIL import Image

from mesatee.enclave.sandbox import Job, OutputSpec

from .conftest import QUICK, run_job

ONE, TWO = b"id,x\n1,a\n3,b\n", b"x,id\nc,2\n"


def test_concat(run_builtin):
    done = run_builtin(
        "concat", {"b": ("bytes", b"2"), "a": ("csv", ONE)}, OutputSpec("bytes"), separator="--"
    )
    assert (done.failure, done.outputs["result"]) == (None, ONE + b"--2"), done.text


def test_concat_rows(run_builtin):
    done = run_builtin("concat_rows", {"b": ("csv", ONE), "a": ("csv", TWO)}, OutputSpec("csv"))
    assert done.failure is None, done.text
    assert done.outputs["result"] == b'"x","id"\n"c",2\n"a",1\n"b",3\n'


def test_word_count(run_builtin):
    done = run_builtin("word_count", {"text": ("bytes", "B á b".encode())}, OutputSpec("csv"))
    assert done.failure is None, done.text
    assert done.outputs["result"] == '"word","count"\n"b",2\n"á",1\n'.encode()


@pytest.mark.parametrize(
    ("name", "inputs", "args"),
    [
        ("concat_rows", {"a": ("csv", ONE), "b": ("csv", b"id\n1\n")}, {}),
        ("word_count", {"text": ("bytes", b"\xff")}, {}),
        ("word_count", {"text": ("bytes", b"a")}, {"least": 0}),
    ],
)
def test_refusals_are_bad_input_and_say_why_in_diagnostics_alone(run_builtin, name, inputs, args):
    done = run_builtin(name, inputs, OutputSpec("csv"), **args)
    assert done.failure == "bad_input"
    assert "Malformed: " in done.text


def test_keys_that_come_as_inputs_work_in_the_sandbox(run_builtin):
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    done = run_builtin(
        "rsa_sign", {"key": ("bytes", pem), "message": ("csv", ONE)}, OutputSpec("bytes"), scheme="pss"
    )
    assert done.failure is None, done.text
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    key.public_key().verify(done.outputs["result"], ONE, scheme, hashes.SHA256())
    secret = bytes(range(32))
    sealed = bytes(12) + AESGCM(secret).encrypt(bytes(12), ONE, None)
    inputs = {"data": ("bytes", sealed), "key": ("bytes", secret)}
    done = run_builtin("online_decrypt", inputs, OutputSpec("csv"))
    assert (done.failure, done.outputs["result"]) == (None, ONE), done.text
    done = run_builtin("online_decrypt", {**inputs, "key": ("bytes", bytes(32))}, OutputSpec("csv"))
    assert (done.failure, done.outputs) == ("bad_input", {})
    assert "does not open" in done.text


def test_ordered_sets(supervisor, run_builtin):
    left, right = b"id,x\n1,a\n3,b\n", b"id,y\n2,p\n3,q\n"
    both = {"left": ("csv", left), "right": ("csv", right)}
    job = Job(
        "builtin",
        "ordered_set_intersect",
        args={"key": "id"},
        inputs={"left": "csv", "right": "csv"},
        outputs={"left": OutputSpec("csv"), "right": OutputSpec("csv")},
        limits=QUICK,
    )
    done = run_job(supervisor, job, {"left": left, "right": right})
    assert done.failure is None, done.text
    assert done.outputs["left"] == b'"common"\nfalse\ntrue\n' == done.outputs["right"]
    assert done.text == "ordered_set_intersect: 1 common keys\n"
    done = run_builtin("ordered_set_join", both, OutputSpec("csv"), key="id")
    assert (done.failure, done.outputs["result"]) == (None, b'"id","x","y"\n3,"b","q"\n'), done.text
    unsorted = {**both, "left": ("csv", b"id,x\n3,b\n1,a\n")}
    done = run_builtin("ordered_set_join", unsorted, OutputSpec("csv"), key="id")
    assert (done.failure, done.outputs) == ("bad_input", {})
    assert "row 1 of left is not in order" in done.text


def test_images(supervisor, run_builtin):
    photograph = (Path(skimage.data.__file__).parent / "astronaut.png").read_bytes()
    image = {"image": ("bytes", photograph)}
    done = run_builtin("image_resize", image, OutputSpec("bytes"), width=64, format="jpeg")
    assert done.failure is None, done.text
    assert Image.open(io.BytesIO(done.outputs["result"])).size == (64, 64)
    job = Job(
        "builtin",
        "face_detect",
        inputs={"image": "bytes"},
        outputs={"result": OutputSpec("csv")},
        limits=dataclasses.replace(QUICK, threads=1),
    )
    done = run_job(supervisor, job, {"image": photograph})
    assert done.failure is None, done.text
    assert done.outputs["result"].count(b"\n") == 2
    done = run_builtin("face_detect", {"image": ("bytes", photograph[:9999])}, OutputSpec("csv"))
    assert (done.failure, done.outputs) == ("bad_input", {})


def test_passwords(run_builtin):
    inputs = {
        "passwords": ("csv", b"user,password\nann,hunter2\nbob,correct horse\n"),
        "leaked": ("bytes", b"F3BBBD66A63D4BF1747940578EC3D0103530E21D:17043\r\n"),
    }
    for leakage in ("oblivious", "access-pattern"):
        done = run_builtin("password_check", inputs, OutputSpec("csv"), id="user", leakage=leakage)
        assert done.failure is None, done.text
        assert done.outputs["result"] == b'"user","leaked","times"\n"ann",true,17043\n"bob",false,0\n'


def test_pca(run_builtin):
    data = b"id,a,b\nx,1,-1\ny,2,-2\nz,4,-4\n"
    done = run_builtin("pca", {"table": ("csv", data)}, OutputSpec("csv"), keep=["id"], components=1)
    assert done.failure is None, done.text
    lines = done.outputs["result"].decode().splitlines()
    assert lines[0] == '"id","pc1"'
    assert [round(float(line.split(",")[1]), 3) for line in lines[1:]] == [-1.886, -0.471, 2.357]
