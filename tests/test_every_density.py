"""Requirements on every density, whatever its method."""

import pytest
import torch

from openset.densities import DENSITIES

SMALL = {
    "gaussian-mixture": {"components": 2},
    "pca": {"components": 2},
    "isolation-forest": {"trees": 20},
    "local-outlier-factor": {"neighbours": 5},
    "flow": {"transforms": 1, "hidden": 16, "epochs": 5},
}
"""Settings that make the fit small; a density that is not named is built as it is."""

CLASSES, DIM = 3, 4


def build(name):
    return DENSITIES[name](**SMALL.get(name, {}))


def known(dtype=torch.float32, per_class=60):
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(CLASSES).repeat(per_class)
    x = torch.randn(len(labels), DIM, generator=generator)
    centres = 8 * torch.eye(CLASSES, DIM)
    return (x + centres[labels]).to(dtype), labels


@pytest.fixture(scope="module")
def fitted():
    """Every density, fitted once."""
    with torch.random.fork_rng():
        return {name: build(name).fit_classes([known()], CLASSES) for name in DENSITIES}


@pytest.fixture(params=sorted(DENSITIES))
def name(request):
    return request.param


@pytest.fixture
def density(name, fitted):
    return fitted[name]


def test_other_classes_and_far_points_are_more_surprising(density):
    x, labels = known()
    own = density(x, labels)
    assert own.shape == (len(x),)
    assert own.dtype == torch.float32
    assert (density(x, (labels + 1) % CLASSES) > own).float().mean() > 0.95
    assert density(x + 30, labels).min() > own.median()


def test_without_labels_there_is_one_model(name):
    x, labels = known()
    x = x[labels == 0]
    single = build(name).fit([x])
    assert single.classes == 1
    torch.testing.assert_close(single(x), single.surprise(x, 0))
    assert single(x + 30).min() > single(x).median()


def test_table_agrees_with_each_class(density):
    x, labels = known()
    table = density.table(x)
    assert density.classes == CLASSES
    assert table.shape == (len(x), CLASSES)
    each = torch.stack([density.surprise(x, c) for c in range(CLASSES)], dim=1)
    torch.testing.assert_close(table, each)
    torch.testing.assert_close(table[torch.arange(len(x)), labels], density(x, labels))


def test_a_score_does_not_depend_on_its_batch(density):
    x, labels = known()
    alone = torch.cat([density(x[i : i + 1], labels[i : i + 1]) for i in range(20)])
    torch.testing.assert_close(density(x, labels)[:20], alone, rtol=1e-5, atol=1e-5)
    order = torch.randperm(len(x))
    shuffled = density(x[order], labels[order])
    torch.testing.assert_close(shuffled, density(x, labels)[order], rtol=1e-5, atol=1e-5)


def test_many_batches_fit_as_one(name, density):
    x, labels = known()
    many = build(name).fit_classes(list(zip(x.split(7), labels.split(7), strict=True)), CLASSES)
    torch.testing.assert_close(many(x, labels), density(x, labels), rtol=1e-3, atol=1e-3)


def test_unknown_rows_are_left_out(name, density):
    x, labels = known()
    more = torch.cat([x, x[:5] + 100]), torch.cat([labels, torch.tensor([-1, -1, -1, -100, -100])])
    torch.testing.assert_close(
        build(name).fit_classes([more], CLASSES)(x, labels),
        density(x, labels),
        rtol=1e-3,
        atol=1e-3,
    )


def test_a_fit_is_the_same_twice_and_leaves_the_random_state(name, density):
    before = torch.random.get_rng_state()
    x, labels = known()
    again = build(name).fit_classes([known()], CLASSES)
    assert torch.equal(again(x, labels), density(x, labels))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_loads_into_a_fresh_instance(name, density):
    x, labels = known()
    fresh = type(density)(**density.settings())
    fresh.load_state_dict(density.state_dict())
    assert torch.equal(fresh(x, labels), density(x, labels))


def test_settings_are_kept(name, density):
    given = SMALL.get(name, {})
    assert {key: density.settings()[key] for key in given} == given
    for key, value in density.settings().items():
        assert f"{key}={value!r}" in repr(density)


def test_double_precision_agrees(name, density):
    x, labels = known(torch.float64)
    double = type(density)(**density.settings())
    double.load_state_dict(density.state_dict())
    torch.testing.assert_close(
        density(x.float(), labels).double(), double.double()(x, labels), rtol=1e-4, atol=1e-4
    )


def test_a_class_without_rows_is_named(name):
    with pytest.raises(ValueError, match="class 3 has 0"):
        build(name).fit_classes([known()], CLASSES + 1)


def test_constant_features_and_duplicates(name):
    x, labels = known()
    x[:, 1] = 5.0
    x = torch.cat([x, x[:30]])
    density = build(name).fit_classes([(x, torch.cat([labels, labels[:30]]))], CLASSES)
    assert density(x[:180], labels).isfinite().all()


def test_half_precision_features(name):
    x, labels = known(torch.float16)
    density = build(name).fit_classes([(x, labels)], CLASSES)
    assert density(x, labels).dtype == torch.float32
    assert density(x, labels).isfinite().all()


def test_exports(density):
    x, labels = known()
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(
        density, (x, labels), dynamic_shapes={"x": {0: rows}, "labels": {0: rows}}
    )
    torch.testing.assert_close(
        program.module()(x[:50], labels[:50]), density(x[:50], labels[:50]), rtol=1e-5, atol=1e-5
    )


def test_documents_its_source(density):
    assert "https://" in (type(density).__doc__ or "")
