"""What the studies measure, against closed forms and constructed cases."""

import copy
import math
import re
import shutil

import pytest
import torch
from forks import tool
from mmengine.structures import InstanceData
from torch.nn.utils import parametrize

from sbzoo.__main__ import parser_of
from sbzoo.errors import UserError
from sbzoo.norm import Norm
from sbzoo.paths import ROOT
from sbzoo.records import read_measurements, record
from sbzoo.report.studies import FILE
from sbzoo.studies import (
    NAMES,
    alpha,
    capacity,
    causality,
    collocation,
    consistency,
    contrastive,
    curvature,
    degeneration,
    depth,
    federated,
    flatness,
    gradient_noise,
    membership,
    minima,
    pruning,
    small,
    statistics,
    study,
    transfer,
)
from sbzoo.studies.base import Value, Values, figures, plot
from sbzoo.studies.subject import embedded, gradient, trainable
from sbzoo.tools import study as study_tool

TRACKER = 'mmdet::sort/sort_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py'
ON_RECORD = ROOT / 'model_cards/results' / FILE


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize('batch', [1, 4, 16])
def test_the_gradient_of_a_mean_is_unbiased_and_has_the_variance_of_an_image_over_b(batch):
    images = torch.randn(50, 7) + 2
    trace = images.var(0, correction=0).sum().item()
    noise = gradient_noise.measure(lambda chosen: images[chosen].mean(0), 50, batch, draws=2000)
    assert noise.variance == pytest.approx(trace / batch, rel=0.1)
    assert noise.cosine == pytest.approx(1, abs=0.005)


def test_a_planted_bias_shows_as_the_cosine_that_it_makes():
    images = torch.randn(50, 2) * 0.1
    images += torch.tensor([1.0, 0.0]) - images.mean(0)

    def biased(chosen):
        return images[chosen].mean(0) + torch.tensor([0.0, 2.0]) * (len(chosen) < 50)

    assert gradient_noise.measure(biased, 50, 2, 400).cosine == pytest.approx(
        1 / math.sqrt(5), 0.02
    )


def test_a_mean_that_is_no_longer_than_its_noise_has_no_direction():
    noise = gradient_noise.measure(lambda _: torch.randn(2000), 50, batch=2, draws=20)
    assert noise.cosine < 0.2


def moments(values: torch.Tensor) -> statistics.Moments:
    """Of pictures [M, C, P]."""
    return statistics.Moments(values.mean(2), values.square().mean(2), values.shape[2])


@pytest.mark.parametrize('batch', [2, 8])
def test_the_variance_of_independent_values_is_off_by_two_over_n_minus_one(batch):
    single = moments(torch.randn(2000, 20, 1, dtype=torch.double))
    error = statistics.measure(single, batch, draws=4000)
    assert error == pytest.approx(2 / (batch - 1), rel=0.15)
    assert statistics.worth(error, batch) == pytest.approx(1, rel=0.15)


def test_a_picture_of_equal_values_is_worth_one_and_of_independent_ones_all():
    one = torch.randn(2000, 20, 1, dtype=torch.double)
    equal, independent = one.expand(-1, -1, 64), torch.randn(2000, 20, 64, dtype=torch.double)
    found = [statistics.measure(moments(x), 8, draws=3000) for x in (equal, independent)]
    assert statistics.worth(found[0], 8) == pytest.approx(1, rel=0.3)
    assert statistics.worth(found[1], 8) == pytest.approx(64, rel=0.15)


def boxes(*left: float, label: int = 0) -> consistency.Boxes:
    """Squares of 10 pixels, at these places."""
    edges = [[x, 0.0, x + 10, 10.0] for x in left]
    return consistency.Boxes(torch.tensor(edges).view(-1, 4), torch.full((len(left),), label))


def test_detections_that_only_one_side_has_are_flips():
    assert consistency.measure([boxes(0, 50)], [boxes(1, 50)]) == 0
    assert consistency.measure([boxes(0, 50)], [boxes(0)]) == 0.5
    assert consistency.measure([boxes(0)], [boxes(8)]) == 1  # an IoU of 1 / 9
    assert consistency.measure([boxes(0)], [boxes(0, label=1)]) == 1
    assert consistency.measure([boxes(0, 1)], [boxes(0)]) == 0.5  # matched once
    assert consistency.measure([boxes(), boxes(0)], [boxes(), boxes(0)]) == 0
    assert consistency.measure([boxes()], [boxes()]) == 0


