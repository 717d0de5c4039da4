"""Image-to-image translation: pix2pix of paired, CycleGAN of unpaired images."""

from __future__ import annotations

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from sbzoo.errors import UserError, choose
from sbzoo.gan.losses import LOSSES
from sbzoo.gan.models.base import (
    AdversarialModel,
    Losses,
    as_samples,
    frozen,
    mean,
    shares,
    update,
)

Pair = tuple[Tensor, Tensor, float]  # source and target images, and their share of an update


class Translation(AdversarialModel):
    """A model whose `generator` translates images of a source domain to a target domain."""

    kept = ('source', 'target')  # inputs that a sample keeps beside its translation

    def forward(
        self,
        inputs: dict[str, Tensor],
        data_samples: list[BaseDataElement] | None = None,
        mode: str = 'predict',
    ) -> list[BaseDataElement]:
        """Translate `inputs['source']`; the samples hold the inputs and the translations."""
        given = {f'{name}_img': inputs[name] for name in self.kept}
        return as_samples(self.translate(inputs['source']), **given)

    def pairs(self, data: dict | list[dict]) -> list[Pair]:
        """The micro-batches of an update."""
        inputs = [batch['inputs'] for batch in self.window(data)]
        sizes = [len(images['source']) for images in inputs]
        images = zip(inputs, shares(sizes), strict=True)
        return [(each['source'], each['target'], share) for each, share in images]

    @torch.no_grad()
    def translate(self, images: Tensor) -> Tensor:
        """Translate images [N, 3, H, W] in [-1, 1]."""
        return self.generator.eval()(images)


@MODELS.register_module()
class Pix2Pix(Translation):
    """pix2pix: translation of paired images (Isola et al. 2017, arXiv 1611.07004).

    Args:
        generator: Config of a network from source [N, 3, H, W] to target [N, 3, H, W].
        discriminator: Config of a network from both, concatenated to [N, 6, H, W], to logits.
        loss: One of `sbzoo.gan.losses.LOSSES`.
        l1_weight: Weight of the L1 loss to the target.
    """

    def __init__(
        self,
        generator: dict,
        discriminator: dict,
        loss: str = 'non-saturating',
        l1_weight: float = 100.0,
    ) -> None:
        super().__init__()
        self.generator = MODELS.build(generator)
        self.discriminator = MODELS.build(discriminator)
        self.loss = choose('loss', loss, LOSSES)
        self.l1_weight = l1_weight

    def train_step(self, data: dict | list[dict], optim_wrapper: OptimWrapperDict) -> Losses:
        """A step of the discriminator, then one of the generator, on the same translations.

        Of several micro-batches, the generator translates each a second time for its own step, as
        the graphs of all would need the memory of the whole batch.
        """
        pairs = self.pairs(data)
        wrapper, at_once = optim_wrapper['generator'], len(pairs) == 1
        with wrapper.optim_context(self.generator), torch.set_grad_enabled(at_once):
            fakes = [self.generator(source) for source, _, _ in pairs]
        log = self._train_discriminator(pairs, fakes, optim_wrapper['discriminator'])
        logs = []
        for (source, target, share), fake in zip(pairs, fakes, strict=True):
            with wrapper.optim_context(self.generator), frozen(self.discriminator):
                losses = self._losses(source, target, fake if at_once else self.generator(source))
            logs.append(update(losses, wrapper, share))
        return log | mean(logs)

    def _losses(self, source: Tensor, target: Tensor, fake: Tensor) -> Losses:
        fake_logits = self._discriminate(source, fake)
        real_logits = self._discriminate(source, target) if self.loss.paired else None
        return dict(
            loss_g=self.loss.generator(fake_logits, real_logits),
            loss_l1=self.l1_weight * l1_loss(fake, target),
        )

    def _train_discriminator(
        self, pairs: list[Pair], fakes: list[Tensor], wrapper: OptimWrapper
    ) -> Losses:
        logs = []
        for (source, target, share), fake in zip(pairs, fakes, strict=True):
            with wrapper.optim_context(self.discriminator):
                logits = [self._discriminate(source, x) for x in (target, fake.detach())]
                losses = dict(loss_d=self.loss.discriminator(*logits))
            logs.append(update(losses, wrapper, share))
        return mean(logs)

    def _discriminate(self, source: Tensor, images: Tensor) -> Tensor:
        return self.discriminator(torch.cat([source, images], dim=1))


class ImagePool(nn.Module):
    """Image pool (history buffer) of a generator (Shrivastava et al. 2017, arXiv 1612.07828).

    With probability 0.5 an image is replaced by an older one and stored in its place. The pool is
    part of the checkpoint, so that a run resumes exactly.

    Args:
        size: How many images; 0 returns all as they are.
        image_size: Their side in pixels.
    """

    def __init__(self, size: int, image_size: int) -> None:
        super().__init__()
        self.register_buffer('images', torch.zeros(size, 3, image_size, image_size))
        self.register_buffer('filled', torch.tensor(0))

    def forward(self, images: Tensor) -> Tensor:
        """Put in images [N, 3, H, W] and take out as many."""
        return torch.stack([self._exchange(image) for image in images])

    def _exchange(self, image: Tensor) -> Tensor:
        if self.filled < len(self.images):
            self.images[self.filled] = image
            self.filled += 1
            return image
        if not len(self.images) or torch.rand(()) < 0.5:
            return image
        index = int(torch.randint(len(self.images), ()))
        older = self.images[index].clone()
        self.images[index] = image
        return older


