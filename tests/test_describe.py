"""What `describe` prints, word for word: rows that are folded, sums by group and of all, subtrees."""

import jax
import jax.numpy as jnp
import pytest

import jadam


def shapes(tree, dtype="float32"):
    """The shapes of parameters that nobody has to allocate."""
    return jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, dtype), tree, is_leaf=lambda x: isinstance(x, tuple))


def dense(rows, columns):
    return {"kernel": (rows, columns), "bias": (columns,)}


NORM = {"scale": (768,), "bias": (768,)}
LAYER = {
    "ln_1": NORM,
    "attn": {"c_attn": dense(768, 2304), "c_proj": dense(768, 768)},
    "ln_2": NORM,
    "mlp": {"c_fc": dense(768, 3072), "c_proj": dense(3072, 768)},
}
GPT2 = {
    "wte": {"embedding": (50257, 768)},
    "wpe": {"embedding": (1024, 768)},
    "h": {str(n): LAYER for n in range(12)},
    "ln_f": NORM,
}
MATRICES, CLIP = jadam.ndim_at_least(2), jadam.clip_by_global_norm(1.0)


def test_gpt2_in_two_groups():
    tx = jadam.chain(CLIP, jadam.adamw(6e-4, weight_decay=0.1, mask=MATRICES))
    assert (
        jadam.describe(tx, shapes(GPT2))
        == """\
parameter                   shape         dtype    group  slots    state bytes
h/*/attn/c_attn/bias x12    (2304,)       float32  #1     float32      221,184
h/*/attn/c_attn/kernel x12  (768, 2304)   float32  #2     float32  169,869,312
h/*/attn/c_proj/bias x12    (768,)        float32  #1     float32       73,728
h/*/attn/c_proj/kernel x12  (768, 768)    float32  #2     float32   56,623,104
h/*/ln_*/bias x24           (768,)        float32  #1     float32      147,456
h/*/ln_*/scale x24          (768,)        float32  #1     float32      147,456
h/*/mlp/c_fc/bias x12       (3072,)       float32  #1     float32      294,912
h/*/mlp/c_fc/kernel x12     (768, 3072)   float32  #2     float32  226,492,416
h/*/mlp/c_proj/bias x12     (768,)        float32  #1     float32       73,728
h/*/mlp/c_proj/kernel x12   (3072, 768)   float32  #2     float32  226,492,416
ln_f/bias                   (768,)        float32  #1     float32        6,144
ln_f/scale                  (768,)        float32  #1     float32        6,144
wpe/embedding               (1024, 768)   float32  #2     float32    6,291,456
wte/embedding               (50257, 768)  float32  #2     float32  308,779,008

group  arrays   parameters  dtype    slots    learning rate  state bytes
#1         98      121,344  float32  float32  learning_rate      970,752
#2         50  124,318,464  float32  float32  learning_rate  994,547,712

#1: clip_by_global_norm, adam, learning_rate
#2: clip_by_global_norm, adam, add_decayed_weights, learning_rate
148 arrays with 124,439,808 parameters, 995,518,524 bytes of state: 8.00 a parameter"""
    )


HALF_FROZEN = jadam.with_precision(
    jadam.chain(
        CLIP,
        jadam.partition(
            [
                (jadam.match(*(f"h/{n}/**" for n in range(6))), jadam.freeze(), "frozen"),
                (MATRICES, jadam.adamw(1e-4), "matrices"),
                (True, jadam.adam(1e-4), "rest"),
            ]
        ),
    ),
    state="int8",
    params="remainder",
)


