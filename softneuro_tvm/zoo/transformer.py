"""Small transformers: ViT (Dosovitskiy et al., 2020) and BERT (Devlin et al., 2018).

A dense layer of a sequence is a MatMul and an Add; GELU is spelled out with Erf, attention with MatMul and Softmax.
"""

from __future__ import annotations

import math

import numpy as np

from softneuro_tvm.zoo.builder import Builder

_VIT_DIM, _VIT_HEADS, _VIT_DEPTH, _VIT_PATCH = 192, 3, 4, 16
_BERT_DIM, _BERT_HEADS, _BERT_DEPTH = 128, 2, 2
BERT_VOCABULARY = 1000
# Makes up for the variance that averaging the values takes away.
_CONTEXT_GAIN = 3.0


def vit_tiny(net: Builder, x: str) -> str:
    """ViT of width 192 with 3 heads, 16x16 patches and 4 blocks: N,3,224,224 to N,1000."""
    x = net.conv(x, "patch_embed.proj", _VIT_DIM, _VIT_PATCH, stride=_VIT_PATCH)
    n, c, h, w = net.shapes[x]
    x = net.transpose(net.reshape(x, "patch_embed.flatten", (n, c, h * w)), "patch_embed.transpose", (0, 2, 1))
    token = net.random("cls_token", (1, 1, c), 0.2)
    shape = net.constant("cls_token.shape", (n, 1, c), np.int64)
    token = net.node("Expand", [token, shape], "cls_token.expand", [(n, 1, c)])[0]
    x = net.concat((token, x), "concat")
    x = net.add(x, net.random("pos_embed", (1, h * w + 1, c), 0.2), "pos_embed.add")
    for block in range(_VIT_DEPTH):
        name = f"blocks.{block}"
        y = _fused_attention(net, _layer_norm(net, x, f"{name}.norm1", 1e-6), f"{name}.attn")
        x = net.add(x, y, f"{name}.add1")
        y = _mlp(net, _layer_norm(net, x, f"{name}.norm2", 1e-6), f"{name}.mlp")
        x = net.add(x, y, f"{name}.add2")
    x = _layer_norm(net, x, "norm", 1e-6)
    x = _take(net, x, "select", 0, axis=1)
    return net.linear(x, "head", 1000)


def bert_tiny(net: Builder, x: str) -> str:
    """BERT encoder of width 128 with 2 heads and 2 layers: token ids N,T to hidden states N,T,128."""
    n, t = net.shapes[x]
    words = net.random("embeddings.word_embeddings.weight", (BERT_VOCABULARY, _BERT_DIM), 1.0)
    x = net.node("Gather", [words, x], "embeddings.word_embeddings", [(n, t, _BERT_DIM)], axis=0)[0]
    x = net.add(x, net.random("embeddings.position_embeddings.weight", (1, t, _BERT_DIM), 0.5), "embeddings.add")
    x = _layer_norm(net, x, "embeddings.LayerNorm", 1e-12)
    for layer in range(_BERT_DEPTH):
        name = f"encoder.layer.{layer}"
        y = _separate_attention(net, x, f"{name}.attention")
        x = _layer_norm(net, net.add(y, x, f"{name}.attention.add"), f"{name}.attention.LayerNorm", 1e-12)
        y = _mlp(net, x, f"{name}.mlp")
        x = _layer_norm(net, net.add(y, x, f"{name}.output.add"), f"{name}.output.LayerNorm", 1e-12)
    return x


