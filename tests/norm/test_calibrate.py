"""Converted networks match their originals; batch norms get precise running statistics."""

import copy
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmdet.models.backbones import ResNet
from timm.layers import BatchNormAct2d, FilterResponseNormTlu2d
from torch import nn
from torch.optim.swa_utils import update_bn

from sbzoo import UserError, build_norm, calibrate, convert_norm, reestimate
from sbzoo.norm import Norm

SPECS = ['gn4', 'in', 'ln', 'hybrid']


def images(*shape: int) -> torch.Tensor:
    """Pictures that differ in brightness and contrast, as pictures do."""
    x = torch.randn(*shape, dtype=torch.double)
    each = (shape[0], *(1 for _ in shape[1:]))
    return x * (0.5 + torch.rand(each, dtype=torch.double)) + torch.randn(each, dtype=torch.double)


def resnet(depth: int) -> ResNet:
    two_stages = dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,))
    net = ResNet(depth, stem_channels=8, base_channels=8, norm_eval=False, **two_stages)
    return net.double()


@pytest.fixture
def trained():
    """A residual network whose batch norms have learned statistics, weights and biases."""
    net = resnet(18)
    for norm in norms(net).values():
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    reestimate(net, [images(16, 3, 32, 32) for _ in range(4)])
    return net


def norms(model: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in model.named_modules() if isinstance(m, (Norm, nn.BatchNorm2d))}


def converted(model: nn.Module, spec: str) -> nn.Module:
    return convert_norm(copy.deepcopy(model), spec).model


