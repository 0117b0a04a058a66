"""Which axes are the matrix: what trees of flax, equinox and haiku tell, by names and shapes."""

import re

import equinox as eqx
import jax
import pytest

from jadam._layouts import layouts
from jadam._tree import flatten


def told(params):
    """By path, what each axis is; `-` in front of what is not orthogonalised by default, and alone where there is no matrix."""
    leaves = flatten(params)
    found = {}
    for name, value, one in zip(leaves.names, leaves.values, layouts(leaves), strict=True):
        words = re.sub(r"[(),]|\b\d+ |(?<=x)\d+", "", one.axes.shown(value.shape)) if one.axes else ""
        found[name] = words if one.hidden else f"- {words}".strip()
    return found


def shapes(tree):
    return jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, "float32"), tree, is_leaf=lambda x: isinstance(x, tuple))


def under(prefix, table):
    return {f"{prefix}/{name}": words for name, words in table.items()}


BLOCK = {
    "attn": {
        **{name: {"kernel": (64, 4, 16), "bias": (4, 16)} for name in ("query", "key", "value")},
        "out": {"kernel": (4, 16, 64), "bias": (64,)},
    },
    "mlp": {"up": {"kernel": (64, 256), "bias": (256,)}, "down": {"kernel": (256, 64), "bias": (64,)}},
    "norm": {"scale": (64,), "bias": (64,)},
}
BLOCK_TOLD = {
    **{f"attn/{name}/kernel": "in out out" for name in ("query", "key", "value")},
    **{f"attn/{name}/bias": "-" for name in ("query", "key", "value", "out")},
    "attn/out/kernel": "in in out",
    **dict.fromkeys(("mlp/up/kernel", "mlp/down/kernel"), "in out"),
    **dict.fromkeys(("mlp/up/bias", "mlp/down/bias", "norm/scale", "norm/bias"), "-"),
}
ATTENTION_BIASES = tuple(f"attn/{name}/bias" for name in ("query", "key", "value"))
"""Of two axes, which are no matrix by default, and by their axes one."""
GPT2 = {
    "wte": (1000, 64),
    "wpe": (128, 64),
    "h0": {"ln1": {"g": (64,), "b": (64,)}, "qkv": {"w": (64, 192), "b": (192,)}, "fc": {"w": (64, 256), "b": (256,)}},
    "lnf": {"g": (64,), "b": (64,)},
}


def stacked(tree, length):
    return jax.tree.map(lambda shape: (length, *shape), tree, is_leaf=lambda x: isinstance(x, tuple))


def bare(tree):
    """Without biases, as most language models are."""
    if isinstance(tree, tuple):
        return tree
    return {key: bare(value) for key, value in tree.items() if key != "bias"}


