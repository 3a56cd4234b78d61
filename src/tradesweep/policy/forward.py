"""The forward pass, compiled: scores from features and state, in float64.

A sum goes through its terms in one order, bias first, and rows do not see each other. So the bits of a score depend on
neither the batch size, nor the row's place in it, nor the processor: what is computed side by side are rows and outputs
of a layer, never the terms of a sum. For the same reason tanh is written out here.

Rows go through the layers by fours, so that a weight that was read serves four of them.

Legend: E rows, a multiple of four; F features, S state, D inputs and H outputs of a layer, A actions, Z numbers of a
strip (network.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradesweep.env.compiled import compiled
from tradesweep.env.observing import copy_numbers
from tradesweep.policy.network import ACTIVATION, INPUTS, OUTPUTS, READS, WEIGHTS, WRITES, Floats, Network
from tradesweep.policy.policy_spec import ACTIVATIONS

ROWS = 4
"""Rows that go through the layers together."""
RELU, TANH = ACTIVATIONS.index("relu"), ACTIVATIONS.index("tanh")

TANH_IS_ONE = 20.0
"""From here on tanh is 1 in float64."""
HALF_LN2_HIGH, HALF_LN2_LOW = 6.93147180369123816490e-01 / 2, 1.90821492927058770002e-10 / 2
"""ln(2) / 2 in two parts (fdlibm); a multiple of the first by a small integer is exact."""
PER_HALF_LN2 = 2.885390081777926814720
"""2 / ln(2)."""
ROUNDS = 1.5 * 2.0**52
"""What is added to this is rounded to an integer, which then stands in the last bits of the sum."""
EXPONENT, ONE_BITS, SIGN_BIT = 52, 1023 << 52, -(1 << 63)


def fill_up(rows: NDArray[Any]) -> Floats:
    """The rows in float64, and rows of zeros up to a multiple of four."""
    filled = np.zeros((-(-len(rows) // ROWS) * ROWS, rows.shape[1]))
    filled[: len(rows)] = rows
    return filled


@compiled
def score_rows(network: Network, begun_EH: Floats, states_ES: Floats) -> Floats:
    """(E, A) scores from what was begun and the rest of the observations."""
    scores_EA = np.empty((len(begun_EH), network.actions))
    strips_4Z = make_strips(network)
    for first in range(0, len(begun_EH), ROWS):
        for row in range(ROWS):
            fill_strip(network, strips_4Z[row], begun_EH[first + row], states_ES[first + row])
        run_layers(network, strips_4Z)
        for row in range(ROWS):
            read_scores(network, strips_4Z[row], scores_EA[first + row])
    return scores_EA


@compiled
def make_strips(network: Network) -> Floats:
    """(4, Z) room for four rows."""
    return np.zeros((ROWS, len(network.blank_Z)))


@compiled
def fill_strip(network: Network, strip_Z: Floats, begun_H: Floats, state_S: NDArray[Any]) -> None:
    """One row before its layers run."""
    copy_numbers(network.blank_Z, strip_Z)
    copy_numbers(state_S, strip_Z)
    copy_numbers(begun_H, strip_Z[len(state_S) :])


@compiled
def run_layers(network: Network, strips_4Z: Floats) -> None:
    """All layers of four rows: activation(sums + inputs weights), with the sums so far where the outputs will be."""
    for layer in range(len(network.layers_L6)):
        layer_6 = network.layers_L6[layer]
        inputs, writes, outputs = layer_6[INPUTS], layer_6[WRITES], layer_6[OUTPUTS]
        weights_P = network.weights_P[layer_6[WEIGHTS] : layer_6[WEIGHTS] + inputs * outputs]
        weights_DH = weights_P.reshape(inputs, outputs)
        add_products(strips_4Z, writes, outputs, strips_4Z, layer_6[READS], weights_DH)
        for row in range(ROWS):
            activate(strips_4Z[row, writes : writes + outputs], layer_6[ACTIVATION])


@compiled
def add_products(sums_4X: Floats, writes: int, outputs: int, inputs_4Y: Floats, reads: int, weights_DH: Floats) -> None:
    """Add its terms to each sum of four rows (a, b, c, d), one after the other, two at a time to save on stores."""
    last = writes + outputs
    a_H, b_H = sums_4X[0, writes:last], sums_4X[1, writes:last]
    c_H, d_H = sums_4X[2, writes:last], sums_4X[3, writes:last]
    pairs = len(weights_DH) // 2 * 2
    for i in range(0, pairs, 2):
        i_H, j_H = weights_DH[i], weights_DH[i + 1]
        x, y = reads + i, reads + i + 1
        a_i, b_i, c_i, d_i = inputs_4Y[0, x], inputs_4Y[1, x], inputs_4Y[2, x], inputs_4Y[3, x]
        a_j, b_j, c_j, d_j = inputs_4Y[0, y], inputs_4Y[1, y], inputs_4Y[2, y], inputs_4Y[3, y]
        for h in range(outputs):
            w_i, w_j = i_H[h], j_H[h]
            a_H[h] = (a_H[h] + a_i * w_i) + a_j * w_j
            b_H[h] = (b_H[h] + b_i * w_i) + b_j * w_j
            c_H[h] = (c_H[h] + c_i * w_i) + c_j * w_j
            d_H[h] = (d_H[h] + d_i * w_i) + d_j * w_j
    for i in range(pairs, len(weights_DH)):
        add_product(sums_4X, writes, inputs_4Y, reads + i, weights_DH[i])


@compiled
def add_product(sums_4X: Floats, writes: int, inputs_4Y: Floats, reads: int, weights_H: Floats) -> None:
    """The term of one input alone."""
    for row in range(ROWS):
        for h in range(len(weights_H)):
            sums_4X[row, writes + h] += inputs_4Y[row, reads] * weights_H[h]


@compiled
def activate(values_H: Floats, activation: int) -> None:
    """In place; NaN stays NaN."""
    if activation == RELU:
        for index in range(len(values_H)):
            values_H[index] = 0.0 if values_H[index] < 0.0 else values_H[index]
    elif activation == TANH:
        for index in range(len(values_H)):
            values_H[index] = tanh(values_H[index])


@compiled
def tanh(x: float) -> float:
    """tanh(n ln(2) / 2 + y) = ((s - 1) q + (s + 1) p) / ((s + 1) q + (s - 1) p), with s = 2^n and tanh(y) = p / q.

    n is whole and |y| <= ln(2) / 4, where Lambert's continued fraction for tanh (1761), cut off after y^2 / 11, is
    exact in float64. Within 5 units in the last place. NaN, infinities and zeros give what they should.
    """
    size = abs(x)
    size = TANH_IS_ONE if size > TANH_IS_ONE else size
    shifted = size * PER_HALF_LN2 + ROUNDS
    n = shifted - ROUNDS
    y = (size - n * HALF_LN2_HIGH) - n * HALF_LN2_LOW
    s = as_float((as_bits(shifted) << EXPONENT) + ONE_BITS)
    z = y * y
    p = y * ((21.0 * z + 1260.0) * z + 10395.0)
    q = ((z + 210.0) * z + 4725.0) * z + 10395.0
    found = ((s - 1.0) * q + (s + 1.0) * p) / ((s + 1.0) * q + (s - 1.0) * p)
    signed: float = as_float(as_bits(found) | (as_bits(x) & SIGN_BIT))
    return signed


@compiled
def as_bits(value: float) -> Any:
    """The 64 bits of a number."""
    return np.float64(value).view(np.int64)


@compiled
def as_float(bits: Any) -> Any:
    """The number of 64 bits."""
    return np.int64(bits).view(np.float64)


@compiled
def read_scores(network: Network, strip_Z: Floats, scores_A: Floats) -> None:
    """Logits or advantages as they are; with a value, value + advantage - mean advantage."""
    copy_numbers(strip_Z[network.scores : network.scores + network.actions], scores_A)
    if network.value >= 0:
        mean = 0.0
        for action in range(network.actions):
            mean += scores_A[action] / network.actions
        for action in range(network.actions):
            scores_A[action] = strip_Z[network.value] + (scores_A[action] - mean)