def test_the_curvature_of_a_quadratic_is_that_of_its_matrix():
    matrix = torch.randn(40, 40)
    matrix = matrix + matrix.T
    x, without = torch.nn.Parameter(torch.randn(40)), torch.nn.Parameter(torch.zeros(5))
    found = curvature.measure(x @ matrix @ x / 2, [x, without], probes=2000)
    assert found.top == pytest.approx(torch.linalg.eigvalsh(matrix)[-1].item(), rel=0.01)
    # a probe has the variance of twice the squares beside the diagonal
    beside = matrix - matrix.diag().diag()
    spread = (2 * beside.square().sum() / 2000).sqrt().item()
    assert found.trace == pytest.approx(matrix.trace().item(), abs=4 * spread)


def test_the_trace_of_a_diagonal_needs_one_vector():
    x = torch.nn.Parameter(torch.randn(30))
    scales = torch.arange(1.0, 31)
    found = curvature.measure((scales * x.square()).sum() / 2, [x], probes=1)
    assert found.trace == pytest.approx(30 * 31 / 2)
    assert found.top == pytest.approx(30, rel=0.01)


def test_training_ends_at_the_goal_or_fails(monkeypatch):
    monkeypatch.setattr(minima, 'GOAL', 1.5)
    model = small.network()
    assert minima.train(model, 16, 0.1)
    with torch.no_grad():
        images, labels = small.digits()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
    assert 0.7 < loss < 1.5  # where it has just got to
    assert not minima.train(small.network(), 16, lr=1e6)
    monkeypatch.setattr(minima, 'STEPS', minima.EVERY)
    assert minima.measure(16, lr=1e-6) is None


@pytest.mark.parametrize(('shape', 'left'), [((1, 1), 0), ((2, 1), 0), ((5, 1), 3), ((1, 3), 7)])
def test_normalizing_n_values_leaves_n_minus_two_directions(shape, left):
    batch, side = shape
    x = torch.randn(batch, 1, side, side, dtype=torch.double)
    assert degeneration.measure(x) == pytest.approx(left / x.numel())


def scaled(pattern_tells: bool):
    """Digits of two classes: told by the pattern, in any light, or by the light of one pattern."""
    labels = torch.randint(2, (256,))
    patterns = torch.randn(2, 1, 8, 8)
    if pattern_tells:
        return patterns[labels] * 10 ** (torch.rand(256, 1, 1, 1) * 3 - 1.5), labels
    return patterns[:1] * (1.0 + 2 * labels)[:, None, None, None], labels


@pytest.mark.parametrize('pattern_tells', [True, False])
def test_alpha_goes_to_the_statistics_that_let_the_network_learn(pattern_tells, monkeypatch):
    monkeypatch.setattr(alpha, 'STEPS', 60)
    found = alpha.measure(alpha.network(0.5), scaled(pattern_tells), batch=32)
    assert (found.alpha < 0.4) if pattern_tells else (found.alpha > 0.6)


def test_an_alpha_that_is_fixed_stays_and_one_of_its_own_batches_leaves_weights_alone(monkeypatch):
    monkeypatch.setattr(alpha, 'STEPS', 2)
    data = small.digits()
    fixed = alpha.network(0.1)
    for name, parameter in fixed.named_parameters():
        parameter.requires_grad_(not name.endswith('alpha_logit'))
    assert alpha.measure(fixed, data, batch=4).alpha == pytest.approx(0.1)
    monkeypatch.setattr(alpha, 'LR', 0.0)
    model = alpha.network(0.9)
    before = model[1].weight.clone()
    assert alpha.measure(model, data, 4, of_alpha=data).alpha != pytest.approx(0.9, abs=1e-6)
    assert torch.equal(model[1].weight, before)


def test_the_contrastive_loss_of_equal_and_of_orthogonal_pictures():
    assert contrastive.nt_xent(torch.ones(8, 3), 0.2).item() == pytest.approx(math.log(7))
    orthogonal = torch.eye(4).repeat(2, 1)
    expected = -5 + math.log(math.exp(5) + 6)
    assert contrastive.nt_xent(orthogonal, 0.2).item() == pytest.approx(expected, abs=1e-5)