TABLE = {
    "flax, a block": ({"layers_0": BLOCK}, under("layers_0", BLOCK_TOLD)),
    "flax, a scan": (
        {"embed": {"embedding": (1000, 64)}, "layers": stacked(BLOCK, 12), "lm_head": {"kernel": (64, 1000), "bias": (1000,)}},
        {
            **{name: words if words == "-" else f"stacked {words}" for name, words in under("layers", BLOCK_TOLD).items()},
            "embed/embedding": "- in out",
            "lm_head/kernel": "- in out",
            "lm_head/bias": "-",
        },
    ),
    "flax, a scan as long as the model is wide": (
        {"layers": stacked(BLOCK, 64), "head": (64, 10)},
        {
            **{name: words if words == "-" else f"stacked {words}" for name, words in under("layers", BLOCK_TOLD).items()},
            "head": "- in out",
        },
    ),
    "flax, a scan without biases": (
        {"embed": {"embedding": (1000, 64)}, "layers": stacked(bare(BLOCK), 12)},
        {
            **{
                name: words if words == "-" else f"stacked {words}"
                for name, words in under("layers", BLOCK_TOLD).items()
                if not name.endswith("bias")
            },
            "embed/embedding": "- in out",
        },
    ),
    "a scan of kernels alone": (
        {"blocks": {"up": (6, 64, 256), "down": (6, 256, 64)}, "head": (64, 10)},
        {"blocks/up": "stacked in out", "blocks/down": "stacked in out", "head": "- in out"},
    ),
    "a scan in a scan": (
        {"layers": stacked(stacked(BLOCK, 3), 2)},
        {name: words if words == "-" else f"stacked stacked {words}" for name, words in under("layers", BLOCK_TOLD).items()},
    ),
    "an ensemble": (
        {"dense": {"kernel": (5, 8, 16), "bias": (5, 16)}, "out": {"kernel": (5, 16, 2), "bias": (5, 2)}},
        {"dense/kernel": "stacked in out", "dense/bias": "-", "out/kernel": "stacked in out", "out/bias": "-"},
    ),
    "a dense layer under scan": (
        {"layers": {"kernel": (12, 64, 256), "bias": (12, 256)}},
        {"layers/kernel": "stacked in out", "layers/bias": "-"},
    ),
    "flax, convolutions": (
        {
            "Conv_0": {"kernel": (3, 3, 3, 64), "bias": (64,)},
            "ConvTranspose_0": {"kernel": (3, 3, 64, 32)},
            "BatchNorm_0": {"scale": (32,), "bias": (32,)},
            "Conv_1d": {"kernel": (5, 32, 16)},
            "Dense_0": {"kernel": (16, 10), "bias": (10,)},
        },
        {
            **dict.fromkeys(("Conv_0/kernel", "ConvTranspose_0/kernel"), "in in in out"),
            "Conv_1d/kernel": "in in out",
            "Dense_0/kernel": "in out",
            **dict.fromkeys(("Conv_0/bias", "BatchNorm_0/scale", "BatchNorm_0/bias", "Dense_0/bias"), "-"),
        },
    ),
    "convolutions under scan": (
        {"blocks": {"conv": {"kernel": (4, 3, 3, 16, 32), "bias": (4, 32)}, "norm": {"scale": (4, 32)}}},
        {"blocks/conv/kernel": "stacked in in in out", "blocks/conv/bias": "-", "blocks/norm/scale": "-"},
    ),
    "equinox or torch": (
        {
            "embedding": {"weight": (1000, 64)},
            "layers": [{"weight": (256, 64), "bias": (256,)}, {"weight": (64, 64), "bias": (64,)}],
            "conv": {"weight": (32, 16, 3, 3), "bias": (32, 1, 1)},
            "conv1": {"weight": (32, 16, 3), "bias": (32, 1)},
            "norm": {"weight": (64,), "bias": (64,)},
            "cell": {"weight_ih": (96, 64), "weight_hh": (96, 32), "bias": (96,), "bias_n": (32,)},
            "lm_head": {"weight": (1000, 64)},
        },
        {
            "embedding/weight": "- out in",
            **dict.fromkeys(("layers/0/weight", "layers/1/weight", "cell/weight_ih", "cell/weight_hh"), "out in"),
            "conv/weight": "out in in in",
            "conv1/weight": "out in in",
            "lm_head/weight": "- out in",
            **dict.fromkeys(("layers/0/bias", "layers/1/bias", "conv/bias", "conv1/bias", "cell/bias", "cell/bias_n"), "-"),
            **dict.fromkeys(("norm/weight", "norm/bias"), "-"),
        },
    ),
    "equinox, a scan": (
        {"blocks": {"up": {"weight": (6, 256, 64), "bias": (6, 256)}, "norm": {"weight": (6, 64)}}},
        {"blocks/up/weight": "stacked out in", "blocks/up/bias": "-", "blocks/norm/weight": "-"},
    ),
    "haiku": (
        {
            "embed": {"embeddings": (1000, 64)},
            "transformer/layer_0/linear": {"w": (64, 256), "b": (256,)},
            "transformer/conv2_d": {"w": (3, 3, 16, 32), "b": (32,)},
            "transformer/layer_norm": {"scale": (64,), "offset": (64,)},
            "logits": {"w": (256, 1000), "b": (1000,)},
        },
        {
            "embed/embeddings": "- in out",
            "transformer/layer_0/linear/w": "in out",
            "transformer/conv2_d/w": "in in in out",
            "logits/w": "- in out",
            **dict.fromkeys(("transformer/layer_0/linear/b", "transformer/conv2_d/b", "logits/b"), "-"),
            **dict.fromkeys(("transformer/layer_norm/scale", "transformer/layer_norm/offset"), "-"),
        },
    ),
    "GPT-2": (
        GPT2,
        {
            "wte": "- in out",
            "wpe": "- in out",
            "h0/qkv/w": "in 3x out",
            "h0/fc/w": "in out",
            **dict.fromkeys(("h0/ln1/g", "h0/ln1/b", "h0/qkv/b", "h0/fc/b", "lnf/g", "lnf/b"), "-"),
        },
    ),
    "gemma": (
        {
            "layer_0": {
                "attn": {
                    "q_einsum": {"w": (8, 64, 16)},
                    "kv_einsum": {"w": (2, 1, 64, 16)},
                    "attn_vec_einsum": {"w": (8, 16, 64)},
                },
                "mlp": {"gating_einsum": (2, 64, 256), "linear": (256, 64)},
                "pre_attention_norm": {"scale": (64,)},
            }
        },
        {
            "layer_0/attn/q_einsum/w": "stacked in out",
            "layer_0/attn/kv_einsum/w": "stacked stacked in out",
            "layer_0/attn/attn_vec_einsum/w": "in in out",
            "layer_0/mlp/gating_einsum": "stacked in out",
            "layer_0/mlp/linear": "in out",
            "layer_0/pre_attention_norm/scale": "-",
        },
    ),
    "experts": (
        {
            "layers_0": {
                "moe": {"router": {"kernel": (64, 8)}, "experts": {"w_in": (8, 64, 256), "w_out": (8, 256, 64)}},
                "head_norm": {"scale": (64,)},
            }
        },
        {
            "layers_0/moe/router/kernel": "in out",
            "layers_0/moe/experts/w_in": "stacked in out",
            "layers_0/moe/experts/w_out": "stacked in out",
            "layers_0/head_norm/scale": "-",
        },
    ),
    "BERT, whose layers have an output": (
        {
            "encoder": {"layer": {"0": {"output": {"dense": {"kernel": (256, 64), "bias": (64,)}}}}},
            "embeddings": {"position_embeddings": {"embedding": (512, 64)}},
            "classifier": {"kernel": (64, 2), "bias": (2,)},
        },
        {
            "encoder/layer/0/output/dense/kernel": "in out",
            "encoder/layer/0/output/dense/bias": "-",
            "embeddings/position_embeddings/embedding": "- in out",
            "classifier/kernel": "- in out",
            "classifier/bias": "-",
        },
    ),
    "a ViT": (
        {
            "cls": (1, 1, 64),
            "pos_embedding": (1, 50, 64),
            "embedding": {"kernel": (16, 16, 3, 64), "bias": (64,)},
            "head": {"kernel": (64, 10), "bias": (10,)},
        },
        {
            "cls": "- stacked in out",
            "pos_embedding": "- stacked in out",
            "embedding/kernel": "- in in in out",
            "embedding/bias": "-",
            "head/kernel": "- in out",
            "head/bias": "-",
        },
    ),
    "one layer of attention": (  # whose output was taken for the head of a model
        {
            "attn": {f"{name}_proj": {"weight": (64, 64)} for name in ("query", "key", "value", "output")},
            "mixer": {"qkv": {"kernel": (64, 192)}, "output": {"kernel": (64, 64)}},
            "output": {"kernel": (64, 1000)},
        },
        {
            **{f"attn/{name}_proj/weight": "out in" for name in ("query", "key", "value", "output")},
            "mixer/qkv/kernel": "in 3x out",
            "mixer/output/kernel": "in out",
            "output/kernel": "- in out",
        },
    ),
    "plain": (
        {"w1": (8, 16), "b1": (16,), "w2": (16, 2), "b2": (2,), "x": ()},
        {"w1": "in out", "w2": "in out", "b1": "-", "b2": "-", "x": "-"},
    ),
    "one array": ((8, 16), {"": "in out"}),
}