@MODELS.register_module()
class CycleGAN(Translation):
    """CycleGAN: unpaired translation between two domains (Zhu et al. 2017, arXiv 1703.10593).

    `generator` and `discriminator` are those of the target domain, `inverse` and
    `inverse_discriminator` those of the source domain.

    Args:
        generator: Config of both generators.
        discriminator: Config of both discriminators.
        image_size: Side of the images in pixels.
        loss: A row of `sbzoo.gan.losses.LOSSES` that needs no pairs.
        cycle_weight: Weight of the cycle consistency loss (L1).
        identity_weight: Weight of the identity loss (L1); half of `cycle_weight` in the paper.
        pool_size: Images in the pool of each discriminator.

    Raises:
        UserError: Unknown or paired loss.
    """

    kept = ('source',)  # the target is unpaired

    def __init__(
        self,
        generator: dict,
        discriminator: dict,
        image_size: int,
        loss: str = 'least-squares',
        cycle_weight: float = 10.0,
        identity_weight: float = 5.0,
        pool_size: int = 50,
    ) -> None:
        super().__init__()
        self.loss = choose('loss', loss, LOSSES)
        if self.loss.paired:
            raise UserError(
                f'CycleGAN: loss={loss!r} compares a fake with its real, and has no pairs'
            )
        self.generator, self.inverse = MODELS.build(generator), MODELS.build(generator)
        self.discriminator = MODELS.build(discriminator)
        self.inverse_discriminator = MODELS.build(discriminator)
        self.pool, self.inverse_pool = (ImagePool(pool_size, image_size) for _ in range(2))
        self.cycle_weight, self.identity_weight = cycle_weight, identity_weight

    def networks(self) -> dict[str, nn.Module]:
        """Both generators share an optimizer, and so do both discriminators."""
        return dict(
            generator=nn.ModuleList([self.generator, self.inverse]),
            discriminator=nn.ModuleList([self.discriminator, self.inverse_discriminator]),
        )

    def train_step(self, data: dict | list[dict], optim_wrapper: OptimWrapperDict) -> Losses:
        """A step of both generators, then one of both discriminators."""
        pairs, wrapper = self.pairs(data), optim_wrapper['generator']
        logs, fakes = [], []
        for source, target, share in pairs:
            with (
                wrapper.optim_context(self.generator),
                frozen(self.discriminator, self.inverse_discriminator),
            ):
                both = self.generator(source), self.inverse(target)
                losses = self._generator_losses(source, target, *both)
            logs.append(update(losses, wrapper, share))
            fakes.append([fake.detach() for fake in both])
        log = self._train_discriminators(pairs, self._exchanged(fakes), optim_wrapper)
        return mean(logs) | log

    def _exchanged(self, fakes: list[list[Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """What the pools give for the translations of all micro-batches, as if they were one."""
        sizes = [len(fake) for fake, _ in fakes]
        pools = self.pool, self.inverse_pool
        domains = zip(pools, zip(*fakes, strict=True), strict=True)
        given = [pool(torch.cat(images)).split(sizes) for pool, images in domains]
        return list(zip(*given, strict=True))

    def _generator_losses(
        self, source: Tensor, target: Tensor, fake: Tensor, inverse_fake: Tensor
    ) -> Losses:
        adversarial = self.loss.generator(self.discriminator(fake), None)
        inverse = self.loss.generator(self.inverse_discriminator(inverse_fake), None)
        cycle = l1_loss(self.inverse(fake), source) + l1_loss(self.generator(inverse_fake), target)
        losses = dict(loss_g=adversarial + inverse, loss_cycle=self.cycle_weight * cycle)
        if self.identity_weight:
            same = l1_loss(self.generator(target), target) + l1_loss(self.inverse(source), source)
            losses['loss_identity'] = self.identity_weight * same
        return losses

    def _train_discriminators(
        self,
        pairs: list[Pair],
        fakes: list[tuple[Tensor, Tensor]],
        optim_wrapper: OptimWrapperDict,
    ) -> Losses:
        wrapper, logs = optim_wrapper['discriminator'], []
        nets = self.discriminator, self.inverse_discriminator
        for (source, target, share), fake in zip(pairs, fakes, strict=True):
            with wrapper.optim_context(self.discriminator):
                both = [
                    self.loss.discriminator(net(real), net(image))
                    for net, real, image in zip(nets, (target, source), fake, strict=True)
                ]
                losses = dict(loss_d=sum(both) / 2)  # to slow them down, as published
            logs.append(update(losses, wrapper, share))
        return mean(logs)
