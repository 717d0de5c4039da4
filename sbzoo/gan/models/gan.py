"""Generative adversarial network on mmengine's Runner: noise to images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from sbzoo.errors import UserError, choose
from sbzoo.gan.diff_augment import diff_augment
from sbzoo.gan.ema import RampUpEMA
from sbzoo.gan.gradient_penalties import LazyPenalty
from sbzoo.gan.losses import LOSSES
from sbzoo.gan.models.base import (
    AdversarialModel,
    Losses,
    as_samples,
    frozen,
    mean,
    shares,
    update,
    without_wrapper,
)
from sbzoo.gan.path_length import PathLengthPenalty

SEEDS = 2**32  # of the noise of an image
Batch = tuple[Tensor, Tensor | None]  # real images, and their labels if the model is conditional


@MODELS.register_module()
class GAN(AdversarialModel):
    """Generative adversarial network (Goodfellow et al. 2014, arXiv 1406.2661).

    An iteration of the Runner is one step of the discriminator; every `discriminator_steps`-th
    iteration the generator takes one too. The batch size of both is that of the data loader, times
    the micro-batches over which gradients are accumulated: all of the discriminator come first, so
    that those of the generator meet it after its step.

    Args:
        generator: Config of the generator, noise [N, noise_size] -> images [N, 3, S, S].
        discriminator: Config of the discriminator, images -> logits [N].
        loss: One of `sbzoo.gan.losses.LOSSES`.
        penalties: Arguments of `LazyPenalty`: `type`, `weight` and `interval`.
        augment: DiffAugment policy for all that the discriminator sees; '' for none.
        ema: Arguments of `RampUpEMA`; None samples from the generator itself.
        discriminator_steps: Steps of the discriminator per step of the generator.
        path_length: Arguments of `PathLengthPenalty`, for a generator with styles; None is without.

    Raises:
        UserError: Unknown loss, penalty or augmentation, a value out of its range, or a generator
            without the styles that a penalty is on.
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
        path_length: dict | None = None,
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
        if path_length is not None and not hasattr(self.generator, 'styles'):
            kind = type(self.generator).__name__
            raise UserError(f'path_length: {kind} has no styles; StyleGAN2Generator has')
        self.path_length = None if path_length is None else PathLengthPenalty(**path_length)

    @property
    def sampler(self) -> nn.Module:
        """The generator that samples: its EMA, if there is one."""
        if hasattr(self, 'generator_ema'):
            return self.generator_ema.module
        return without_wrapper(self.generator)

    def train_step(self, data: dict | list[dict], optim_wrapper: OptimWrapperDict) -> Losses:
        """A step of the discriminator and, every `discriminator_steps`-th time, of the generator.

        Args:
            data: A batch, or the micro-batches of an update. `inputs` are real images,
                `data_samples` their labels if the model is conditional.
            optim_wrapper: The wrappers of generator and discriminator.

        Returns:
            The losses, for the log.
        """
        step = MessageHub.get_current_instance().get_info('iter', 0)
        batches = [
            (batch['inputs'], self._labels(batch['data_samples'])) for batch in self.window(data)
        ]
        log = self._train_discriminator(batches, optim_wrapper['discriminator'], step)
        if (step + 1) % self.discriminator_steps == 0:
            step //= self.discriminator_steps
            log |= self._train_generator(batches, optim_wrapper['generator'], step)
        return log

    def _train_discriminator(
        self, batches: list[Batch], wrapper: OptimWrapper, step: int
    ) -> Losses:
        logs = []
        for (real, labels), noise, share in self._with_noise(batches):
            with wrapper.optim_context(self.discriminator):
                with torch.no_grad():
                    fake = self.generator(noise, labels)
                logits = [self._discriminate(images, labels) for images in (real, fake)]
                losses = dict(loss_d=self.loss.discriminator(*logits))
                losses |= self._penalise(real, fake, labels, step)
            real_mean, fake_mean = (x.detach().mean() for x in logits)
            means = dict(D_real=real_mean, D_fake=fake_mean)
            logs.append(update(losses, wrapper, share) | means)
        return mean(logs)

    def _penalise(self, real: Tensor, fake: Tensor, labels: Tensor | None, step: int) -> Losses:
        def discriminate(images: Tensor) -> Tensor:
            return self._discriminate(images, labels)

        return {
            f'loss_{p.type}': p(discriminate, real, fake)
            for p in self.penalties
            if step % p.interval == 0
        }

    def _train_generator(self, batches: list[Batch], wrapper: OptimWrapper, step: int) -> Losses:
        logs = []
        for (real, labels), noise, share in self._with_noise(batches):
            with wrapper.optim_context(self.generator), frozen(self.discriminator):
                real_logits = None
                if self.loss.paired:
                    with torch.no_grad():
                        real_logits = self._discriminate(real, labels)
                fake, losses = self._generate(noise, labels, step)
                fake_logits = self._discriminate(fake, labels)
                losses['loss_g'] = self.loss.generator(fake_logits, real_logits)
            logs.append(update(losses, wrapper, share))
        if hasattr(self, 'generator_ema'):
            images = sum(len(real) for real, _ in batches) * get_world_size()
            self.generator_ema.update(without_wrapper(self.generator), images)
        return mean(logs)

    def _generate(self, noise: Tensor, labels: Tensor | None, step: int) -> tuple[Tensor, Losses]:
        """Images to train the generator on, and the penalty on the way from styles to them."""
        if self.path_length is None or step % self.path_length.interval:
            return self.generator(noise, labels), {}
        images, styles = self.generator(noise, labels, return_styles=True)
        return images, dict(loss_path_length=self.path_length(images, styles))

    def _with_noise(self, batches: list[Batch]) -> Iterator[tuple[Batch, Tensor, float]]:
        """Micro-batches, each with its noise, drawn as for one batch of them all, and its share."""
        sizes = [len(real) for real, _ in batches]
        size, device = without_wrapper(self.generator).noise_size, self.data_preprocessor.device
        noise = torch.randn(sum(sizes), size, device=device).split(sizes)
        return _alike(zip(batches, noise, shares(sizes), strict=True), self)

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
        """The noise [N, noise_size] of the seeds.

        Raises:
            UserError: One is not of 32 bits, of which torch's generator would take the lower ones.
        """
        size = self.sampler.noise_size
        if wrong := [s for s in seeds if not 0 <= s < SEEDS]:
            raise UserError(f'seed {wrong[0]}: those of images can be 0 to {SEEDS - 1}')
        rows = [torch.randn(size, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack(rows).to(self.data_preprocessor.device)


def _alike(micro_batches: Iterable[Any], model: nn.Module) -> Iterator[Any]:
    """Let spectral norm's power iteration begin each micro-batch where it began the first.

    So it moves in an update as it would on one batch, and all are of the same weights.
    """
    vectors = [b for m in model.modules() if isinstance(m, _SpectralNorm) for b in m.buffers()]
    first = [vector.clone() for vector in vectors]
    for micro_batch in micro_batches:
        for vector, value in zip(vectors, first, strict=True):
            vector.copy_(value)
        yield micro_batch