def test_embeddings_that_know_their_rank_have_rank_mates_for_neighbours():
    ranks = contrastive.ranks_of(shuffled=False)
    of_rank = torch.eye(contrastive.RANKS)[ranks]
    picture = torch.randn(len(ranks) // 2, 50).repeat(2, 1)
    found = contrastive.measure(torch.cat([10 * of_rank, picture / 10], 1), ranks)
    rest = len(ranks) - 2
    mates = 2 * contrastive.ON_RANK - 2
    assert found.mates == pytest.approx(rest / mates)
    assert found.pretext == 1
    shuffled = contrastive.ranks_of(shuffled=True)
    of_rank = torch.eye(contrastive.RANKS)[shuffled]
    assert contrastive.measure(torch.cat([10 * of_rank, picture / 10], 1), shuffled).pretext == 0
    assert contrastive.measure(picture + torch.randn_like(picture) / 9, ranks).mates < 1.5


def test_images_come_back_in_their_order_from_ranks_of_equal_size():
    ranks, seen = contrastive.ranks_of(shuffled=True), []
    images = torch.arange(float(len(ranks)))[:, None]
    record = torch.nn.Identity()
    record.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    assert torch.equal(contrastive.embed(record, images, ranks), images)
    on_ranks = ranks[seen[0].long()[:, 0]].view(contrastive.RANKS, -1)
    assert on_ranks.shape[1] == 2 * contrastive.ON_RANK
    assert (on_ranks == on_ranks[:, :1]).all()


class Leaking(torch.nn.Module):
    """Logits of a token that know a part of the last one."""

    def __init__(self, part: float) -> None:
        super().__init__()
        self.part = part

    def forward(self, tokens):
        known = torch.nn.functional.one_hot(tokens, causality.TOKENS).float()
        return known + self.part * known[:, -1:]


def test_what_earlier_outputs_know_of_the_last_token_is_measured():
    assert causality.measure(Leaking(0), batch=4) == 0
    # a changed token moves two of eight logits by the part; their variance is 7/64 (1 + part^2)
    found = causality.measure(Leaking(0.5), batch=64, draws=200)
    assert found == pytest.approx(0.5 * math.sqrt((2 / 8) / (7 / 64 * 1.25)), rel=0.05)


@pytest.mark.parametrize(('norm', 'leaks'), [('bn', True), ('ln', False)])
def test_batch_norm_goes_around_the_mask_in_training_alone(norm, leaks):
    model = causality.transformer(causality.NORMS[norm])
    assert (causality.measure(model.train(), batch=2) > 0.01) == leaks
    assert causality.measure(model.eval(), batch=2) < 1e-6


def test_two_images_are_as_far_apart_as_the_layers_put_them():
    images = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    layers = [torch.nn.Conv2d(1, 1, 1) for _ in range(3)]
    for layer in layers:
        torch.nn.init.constant_(layer.weight, 0.5)
    assert depth.measure(torch.nn.Sequential(*layers), images) == pytest.approx(0.125)


def test_the_residual_of_the_solution_is_zero_and_of_a_parabola_its_laplacian():
    class Quotient(torch.nn.Module):
        """The network that gives a function, where it is zero at the border by construction."""

        def forward(self, points):
            return (self.of(points) / ((points * (1 - points)).prod(1) * 16))[:, None]

        of = staticmethod(collocation.solution)

    points = torch.rand(50, 2, dtype=torch.double) * 0.8 + 0.1
    assert collocation.residual(Quotient(), points.clone()).abs().max() < 1e-9
    parabola = Quotient()
    parabola.of = lambda points: points.square().sum(1)
    expected = 4 + 2 * math.pi**2 * collocation.solution(points)
    torch.testing.assert_close(collocation.residual(parabola, points.clone()), expected)


def test_autograd_keeps_as_much_as_the_points_of_a_step():
    small_batch, large_batch, many = (
        collocation.measure(points, batch, steps=2).saved
        for points, batch in ((64, 64), (1024, 1024), (1024, 64))
    )
    assert many == pytest.approx(small_batch, rel=0.01)
    assert 12 < large_batch / small_batch < 16.1


def test_bytes_of_a_storage_count_once():
    kept, x = collocation.Kept(), torch.zeros(8)
    for part in (x, x[:4], x.view(2, 4), torch.zeros(2)):
        kept.pack(part)
    assert kept.bytes == 40


def test_images_move_by_what_is_in_them_of_their_mates():
    noise = torch.randn(400, 50)
    own = consistency.moved(lambda z: z.view(-1, 1, 5, 10), noise, batch=2)
    mixed = consistency.moved(lambda z: (z + 0.1 * z.flip(0)).view(-1, 1, 5, 10), noise, batch=2)
    assert own == 0
    assert mixed == pytest.approx(0.1 / math.sqrt(1.01), rel=0.03)


def test_the_smallest_weights_of_all_layers_are_cut():
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
    with torch.no_grad():
        model[2].weight *= 100
    cut = pruning.measure(model, 0.5)
    assert not cut[0].weight.any()
    assert torch.equal(cut[2].weight, model[2].weight)
    assert model[0].weight.any()


def test_a_rewound_network_has_the_same_weights_left(monkeypatch):
    monkeypatch.setattr(pruning, 'STEPS', pruning.EARLY + 3)
    early = small.network('bn')
    cut = pruning.measure(small.network('bn'), 0.7)
    again = pruning.rewound(cut, early)
    for one, other in zip(again, cut, strict=True):
        if hasattr(other, 'weight_mask'):
            assert torch.equal(one.weight == 0, other.weight == 0)
    assert not torch.equal(again[0].weight, early[0].weight * cut[0].weight_mask)  # it trained


def test_an_attack_on_two_normal_distributions_is_as_good_as_they_are_apart():
    apart, normal = 1.5, torch.distributions.Normal(0.0, 1.0)
    found = membership.measure(torch.randn(40_000), torch.randn(40_000) + apart)
    area = normal.cdf(torch.tensor(apart / math.sqrt(2))).item()
    told = normal.cdf(normal.icdf(torch.tensor(0.01)) + apart).item()
    assert found.auc == pytest.approx(area, abs=0.01)
    assert found.tpr == pytest.approx(told, abs=0.02)


def test_what_is_known_by_heart_is_told_and_what_is_not_is_not():
    images, labels = (part[:40] for part in small.digits())
    model = small.network('gn8')
    before = membership.losses(model, images, labels)
    assert membership.measure(before[:20], before[20:]).auc < 0.8
    nonsense = torch.randint(10, (40,))
    small.train(model, images[:20], nonsense[:20], steps=300, batch=8, lr=0.02)
    after = membership.losses(model, images, nonsense)
    assert membership.measure(after[:20], after[20:]).auc > 0.9


def test_a_network_that_sees_each_picture_alone_learns_labels_by_heart(monkeypatch):
    images = torch.randn(8, 1, 8, 8)
    labels = torch.arange(8)
    monkeypatch.setattr(capacity, 'EPOCHS', 0)
    assert capacity.measure('gn8', images, labels, batch=2) < 0.5
    monkeypatch.setattr(capacity, 'EPOCHS', 100)
    assert capacity.measure('gn8', images, labels, batch=2) == 1


def test_the_server_has_the_mean_of_its_clients():
    states = [torch.nn.BatchNorm2d(2).state_dict() for _ in range(2)]
    states[1]['running_mean'].fill_(3)
    states[0]['num_batches_tracked'].fill_(7)
    mean = federated.measure(states)
    assert mean['running_mean'].tolist() == [1.5, 1.5]
    assert mean['weight'].tolist() == [1, 1]
    assert mean['num_batches_tracked'] == 7


@pytest.mark.parametrize('keeps', [True, False])
def test_fedbn_keeps_batch_norm_on_its_client(keeps, monkeypatch):
    monkeypatch.setattr(federated, 'ROUNDS', 1)
    monkeypatch.setattr(federated, 'STEPS', 2)
    models = []
    monkeypatch.setattr(small, 'accuracy', lambda model, *_: models.append(model) or 1.0)
    assert federated.train('bn', federated.by_light()[:2], keeps) == 1
    one, other = (model.state_dict() for model in models)
    same = {key for key in one if torch.equal(one[key], other[key])}
    of_bn = {key for key in one if 'running' in key}
    assert of_bn.isdisjoint(same) if keeps else of_bn <= same
    assert '0.weight' in same


def test_clients_differ_in_light_or_in_classes():
    light, classes = federated.by_light(), federated.by_classes()
    assert len({client.images.std().item() for client in light}) == len(light)
    assert sum(len(client.labels) for client in light) == len(small.digits()[1])
    assert [client.labels.unique().tolist() for client in classes] == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
        [8, 9],
    ]