def outputs(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What every norm puts out, before an activation in place."""
    model.eval()
    found = {}
    hooks = [
        norm.register_forward_hook(lambda m, a, y, name=name: found.update({name: y.clone()}))
        for name, norm in norms(model).items()
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize('spec', SPECS)
def test_every_channel_of_every_norm_has_the_moments_of_the_original(trained, spec):
    x = images(8, 3, 32, 32)
    model = converted(trained, spec)
    record = calibrate(model, trained, [x])
    original, ours = outputs(trained, x), outputs(model, x)
    assert [m.name for m in record.matches] == list(original)
    for name, y in original.items():
        torch.testing.assert_close(ours[name].mean((0, 2, 3)), y.mean((0, 2, 3)), msg=name)
        torch.testing.assert_close(ours[name].var((0, 2, 3)), y.var((0, 2, 3)), msg=name)


@pytest.mark.parametrize('spec', ['gn4', 'ln', 'hybrid'])  # instance norm keeps no contrast
def test_new_images_are_nearer_to_the_original_and_the_record_says_how_near(trained, spec):
    model = converted(trained, spec)
    before = distances(model, trained, x := images(8, 3, 32, 32))
    record = calibrate(model, trained, [x])
    assert {m.name: m.before for m in record.matches} == pytest.approx(before)
    assert {m.name: m.after for m in record.matches} == pytest.approx(distances(model, trained, x))
    others = images(8, 3, 32, 32)
    last = record.matches[-1].name
    assert distances(model, trained, others)[last] < 0.8 * before[last]


def distances(model, reference, x) -> dict[str, float]:
    theirs, ours = outputs(reference, x), outputs(model, x)
    return {
        n: ((ours[n] - y).square().mean() / y.var((0, 2, 3), correction=0).mean()).sqrt().item()
        for n, y in theirs.items()
    }


def test_signs_modes_and_everything_but_the_norms_stay(trained):
    model = converted(trained, 'gn4')
    model.layer1.eval()
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    reference = copy.deepcopy(trained.state_dict())
    calibrate(model, trained, [images(4, 3, 32, 32)])
    assert [m.training for m in model.modules()] == modes
    learned = {f'{n}.{key}' for n in norms(model) for key in ('weight', 'bias')}
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) != (key in learned), key
        if key in learned and key.endswith('weight'):
            assert torch.equal(value.sign(), before[key].sign())
    assert all(torch.equal(v, reference[k]) for k, v in trained.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in trained.modules())


@pytest.mark.parametrize('spec', ['bn', 'gn4'])
def test_norms_of_the_same_kind_behind_newly_standardised_convolutions_are_matched(trained, spec):
    if spec == 'gn4':
        convert_norm(trained, spec)
    x = images(8, 3, 32, 32)
    model = converted(trained, f'{spec}+ws')
    record = calibrate(model, trained, [x])
    original, ours = outputs(trained, x), outputs(model, x)
    assert [m.name for m in record.matches] == list(original)
    for name, y in original.items():
        torch.testing.assert_close(ours[name].mean((0, 2, 3)), y.mean((0, 2, 3)), msg=name)
        torch.testing.assert_close(ours[name].var((0, 2, 3)), y.var((0, 2, 3)), msg=name)
    again = calibrate(copy.deepcopy(model), model, [x])  # standardised before, too
    assert again.matches == []


def test_a_convolution_shared_over_norms_is_newly_standardised_for_each():
    conv = nn.Conv2d(3, 8, 3)
    levels = [nn.Sequential(conv, nn.BatchNorm2d(8)) for _ in range(2)]
    net = nn.Sequential(*levels[:1], nn.Conv2d(8, 3, 1), *levels[1:]).double()
    x = images(8, 3, 16, 16)
    reestimate(net, [x])
    record = calibrate(converted(net, 'bn+ws'), net, [x])
    assert [m.name for m in record.matches] == ['0.1', '2.1']


def test_a_model_that_was_not_converted_is_left_as_it_is(trained):
    model = converted(trained, 'bn')
    record = calibrate(model, trained, [images(4, 3, 32, 32)])
    assert (record.matches, record.left) == ([], {})
    assert all(torch.equal(v, trained.state_dict()[k]) for k, v in model.state_dict().items())


def test_hybrids_evaluate_with_the_statistics_of_their_own_inputs(trained):
    x = images(8, 3, 32, 32)
    model = converted(trained, 'hybrid')
    calibrate(model, trained, [x])
    inputs = {}
    model.layer2[1].bn2.register_forward_pre_hook(lambda m, args: inputs.update(x=args[0]))
    model.eval()
    model(x)
    norm = model.layer2[1].bn2
    torch.testing.assert_close(norm.running_mean, inputs['x'].mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, inputs['x'].var((0, 2, 3)))


class Head(nn.Module):
    """Shares its layers over two levels, has one layer that never runs, and one of flat maps."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.unused, self.pooled = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x):
        levels = [self.bn(self.conv(level)).relu_() for level in (x, 3 * x[:, :, ::2, ::2])]
        means = [level.mean((2, 3), keepdim=True).expand(-1, -1, 2, 2) for level in levels]
        return [self.pooled(mean) for mean in means]


def test_says_what_never_ran_and_what_is_constant():
    head = Head().double()
    reestimate(head, [images(8, 3, 16, 16)])
    model = converted(head, 'in')
    record = calibrate(model, head, [images(4, 3, 16, 16), images(4, 3, 16, 16)])
    assert record.left == {'unused': 'did not run on these images'}
    shared, pooled = record.matches
    assert shared.after < shared.before
    # instance norm of a flat map is constant
    assert (shared.near_constant, pooled.near_constant) == (0, 8)
    assert torch.equal(model.pooled.weight, head.pooled.weight)
    assert 'left unused: did not run' in str(record)
    assert 'pooled (8 near-constant channels' in str(record)


@pytest.mark.parametrize('act', [nn.ReLU, nn.SiLU])
def test_norms_with_an_activation_inside_are_matched_before_it(act):
    """A ReLU goes into the pass of the new norm, others run behind it."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), BatchNormAct2d(8, act_layer=act)).double()
    x = images(8, 3, 16, 16)
    reestimate(net, [x])
    model = converted(net.eval(), 'gn2')
    record = calibrate(model, net, [x])
    assert (len(record.matches), record.left) == (1, {})
    norm, new = net[1], model[1]
    bn = norm.running_mean, norm.running_var, norm.weight, norm.bias
    expected = nn.functional.batch_norm(net[0](x), *bn)
    found = nn.functional.group_norm(model[0](x), 2, new.weight, new.bias)
    for moment in (torch.mean, torch.var):
        torch.testing.assert_close(moment(found, (0, 2, 3)), moment(expected, (0, 2, 3)))
    torch.testing.assert_close(model(x), act()(found))


def test_norms_of_another_kind_of_function_are_left():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), FilterResponseNormTlu2d(8)).double()
    record = calibrate(converted(net, 'gn2'), net, [images(2, 3, 16, 16)])
    assert record.left == {'1': 'the original has its activation inside'}


def test_learned_weights_are_back_when_a_forward_fails(trained):
    model = converted(trained, 'gn4')
    before = copy.deepcopy(model.state_dict())
    calls = []

    def forward(net, batch):
        calls.append(net)
        if len(calls) == 3:  # original, converted, and now the pass that matches
            raise RuntimeError
        net(batch)

    with pytest.raises(RuntimeError):
        calibrate(model, trained, [images(2, 3, 32, 32)], forward)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_networks_that_do_not_belong_together(trained):
    other = resnet(34)
    with pytest.raises(UserError, match='no such layer'):
        calibrate(converted(other, 'gn4'), trained, [])
    twins = converted(trained, 'gn4')
    twins.bn1.weight = trained.bn1.weight
    with pytest.raises(UserError, match='share their weights'):
        calibrate(twins, trained, [])


def test_precise_bn_of_unequal_batches_is_that_of_all_data_at_once():
    norm = nn.BatchNorm2d(5).double()
    batches = [images(n, 5, 4 + n, 3) for n in (2, 1, 4)]
    assert reestimate(nn.Sequential(norm), batches) == ['0']
    pixels = torch.cat([b.transpose(0, 1).flatten(1) for b in batches], dim=1)
    torch.testing.assert_close(norm.running_mean, pixels.mean(1))
    torch.testing.assert_close(norm.running_var, pixels.var(1))


def test_precise_bn_is_torchs_cumulative_average_and_the_variance_between_batches(trained):
    batches = [images(4, 3, 32, 32) for _ in range(3)]
    theirs, ours = copy.deepcopy(trained), copy.deepcopy(trained)
    seen = {}
    for name, norm in norms(ours).items():
        norm.register_forward_pre_hook(
            lambda m, args, n=name: seen.setdefault(n, []).append(
                args[0].transpose(0, 1).flatten(1)
            )
        )
    update_bn(batches, theirs)
    assert reestimate(ours, batches) == list(norms(ours))
    for name, norm in norms(ours).items():
        expected = norms(theirs)[name]
        torch.testing.assert_close(norm.running_mean, expected.running_mean)
        between = torch.stack([x.mean(1) for x in seen[name]]).var(0, correction=0)
        count, total = seen[name][0].shape[1], sum(x.shape[1] for x in seen[name])
        biased = expected.running_var * (count - 1) / count + between
        torch.testing.assert_close(norm.running_var, biased * total / (total - 1))


@pytest.mark.parametrize('spec', ['hybrid', 'sn', 'ibn', 'bgn2', 'ghost2', 'syncbn'])
def test_precise_bn_is_what_each_norm_tracks_of_one_batch(spec):
    """A step with momentum 1 on all images as one batch tracks their statistics."""
    batches = [images(2, 4, 6, 6) for _ in range(3)]
    expected, norm = Norm(4, spec, momentum=1.0).double(), Norm(4, spec).double()
    expected(torch.cat(batches))
    assert reestimate(nn.Sequential(norm), batches) == ['0']
    torch.testing.assert_close(norm.running_mean, expected.running_mean)
    if spec != 'ghost2':  # which tracks the variance within its parts of a batch
        torch.testing.assert_close(norm.running_var, expected.running_var)
    others = {k for k, _ in norm.named_buffers()} - {'running_mean', 'running_var'}
    fresh = dict(Norm(4, spec).named_buffers())
    assert all(torch.equal(norm.get_buffer(k), fresh[k].to(norm.get_buffer(k))) for k in others)
    assert norm.training
    assert norm.momentum == 0.1


@pytest.mark.parametrize('spec', ['brn', 'mabn', 'hybrid(brn,ln)'])
def test_norms_that_train_by_their_running_statistics_keep_them(spec):
    norm = Norm(4, spec).double()
    norm.num_batches_tracked.fill_(20_000)
    model, x = nn.Sequential(nn.BatchNorm2d(4).double(), norm), images(2, 4, 6, 6)
    untouched = copy.deepcopy(model)
    assert reestimate(model, [images(2, 4, 6, 6)]) == ['0']
    assert reestimate(norm, [images(2, 4, 6, 6)]) == []
    assert torch.equal(model(x), untouched(x))
    assert all(map(torch.equal, norm.buffers(), untouched[1].buffers()))


@pytest.mark.parametrize('spec', ['brn', 'mabn'])
def test_calibrated_they_evaluate_with_what_they_track_of_the_images(trained, spec):
    x = images(8, 3, 32, 32)
    model = converted(trained, spec)
    calibrate(model, trained, [x])
    expected = Norm(8, spec, momentum=1.0).double()
    expected(model.conv1(x))
    torch.testing.assert_close(model.bn1.running_mean, expected.running_mean)
    torch.testing.assert_close(model.bn1.running_var, expected.running_var)
    assert model.bn1.num_batches_tracked == trained.bn1.num_batches_tracked


def test_precise_bn_in_half_precision():
    norm, batch = Norm(4, 'hybrid').bfloat16(), images(4, 4, 6, 6).bfloat16()
    assert reestimate(norm, [batch]) == ['']
    var, mean = torch.var_mean(batch.double(), (0, 2, 3))
    torch.testing.assert_close(norm.running_mean, mean.bfloat16())
    torch.testing.assert_close(norm.running_var, var.bfloat16())


@pytest.mark.parametrize('spec', ['frn', 'evos0'])
def test_norms_that_are_activations_are_left(trained, spec):
    model = converted(trained, spec)
    record = calibrate(model, trained, [images(2, 3, 32, 32)])
    assert set(record.left) == set(norms(model))
    assert set(record.left.values()) == {'its output is not affine in weight and bias'}


def test_norms_in_evaluation_mode_and_per_sample_norms_keep_their_state(trained):
    trained.layer1.eval()
    convert_norm(trained.layer2, 'ln')
    before = copy.deepcopy(trained.state_dict())
    assert reestimate(trained, [images(4, 3, 32, 32)]) == ['bn1']
    changed = {k for k, v in trained.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {f'bn1.{k}' for k in ('running_mean', 'running_var')}


@pytest.mark.parametrize('norm', ['bn', 'hybrid'])
def test_a_network_in_evaluation_mode_is_warned_of(norm):
    model, x = nn.Sequential(build_norm(norm, 4), nn.ReLU()), images(2, 4, 6, 6).float()
    with pytest.warns(UserWarning, match=r'all 1 norms .* call model.train\(\) before') as warned:
        assert reestimate(model.eval(), [x]) == []
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert reestimate(model.train(), [x]) == ['0']
        assert reestimate(nn.Sequential(build_norm('gn', 4)).eval(), [x]) == []


def _rank(rank: int, file: str, batches: list) -> None:
    dist.init_process_group('gloo', init_method=f'file://{file}', rank=rank, world_size=2)
    norm = Norm(3, 'hybrid').double()
    reestimate(norm, batches[rank::2])
    torch.save(norm.state_dict(), f'{file}.{rank}')
    dist.destroy_process_group()


def test_two_processes_end_with_the_statistics_of_one(tmp_path):
    batches = [images(2, 3, 8, 8) for _ in range(4)]
    mp.start_processes(_rank, (str(tmp_path / 'store'), batches), nprocs=2, start_method='fork')
    alone = Norm(3, 'hybrid').double()
    reestimate(alone, batches)
    for rank in range(2):
        state = torch.load(tmp_path / f'store.{rank}')
        torch.testing.assert_close(state['running_mean'], alone.running_mean)
        torch.testing.assert_close(state['running_var'], alone.running_var)