def _fused_attention(net: Builder, x: str, name: str) -> str:
    """Attention whose queries, keys and values come from one dense layer; the queries are scaled."""
    n, t, c = net.shapes[x]
    qkv = net.reshape(_dense(net, x, f"{name}.qkv", 3 * c), f"{name}.reshape", (n, t, 3, _VIT_HEADS, c // _VIT_HEADS))
    qkv = net.transpose(qkv, f"{name}.transpose", (2, 0, 3, 1, 4))
    q, k, v = (_take(net, qkv, f"{name}.{part}", index, axis=0) for index, part in enumerate("qkv"))
    q = net.mul(q, net.constant(f"{name}.scale", (c / _VIT_HEADS) ** -0.5), f"{name}.q_scaled")
    scores = _matmul(net, q, net.transpose(k, f"{name}.k_transposed", (0, 1, 3, 2)), f"{name}.scores")
    return _dense(net, _mix(net, scores, v, name), f"{name}.proj", c, _CONTEXT_GAIN)


def _separate_attention(net: Builder, x: str, name: str) -> str:
    """Attention with a dense layer each for queries, keys and values; the scores are scaled."""
    n, t, c = net.shapes[x]
    heads = []
    for part, perm in (("query", (0, 2, 1, 3)), ("key", (0, 2, 3, 1)), ("value", (0, 2, 1, 3))):
        y = _dense(net, x, f"{name}.{part}", c)
        y = net.reshape(y, f"{name}.{part}.reshape", (n, t, _BERT_HEADS, c // _BERT_HEADS))
        heads.append(net.transpose(y, f"{name}.{part}.transpose", perm))
    q, k, v = heads
    scores = _matmul(net, q, k, f"{name}.scores")
    scores = net.binary("Div", scores, net.constant(f"{name}.scale", (c / _BERT_HEADS) ** 0.5), f"{name}.scaled")
    return _dense(net, _mix(net, scores, v, name), f"{name}.output.dense", c, _CONTEXT_GAIN)


def _mix(net: Builder, scores: str, v: str, name: str) -> str:
    """Averages the values with the softmax of the scores and joins the heads: N,H,T,T and N,H,T,D to N,T,H*D."""
    y = _matmul(net, net.map("Softmax", scores, f"{name}.softmax", axis=-1), v, f"{name}.context")
    y = net.transpose(y, f"{name}.context.transpose", (0, 2, 1, 3))
    n, t, heads, width = net.shapes[y]
    return net.reshape(y, f"{name}.context.reshape", (n, t, heads * width))


def _mlp(net: Builder, x: str, name: str) -> str:
    c = net.shapes[x][-1]
    return _dense(net, _gelu(net, _dense(net, x, f"{name}.fc1", 4 * c), f"{name}.act"), f"{name}.fc2", c)


def _gelu(net: Builder, x: str, name: str) -> str:
    """`x * (1 + erf(x / sqrt(2))) / 2`."""
    y = net.binary("Div", x, net.constant("gelu.sqrt2", math.sqrt(2.0)), f"{name}.div")
    y = net.add(net.map("Erf", y, f"{name}.erf"), net.constant("gelu.one", 1.0), f"{name}.add")
    return net.mul(net.mul(x, y, f"{name}.mul"), net.constant("gelu.half", 0.5), f"{name}.half")


def _layer_norm(net: Builder, x: str, name: str, epsilon: float) -> str:
    shape = net.shapes[x][-1:]
    scale, bias = net.random(f"{name}.weight", shape, 0.1, 1.0), net.random(f"{name}.bias", shape, 0.1)
    return net.map("LayerNormalization", x, name, scale, bias, axis=-1, epsilon=epsilon)


def _dense(net: Builder, x: str, name: str, features: int, gain: float = 1.0) -> str:
    c = net.shapes[x][-1]
    y = _matmul(net, x, net.random(f"{name}.weight", (c, features), gain * c**-0.5), f"{name}.matmul")
    return net.add(net.random(f"{name}.bias", (features,), 0.05), y, name)


def _matmul(net: Builder, a: str, b: str, name: str) -> str:
    return net.node("MatMul", [a, b], name, [(*net.shapes[a][:-1], net.shapes[b][-1])])[0]


def _take(net: Builder, x: str, name: str, index: int, axis: int) -> str:
    """Appends a Gather of one index, which removes the axis."""
    shape = net.shapes[x]
    position = net.constant(f"{name}.index", index, np.int64)
    return net.node("Gather", [x, position], name, [(*shape[:axis], *shape[axis + 1 :])], axis=axis)[0]