def test_gpt2_with_half_of_it_frozen_at_a_depth():
    """Groups have their names, rates theirs, and layers that are treated otherwise rows of their own."""
    assert (
        jadam.describe(HALF_FROZEN, shapes(GPT2, "bfloat16"), depth=3)
        == """\
parameter             shape                 dtype                 group           slots          state bytes
h/[0-5]/attn/** x6    2,362,368 (4 arrays)  bfloat16              frozen          -                        0
h/[0-5]/ln_*/** x12   1,536 (2 arrays)      bfloat16              frozen          -                        0
h/[0-5]/mlp/** x6     4,722,432 (4 arrays)  bfloat16              frozen          -                        0
h/[6-11]/attn/** x6   2,362,368 (4 arrays)  bfloat16 (remainder)  rest, matrices  float32, int8   60,346,368
h/[6-11]/ln_*/** x12  1,536 (2 arrays)      bfloat16 (remainder)  rest            float32            184,320
h/[6-11]/mlp/** x6    4,722,432 (4 arrays)  bfloat16 (remainder)  rest, matrices  float32, int8  120,554,496
ln_f/bias             (768,)                bfloat16 (remainder)  rest            float32              7,680
ln_f/scale            (768,)                bfloat16 (remainder)  rest            float32              7,680
wpe/embedding         (1024, 768)           bfloat16 (remainder)  matrices        int8             3,342,336
wte/embedding         (50257, 768)          bfloat16 (remainder)  matrices        int8           164,041,728

group     arrays  parameters  dtype                 slots    learning rate           state bytes
frozen        72  42,527,232  bfloat16              -        -                                 0
rest          50      61,440  bfloat16 (remainder)  float32  rest.learning_rate          614,400
matrices      26  81,851,136  bfloat16 (remainder)  int8     matrices.learning_rate  347,870,208

frozen = match('h/0/**', 'h/1/**', 'h/2/**', 'h/3/**', 'h/4/**', 'h/5/**'): frozen
rest = everything else: clip_by_global_norm, adam, learning_rate
matrices = ndim_at_least(2): clip_by_global_norm, adam, add_decayed_weights, learning_rate
148 arrays with 124,439,808 parameters, 348,484,716 bytes of state: 2.80 a parameter"""
    )


@pytest.mark.parametrize(
    ("tx", "dtype"),
    [(jadam.adamw(1e-3), "float32"), (HALF_FROZEN, "bfloat16"), (jadam.average(jadam.muon(1e-3)), "bfloat16")],
)
def test_gpt2_fits_100_columns(tx, dtype):
    lines = jadam.describe(tx, shapes(GPT2, dtype)).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) < 40


SMALL = {"b": jnp.ones(64), "w": jnp.ones((64, 64)), "ids": jnp.arange(3)}


def test_a_slot_of_its_own_format_is_named():
    tx = jadam.with_precision(jadam.adam(1e-3), state={"mu": "bfloat16", "nu": "int8"})
    assert (
        jadam.describe(tx, SMALL)
        == """\
parameter  shape     dtype    group  slots                 state bytes
b          (64,)     float32  #1     float32                       512
ids        (3,)      int32    #2     -                               0
w          (64, 64)  float32  #1     mu bfloat16, nu int8       12,800

group  arrays  parameters  dtype    slots                    learning rate  state bytes
#1          2       4,160  float32  float32, bfloat16, int8  learning_rate       13,312
#2          1           3  int32    -                        -                        0

#1: adam, learning_rate
#2: not trained
3 arrays with 4,160 parameters, 13,356 bytes of state: 3.21 a parameter"""
    )


def test_several_rates_and_groups_in_groups():
    """Of a chain of two optimizers, in one group of a group."""
    twice = jadam.chain(jadam.sgd(1.0), jadam.sgd(2.0))
    inner = jadam.partition([(jadam.match("w"), twice, "first"), (True, jadam.sgd(0.1))])
    tx = jadam.partition([(jadam.match("w", "b"), inner, "outer"), (True, jadam.identity())])
    _, groups, rules = jadam.describe(tx, SMALL).split("\n\n")
    assert (
        groups
        == """\
group        arrays  parameters  dtype    slots  learning rate                                             state bytes
outer.1           1          64  float32  -      outer.1.learning_rate                                               0
#1                1           3  int32    -      -                                                                   0
outer.first       1       4,096  float32  -      outer.first.learning_rate_0, outer.first.learning_rate_1            0"""
    )
    assert rules.startswith("""\
outer.1 = match('w', 'b') & everything else: learning_rate
#1: not trained
outer.first = match('w', 'b') & match('w'): learning_rate, learning_rate
""")


