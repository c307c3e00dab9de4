"""Makes models of TensorFlow and Keras in a folder. Run with the converter's packages: ``PACKAGES FOLDER``."""

import os
import sys

sys.path.insert(0, sys.argv[1])
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

os.chdir(sys.argv[2])
keras.utils.set_random_seed(7)
layers = keras.layers
cnn = keras.Sequential(
    [
        layers.Input((12, 12, 3)),
        layers.Conv2D(6, 3, activation="relu", padding="same"),
        layers.BatchNormalization(),
        layers.MaxPooling2D(),
        layers.Conv2D(8, 3, strides=2),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.GlobalAveragePooling2D(),
        layers.Dropout(0.3),
        layers.Dense(5, activation="softmax"),
    ]
)
lstm = keras.Sequential(
    [layers.Input((9, 4)), layers.LSTM(7, return_sequences=True), layers.LSTM(5), layers.Dense(2)]
)
a, b = layers.Input((4,), name="left"), layers.Input((3,), name="right")
two = keras.Model([a, b], [layers.Dense(2)(layers.Concatenate()([a, b])), layers.Dense(1)(a)])
for name, model in {"cnn": cnn, "lstm": lstm}.items():
    model.export(name)
    model.save(f"{name}.keras")
cnn.save("cnn.h5")
two.save("two.keras")
keras.Sequential([layers.Input((4,)), layers.Lambda(lambda x: x * 2)]).save("code.keras")

function = tf.function(lambda image: cnn(image)).get_concrete_function(
    tf.TensorSpec((None, 12, 12, 3), tf.float32, name="image")
)
frozen = convert_variables_to_constants_v2(function).graph.as_graph_def()
tf.io.write_graph(frozen, ".", "frozen.pb", as_text=False)


class Any(tf.Module):
    """An input without a rank."""

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32)])
    def __call__(self, x):
        """Twice."""
        return 2 * x


class Calls(tf.Module):
    """A program that calls Python."""

    @tf.function(input_signature=[tf.TensorSpec((2,), tf.float32)])
    def __call__(self, x):
        """By way of numpy."""
        return tf.numpy_function(np.sin, [x], tf.float32)


for name, module in {"any": Any(), "calls": Calls()}.items():
    tf.saved_model.save(module, name)
