"""Cautious updates and cautious weight decay, around one optimizer, a chain, groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jadam

PARAMS = {"w": jnp.asarray([[1.0, -2.0], [3.0, -4.0]]), "b": jnp.asarray([0.5, -0.5])}
FIRST = {"w": jnp.asarray([[1.0, 1.0], [-1.0, -1.0]]), "b": jnp.asarray([1.0, -1.0])}
TURNED = {"w": jnp.asarray([[1.0, -0.1], [-1.0, 0.1]]), "b": jnp.asarray([0.2, 0.1])}


def updates_after(tx, *grads):
    state = tx.init(PARAMS)
    for g in grads:
        updates, state = tx.update(g, state, PARAMS)
    return updates


def expected(tx, decay=0.0):
    """The update of `tx`, which has no decay, masked by hand: nothing against the last gradient, the rest scaled up."""
    found = {}
    for name, u in updates_after(tx, FIRST, TURNED).items():
        agrees = np.asarray(-u * TURNED[name] > 0, np.float32)
        found[name] = u * agrees / max(np.mean(agrees), 1e-3) - 0.1 * decay * PARAMS[name]
    return found


def assert_close(one, two):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), one, two)


@pytest.mark.parametrize("factory", [jadam.adam, jadam.lion, jadam.adan, jadam.radam, jadam.adopt, jadam.nadam])
def test_nothing_moves_against_its_gradient(factory):
    assert_close(updates_after(jadam.cautious(factory(0.1)), FIRST, TURNED), expected(factory(0.1)))


def test_the_decay_is_not_masked():
    found = updates_after(jadam.cautious(jadam.adamw(0.1, weight_decay=0.3)), FIRST, TURNED)
    assert_close(found, expected(jadam.adam(0.1), decay=0.3))
    assert not np.allclose(found["w"], expected(jadam.adam(0.1))["w"])


def test_behind_a_clip():
    """The raw gradient decides; a clip does not change its sign."""
    clip = jadam.clip_by_global_norm(0.1)
    tx = jadam.chain(clip, jadam.adam(0.1))
    assert_close(updates_after(jadam.cautious(tx), FIRST, TURNED), expected(tx))


def test_in_each_group():
    groups = [(jadam.match("w"), jadam.adam(0.1)), (True, jadam.sgd(0.1, momentum=0.9))]
    found = updates_after(jadam.cautious(jadam.partition(groups)), FIRST, TURNED)
    assert_close(found["w"], expected(jadam.adam(0.1))["w"])
    assert_close(found["b"], expected(jadam.sgd(0.1, momentum=0.9))["b"])


def test_groups_under_one_learning_rate():
    """Muon's matrices, and what is left to Adam: both are masked."""
    muon = jadam.muon(0.1, adam_ratio=1.0)
    assert_close(updates_after(jadam.cautious(muon), FIRST, TURNED), expected(muon))
    assert not np.allclose(updates_after(muon, FIRST, TURNED)["w"], expected(muon)["w"])


def test_a_block_without_a_learning_rate():
    block = jadam.chain(jadam.cautious(jadam.scale_by_adam()), jadam.scale_by_learning_rate(0.1))
    assert_close(updates_after(block, FIRST, TURNED), expected(jadam.adam(0.1)))


def test_foreign_transformations_are_refused():
    with pytest.raises(TypeError, match="makes the direction, and may have a learning rate"):
        jadam.cautious(jadam.chain((lambda params: (), lambda updates, state, params=None: (updates, state))))


@pytest.mark.parametrize("factory", [jadam.adamw, jadam.lion, jadam.nadamw, jadam.adopt])
def test_weight_decay_only_towards_the_step(factory):
    """Chen et al. 2025: p decays where the direction has its sign, that is, where the step goes towards zero anyway."""
    plain = updates_after(factory(0.1, weight_decay=0.0), FIRST, FIRST)
    found = updates_after(jadam.cautious_weight_decay(factory(0.1, weight_decay=0.3)), FIRST, FIRST)
    for name, p in PARAMS.items():
        towards = -plain[name] * p >= 0
        assert name == "b" or 0 < int(jnp.sum(towards)) < p.size
        assert_close(found[name], plain[name] - 0.1 * 0.3 * jnp.where(towards, p, 0))


def test_cautious_weight_decay_keeps_the_mask():
    tx = jadam.cautious_weight_decay(jadam.adamw(0.1, weight_decay=0.3, mask=jadam.match("w")))
    assert_close(updates_after(tx, FIRST)["b"], updates_after(jadam.adam(0.1), FIRST)["b"])