@pytest.mark.parametrize('spec', ['', 'gn8', 'bn', 'hybrid'])
def test_small_networks_have_the_norm_that_is_asked_for(spec):
    model = small.network(spec)
    norms = [m for m in model if isinstance(m, Norm | torch.nn.BatchNorm2d)]
    assert len(norms) == (3 if spec else 0)
    images, labels = small.digits()
    assert model(images[:4]).shape == (4, 10)
    assert len(images) + len(small.digits(held_out=True)[0]) == 1797
    assert images.amin() == -1
    assert images.amax() == 1
    assert labels.unique().tolist() == list(range(10))


@pytest.fixture(scope='module')
def detector():
    return embedded('retinanet_gn_b2', 'retinanet_gn_b2')


def test_with_one_normalizer_the_gradient_of_a_batch_is_the_mean_of_those_of_its_pictures(detector):
    parameters = trainable(detector.model)
    normalizers = detector.normalizers(range(4))
    whole, *parts = (
        gradient(detector.loss(chosen, normalizers), parameters)
        for chosen in ([0, 1, 2, 3], [0, 1], [2, 3])
    )
    difference = (torch.stack(parts).mean(0) - whole).norm() / whole.norm()
    assert difference < 1e-4
    by_itself = [gradient(detector.loss(chosen), parameters) for chosen in ([0, 1], [2, 3])]
    assert (torch.stack(by_itself).mean(0) - whole).norm() / whole.norm() > 0.01


