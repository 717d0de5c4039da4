"""Generative adversarial networks whose norm is an argument."""

import sbzoo.gan.images
import sbzoo.gan.model
import sbzoo.gan.translation  # noqa: F401
