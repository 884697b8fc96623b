"""The mathematics of masked diffusion: masks, sampler, likelihoods; no model class."""