class Shifted(torch.nn.Module):
    """A bias that two numbers shift."""

    def __init__(self) -> None:
        super().__init__()
        self.by = torch.nn.Parameter(torch.zeros(2))

    def forward(self, bias):
        return bias + self.by.repeat(len(bias) // 2)


def test_the_curvature_of_a_detector_is_how_its_loss_bends(monkeypatch):
    subject = embedded('retinanet_hybrid_b2', 'retinanet_hybrid_b2')
    subject.model.requires_grad_(False)
    shift = Shifted()
    parametrize.register_parametrization(subject.model.bbox_head.retina_cls, 'bias', shift)
    with monkeypatch.context() as patched:
        patched.setattr(flatness, 'twice_differentiable', lambda model: None)
        with pytest.raises(UserError, match='retinanet_hybrid_b2: its loss has no second deriv'):
            flatness.of(subject, 2)
    torch.manual_seed(1)
    pictures = torch.randperm(len(subject.trained_on.dataset))[:2].tolist()

    @torch.no_grad()
    def at(*by):
        shift.by.copy_(torch.tensor(by, dtype=torch.float))
        return flatness.loss(subject, pictures).item()

    h = 0.1
    xx = (at(h, 0) - 2 * at(0, 0) + at(-h, 0)) / h**2
    yy = (at(0, h) - 2 * at(0, 0) + at(0, -h)) / h**2
    xy = (at(h, h) - at(h, -h) - at(-h, h) + at(-h, -h)) / (4 * h**2)
    bent = torch.linalg.eigvalsh(torch.tensor([[xx, xy], [xy, yy]]))
    at(0, 0)
    torch.manual_seed(1)
    assert flatness.of(subject, 2).top == pytest.approx(bent[-1].item(), rel=0.02)


def test_training_pictures_are_attacked_as_validation_loads_them(detector, monkeypatch):
    loaded, plain = detector.held_out.dataset, detector.unaugmented.dataset
    assert len(plain) == len(detector.trained_on.dataset)
    assert plain.ann_file == detector.trained_on.dataset.ann_file != loaded.ann_file
    assert repr(plain.pipeline) == repr(loaded.pipeline)
    monkeypatch.setattr(membership, 'PICTURES', 3)
    members, others = membership.of_subject(detector)
    torch.manual_seed(0)
    first = torch.randperm(len(plain))[0].item()
    with torch.no_grad():
        alone = flatness.loss(detector, [first])  # training has no augmentation here
    assert members[0].item() == pytest.approx(alone.item(), rel=1e-4)
    assert len(members) == len(others) == 3


def test_a_picture_is_worth_as_many_values_as_its_statistics_say(detector):
    found = statistics.moments_of(detector, range(3))
    assert len(found) == sum(isinstance(m, Norm) for m in detector.model.modules())
    data = detector.batch(detector.held_out, [2])
    first = detector.model.backbone.conv1(data['inputs'])[0].flatten(1)
    name = next(iter(found))
    torch.testing.assert_close(found[name].mean[2].float(), first.mean(1), rtol=1e-4, atol=1e-5)
    assert found[name].positions == first.shape[1]


def test_ap_of_some_pictures_is_that_of_all_where_they_are_all(detector, monkeypatch):
    dataset = detector.held_out.dataset
    monkeypatch.setattr(detector.model, 'forward', perfect(detector.model))
    assert detector.average_precision([0, 3]) == pytest.approx(1)
    monkeypatch.undo()
    assert len(dataset) == 200
    found = detector.average_precision([0, 3, 5, 8])
    assert 0.2 < found < 1


def perfect(model):
    """A detector that knows the truth."""

    def forward(inputs, data_samples, mode):
        for sample in data_samples:
            truth = sample.gt_instances
            scale = truth.bboxes.new_tensor(sample.scale_factor).repeat(2)
            sample.pred_instances = InstanceData(
                bboxes=truth.bboxes / scale,
                labels=truth.labels,
                scores=torch.ones(len(truth.labels)),
            )
        return data_samples

    return forward


def test_a_detector_is_converted_and_fine_tuned(monkeypatch):
    monkeypatch.setattr(transfer, 'STEPS', 1)
    monkeypatch.setattr(transfer, 'IMAGES', 2)
    subject = embedded('retinanet_bn_b2', transfer.CARD)
    transfer.convert(subject, 'gn8')
    assert any(isinstance(m, Norm) for m in subject.model.modules())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in subject.model.modules())
    before = subject.model.bbox_head.retina_cls.weight.clone()
    ap, after = transfer.measure(subject, [0, 1, 2], [0, 1])
    assert after == subject.average_precision([0, 1, 2]) != ap
    moved = (subject.model.bbox_head.retina_cls.weight - before).abs().max()
    assert 0 < moved < 0.01


