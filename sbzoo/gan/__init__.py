"""Generative adversarial networks (GANs) whose normalization layers are an argument."""

import sbzoo.gan.models.gan
import sbzoo.gan.models.image_to_image
import sbzoo.gan.networks.dcgan
import sbzoo.gan.networks.image_to_image
import sbzoo.gan.networks.r3gan
import sbzoo.gan.networks.sngan
import sbzoo.gan.networks.stylegan2
import sbzoo.gan.preprocessor  # noqa: F401