def test_one_label_with_two_treatments():
    tx = jadam.partition({"all": jadam.adamw(1e-3, mask=jadam.match("w"))}, {"b": "all", "w": "all", "ids": "all"})
    rules = jadam.describe(tx, SMALL).split("\n\n")[2].splitlines()[:3]
    assert rules == ["all #1: adam, learning_rate", "#1: not trained", "all #2: adam, add_decayed_weights, learning_rate"]


@pytest.mark.parametrize(
    ("paths", "rows"),
    {
        ("layers_0", "layers_1", "layers_2"): ["layers_* x3"],
        ("0", "1", "10", "9", "x"): ["* x4", "x"],
        ("w1", "w2", "w3:"): ["w* x2", "w3:"],
        ("e/0/x/0", "e/0/x/1", "e/1/x/0", "e/1/x/1"): ["e/*/x/* x4"],
        ("e/0/x/0", "e/0/x/1", "e/1/x/0"): ["e/*/x/0 x2", "e/0/x/1"],
        ("00", "01", "0x"): ["* x2", "0x"],
        ("a" + 10 * "1", "a" + 10 * "2"): ["a1111111111", "a2222222222"],
        ("a", "b"): ["a", "b"],
    }.items(),
)
def test_paths_that_differ_in_numbers(paths, rows):
    described = jadam.describe(jadam.sgd(0.1), shapes(dict.fromkeys(paths, (2,))))
    assert [line.split("  ")[0] for line in described.split("\n\n")[0].splitlines()[1:]] == rows


@pytest.mark.parametrize(
    ("odd", "rows"),
    {
        (0,): ["[1-9]", "0"],
        (3, 4): ["[0-2,5-9]", "[3-4]"],
        (0, 9): ["[1-8]", "[0,9]"],
        (1, 3, 5, 7): ["*", "*"],
    }.items(),
)
def test_layers_that_are_unlike_others(odd, rows):
    """Their numbers, unless that would be a long list."""
    params = shapes({str(n): (3,) if n in odd else (2,) for n in range(10)})
    table = jadam.describe(jadam.sgd(0.1), params).split("\n\n")[0].splitlines()[1:]
    assert sorted(line.split(" ")[0] for line in table) == sorted(rows)


def test_every_row_on_request():
    params = shapes({"layers": [dense(2, 2)] * 3})
    table = jadam.describe(jadam.adam(1e-3), params, fold=False).split("\n\n")[0].splitlines()
    assert table[1:3] == [
        "layers/0/bias    (2,)    float32  float32           16",
        "layers/0/kernel  (2, 2)  float32  float32           32",
    ]
    assert len(table) == 1 + 6
    folded = jadam.describe(jadam.adam(1e-3), params)
    assert folded.split("\n\n")[1:] == jadam.describe(jadam.adam(1e-3), params, fold=False).split("\n\n")[1:]


def test_rows_of_a_depth_add_up():
    """What is above the depth is a row of its own, and bytes of folded rows are those of all."""
    params = shapes(GPT2 | {"scale": ()})
    tx, sums = jadam.with_precision(jadam.adam(1e-3), state="int8"), set()
    for depth in (1, 2, 3, 4, None):
        for fold in (True, False):
            table, groups, _ = jadam.describe(tx, params, depth=depth, fold=fold).split("\n\n")
            sums.add(sum(int(line.split()[-1].replace(",", "")) for line in table.splitlines()[1:]))
            assert groups.endswith(f" {max(sums):,}")
    assert len(sums) == 1


def test_trees_without_leaves():
    assert jadam.describe(jadam.adam(1e-3), {}).endswith("\n0 arrays with 0 parameters, 44 bytes of state")


def test_a_mask_that_is_a_large_tree_is_cut():
    params = shapes({str(n): (2,) for n in range(100)})
    tx = jadam.partition([({str(n): n < 50 for n in range(100)}, jadam.freeze()), (True, jadam.sgd(0.1))])
    rules = jadam.describe(tx, params).split("\n\n")[2]
    assert rules.startswith("0 = {'0': True,")
    assert "...: frozen\n1 = everything else: learning_rate\n" in rules
    assert len(rules) < 300