@pytest.mark.parametrize(('norm', 'arms'), [('bn', 2), ('gn', 1)])
def test_a_detector_is_pruned_and_stays_whole(norm, arms, monkeypatch):
    monkeypatch.setattr(pruning, 'SPARSITIES', (0.3, 1.0))
    monkeypatch.setattr(pruning, 'PICTURES', 6)
    subject = embedded(f'retinanet_{norm}_b2', f'retinanet_{norm}_b2')
    subject.model.backbone.norm_eval = True  # as in most configs of MMDetection
    before = copy.deepcopy(subject.model.state_dict())
    values = Values(pruning.STUDY.values(0, subject))
    torch.testing.assert_close(subject.model.state_dict(), before, rtol=0, atol=0)
    lines = values.lines(pruning.AP)
    assert len(lines) == arms
    whole, cut, nothing = lines.pop(subject.name).values()
    assert whole[0] > cut[0] > nothing[0] == 0
    assert all(again['30%'] != cut for again in lines.values())
    assert ('no statistics of batches' in pruning.advise(values, subject)) == (norm == 'gn')


def test_what_statistics_bring_back_is_told(detector):
    name, again = detector.name, f'{detector.name}, re-estimated'
    losses = dict.fromkeys(map('{:.0%}'.format, pruning.SPARSITIES), 0.1)
    found = [
        Value(pruning.AP, name, '0%', 0.6),
        *(Value(pruning.AP, name, *v) for v in losses.items()),
    ]
    back = [Value(pruning.AP, again, c, 0.4 if c == '80%' else v) for c, v in losses.items()]
    assert 'bring back 0.300 at 80%' in pruning.advise(Values(found + back), detector)
    none = [Value(pruning.AP, again, *v) for v in losses.items()]
    assert 'bring none of it back' in pruning.advise(Values(found + none), detector)