@pytest.mark.parametrize("name", TABLE)
def test_what_a_tree_tells(name):
    tree, expected = TABLE[name]
    found = told(shapes(tree))
    # Biases of attention have two axes; whether these could be a matrix is no matter.
    assert {
        path: "-" if words.startswith("-") and expected[path] == "-" else words for path, words in found.items()
    } == expected


class Model(eqx.Module):
    """Names that say nothing of what a layer is."""

    a: eqx.nn.Embedding
    b: eqx.nn.LayerNorm
    c: eqx.nn.Linear

    @classmethod
    def make(cls, key):
        return cls(eqx.nn.Embedding(50, 16, key=key), eqx.nn.LayerNorm(16), eqx.nn.Linear(16, 32, key=key))


def test_the_class_of_a_module_tells_too():
    """Of equinox, whose embeddings and stacked norms have a `weight` with two axes as `Linear` has."""
    found = told(eqx.filter_vmap(Model.make)(jax.random.split(jax.random.key(0), 3)))
    assert {name: words for name, words in found.items() if words != "-"} == {
        "a/weight": "- stacked out in",
        "c/weight": "stacked out in",
    }
    assert told({name: vars(Model.make(jax.random.key(0)))[name] for name in "ac"})["a/weight"] == "- out in"
    assert told({"a": {"weight": jax.numpy.ones((50, 16))}}) == {"a/weight": "out in"}  # the control
