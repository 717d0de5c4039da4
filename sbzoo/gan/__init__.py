"""Generative adversarial networks whose norm is an argument."""

import sbzoo.gan.dcgan
import sbzoo.gan.images
import sbzoo.gan.model
import sbzoo.gan.r3gan
import sbzoo.gan.sngan
import sbzoo.gan.stylegan2
import sbzoo.gan.translation
import sbzoo.gan.translators  # noqa: F401