def test_values_and_figures_are_the_same_in_another_form(tmp_path):
    values = [Value('a', 'bn', str(b), b + s / 10) for s in range(2) for b in (1, 2)]
    values.append(Value('c / d', 'gn', '', 3.0))
    found = Values(values)
    assert found.quantities == ['a', 'c / d']
    assert found.of('a', 'bn', 2) == [2, 2.1]
    assert found.mean('a', 'bn', 1) == pytest.approx(1.05)
    assert figures(values[:2]) == {'a / bn / 1': 1, 'a / bn / 2': 2}
    plot(study('statistics'), Values(values[:4]), tmp_path / 'plot.png')
    assert (tmp_path / 'plot.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('name', NAMES)
def test_every_study_says_whose_claim_it_tests(name):
    found = study(name)
    assert found.claim.endswith('.')
    assert found.source
    assert len(found.seeds) >= 3


def test_there_is_no_other_study():
    with pytest.raises(UserError, match=f"unknown study 'x'; known are {', '.join(NAMES)}"):
        study('x')


def test_the_tool_advises_a_user_and_takes_a_seed_from_the_record(tmp_path):
    argv = 'statistics', '--card', 'retinanet_bn_b2', '--seeds', 3, '--out', tmp_path
    first = tool('study', *argv)
    assert not first.status, first.errors
    assert 'at batch size 2 the variance of a batch is off by' in first.printed
    assert 'batch norm has borne as much without loss' in first.printed
    (line,) = read_measurements(tmp_path / 'studies.jsonl')
    assert line.row == dict(study='statistics', model='retinanet_bn_b2', seed=3)
    line = line._replace(figures=line.figures | {f'{statistics.WORTH} / retinanet_bn_b2 / 16': 3.0})
    record(tmp_path / 'studies.jsonl', [line])
    again = tool('study', *argv)
    assert 'a picture is worth 3.0 of its 36 values' in again.printed
    assert 'off by 63%: batch norm is in danger, from batch size 8 on' in again.printed
    assert '--norm gn' in again.printed


@pytest.mark.parametrize(
    ('argv', 'said'),
    [
        ([], 'give the name of a study, or --all; there are'),
        (['statistics', '--all'], 'give the name of a study, or --all; there are'),
        (['statistics', '--data', 'x'], '--data x: give the model too'),
        (['statistics', 'a.py', '--card', 'b'], '--card b or a.py, not both'),
        (['statistics', '--card', 'dcgan_gn_b2'], 'dcgan_gn_b2: a GAN; studies of a model take'),
        (['statistics', TRACKER], 'studies take training and validation pictures; no train_data'),
        (['minima', '--card', 'retinanet_gn_b2'], 'minima: it is on embedded data and small net'),
    ],
)
def test_what_is_no_study_of_a_model(argv, said, tmp_path):
    args = parser_of('study').parse_args([*argv, '--out', str(tmp_path)])
    with pytest.raises(UserError, match=said):
        study_tool.main(args)
    assert not list(tmp_path.iterdir())


def test_all_studies_are_taken_from_the_record_and_end_in_a_table(tmp_path):
    shutil.copy(ON_RECORD, tmp_path)
    done = tool('study', '--all', '--out', tmp_path)
    assert not done.status, done.errors
    table = done.printed.split('verdict or advice')[1]
    assert re.findall(r'│ ([a-z-]+) +│ 0:00:\d\d', table) == list(NAMES)
    assert (tmp_path / FILE).read_bytes() == (ON_RECORD).read_bytes()


def test_all_studies_of_a_model_are_those_that_advise(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study_tool, '_run', lambda name, subject, _: ('0:00:01', subject.name))
    study_tool.main(parser_of('study').parse_args(['--all', '--card', 'retinanet_gn_b2']))
    found = re.findall(r'│ ([a-z-]+) +│ 0:00:01 │ retinanet_gn_b2', capsys.readouterr().out)
    assert found == [name for name in NAMES if study(name).advise]
    assert len(found) == 6
