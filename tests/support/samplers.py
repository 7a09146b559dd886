"""The samplers that reverie offers."""

from inspect import isclass

from reverie import samplers

NAMES = {
    name
    for name in samplers.__all__
    if isclass(offered := getattr(samplers, name)) and issubclass(offered, samplers.Sampler)
} - {"Sampler"}
