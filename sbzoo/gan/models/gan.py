"""Generative adversarial network on mmengine's Runner: noise to images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.dist import get_world_size
from mmengine.logging import MessageHub
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from sbzoo.errors import choose
from sbzoo.gan.diff_augment import diff_augment
from sbzoo.gan.ema import RampUpEMA
from sbzoo.gan.gradient_penalties import LazyPenalty
from sbzoo.gan.losses import LOSSES
from sbzoo.gan.models.base import AdversarialModel, Losses, as_samples, frozen, update


@MODELS.register_module()
class GAN(AdversarialModel):
    """Generative adversarial network (Goodfellow et al. 2014, arXiv 1406.2661).

    An iteration of the Runner is one step of the discriminator; every `discriminator_steps`-th
    iteration the generator takes one too. The batch size of both is that of the data loader, and
    gradients are accumulated over the `accumulative_counts` of their optimizer wrappers.

    Args:
        generator: Config of the generator, noise [N, noise_size] -> images [N, 3, S, S].
        discriminator: Config of the discriminator, images -> logits [N].
        loss: One of `sbzoo.gan.losses.LOSSES`.
        penalties: Arguments of `LazyPenalty`: `type`, `weight` and `interval`.
        augment: DiffAugment policy for all that the discriminator sees; '' for none.
        ema: Arguments of `RampUpEMA`; None samples from the generator itself.
        discriminator_steps: Steps of the discriminator per step of the generator.

    Raises:
        UserError: Unknown loss, penalty or augmentation, or a value out of its range.
    """

    def __init__(
        self,
        generator: dict,
        discriminator: dict,
        loss: str = 'hinge',
        penalties: Sequence[dict] = (),
        augment: str = '',
        ema: dict | None = None,
        discriminator_steps: int = 1,
    ) -> None:
        super().__init__()
        self.generator = MODELS.build(generator)
        self.discriminator = MODELS.build(discriminator)
        self.loss = choose('loss', loss, LOSSES)
        self.penalties = [LazyPenalty(**penalty) for penalty in penalties]
        self.augment = diff_augment(augment)
        if ema is not None:
            self.generator_ema = RampUpEMA(self.generator, **ema)
        self.discriminator_steps = discriminator_steps

    @property
    def sampler(self) -> nn.Module:
        """The generator that samples: its EMA, if there is one."""
        if hasattr(self, 'generator_ema'):
            return self.generator_ema.module
        return _unwrapped(self.generator)

    def steps(self, network: str, start: int, stop: int) -> int:
        """The generator takes fewer; see `discriminator_steps`."""
        every = self.discriminator_steps if network == 'generator' else 1
        return stop // every - start // every

    def train_step(self, data: dict, optim_wrapper: OptimWrapperDict) -> Losses:
        """A step of the discriminator and, every `discriminator_steps`-th time, of the generator.

        Args:
            data: `inputs` are real images, `data_samples` their labels if the model is conditional.
            optim_wrapper: The wrappers of generator and discriminator.

        Returns:
            The losses, for the log.
        """
        step = MessageHub.get_current_instance().get_info('iter', 0)
        data = self.data_preprocessor(data, True)
        real, labels = data['inputs'], self._labels(data['data_samples'])
        log = self._train_discriminator(real, labels, optim_wrapper['discriminator'], step)
        if (step + 1) % self.discriminator_steps == 0:
            log |= self._train_generator(real, labels, optim_wrapper['generator'])
        return log

    def _train_discriminator(
        self, real: Tensor, labels: Tensor | None, wrapper: OptimWrapper, step: int
    ) -> Losses:
        with wrapper.optim_context(self.discriminator):
            with torch.no_grad():
                fake = self._generate(len(real), labels)
            logits = [self._discriminate(images, labels) for images in (real, fake)]
            losses = dict(loss_d=self.loss.discriminator(*logits))
            losses |= self._penalise(real, fake, labels, step)
        real_mean, fake_mean = (x.detach().mean() for x in logits)
        return update(losses, wrapper) | dict(D_real=real_mean, D_fake=fake_mean)

    def _penalise(self, real: Tensor, fake: Tensor, labels: Tensor | None, step: int) -> Losses:
        def discriminate(images: Tensor) -> Tensor:
            return self._discriminate(images, labels)

        return {
            f'loss_{p.type}': p(discriminate, real, fake)
            for p in self.penalties
            if step % p.interval == 0
        }

    def _train_generator(
        self, real: Tensor, labels: Tensor | None, wrapper: OptimWrapper
    ) -> Losses:
        with wrapper.optim_context(self.generator), frozen(self.discriminator):
            real_logits = None
            if self.loss.paired:
                with torch.no_grad():
                    real_logits = self._discriminate(real, labels)
            fake_logits = self._discriminate(self._generate(len(real), labels), labels)
            losses = dict(loss_g=self.loss.generator(fake_logits, real_logits))
        log = update(losses, wrapper)
        if hasattr(self, 'generator_ema'):
            self.generator_ema.update(_unwrapped(self.generator), len(real) * get_world_size())
        return log

    def _generate(self, num: int, labels: Tensor | None) -> Tensor:
        device = self.data_preprocessor.device
        noise = torch.randn(num, _unwrapped(self.generator).noise_size, device=device)
        return self.generator(noise, labels)

    def _discriminate(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return self.discriminator(self.augment(images), labels)

    def _labels(self, data_samples: list[BaseDataElement] | None) -> Tensor | None:
        if not self.sampler.num_classes:
            return None
        labels = [sample.gt_label for sample in data_samples]
        return torch.tensor(labels, device=self.data_preprocessor.device)

    def forward(
        self, inputs: dict, data_samples: list[BaseDataElement] | None, mode: str = 'predict'
    ) -> list[BaseDataElement]:
        """Sample an image for each of `inputs['seed']`; see `sample`."""
        images = self.sample(inputs['seed'], self._labels(data_samples))
        return as_samples(images)

    @torch.no_grad()
    def sample(
        self, seeds: Sequence[int], labels: Tensor | None = None, **options: float
    ) -> Tensor:
        """Sample images [N, 3, S, S] in [-1, 1], each from the noise of its own seed.

        So an image depends neither on its batch nor on the device.

        Args:
            seeds: N seeds.
            labels: [N], of a conditional generator; on any device.
            options: Further arguments of the generator, such as `truncation`.
        """
        sampler, noise = self.sampler.eval(), self.noise(seeds)
        return sampler(noise, None if labels is None else labels.to(noise.device), **options)

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """The noise [N, noise_size] of the seeds."""
        size = self.sampler.noise_size
        rows = [torch.randn(size, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack(rows).to(self.data_preprocessor.device)


def _unwrapped(module: nn.Module) -> nn.Module:
    """A network without its distributed wrapper."""
    return module.module if is_model_wrapper(module) else module
